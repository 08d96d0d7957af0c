package testkit_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/testkit"
)

func TestPostgresAnswers(t *testing.T) {
	t.Parallel()
	url, schema := testkit.Postgres(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "CREATE SCHEMA "+schema); err != nil {
		t.Fatal(err)
	}
}

func TestRedisAnswers(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := testkit.RedisClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(t.Context(), c.B().Set().Key(prefix+"k").Value("v").Build()).Error(); err != nil {
		t.Fatal(err)
	}
}
