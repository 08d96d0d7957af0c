package e2e_test

import (
	"math"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/pg"
	"sluice/pkg/testkit"
)

// The metrics of work in hand and of trouble move: while PostgreSQL makes a
// batch wait, while it is away, and when an acknowledgement is lost.
func TestMetricsOfTroubleMove(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t)
	dbURL, schema := testkit.Postgres(t)
	s := suiteOn(t, redis.URL, "", dbURL, schema)
	cfg := s.config("one")
	through := func(address string) (string, *cutter) {
		u, err := url.Parse(address)
		require.NoError(t, err)
		c := newCutter(t, u.Host)
		u.Host = c.addr
		return u.String(), c
	}
	var database, acks *cutter
	cfg.DatabaseURL, database = through(dbURL)
	cfg.RedisURL, acks = through(redis.URL)
	in := s.start(cfg)
	raw, err := testkit.RedisClient(redis.URL)
	require.NoError(t, err)
	t.Cleanup(raw.Close)
	command := func(args ...string) {
		require.NoError(t, raw.Do(t.Context(), raw.B().Arbitrary(args...).Build()).Error())
	}
	eventually := func(what string, cond func() bool) {
		require.Eventually(t, cond, 30*time.Second, 10*time.Millisecond, what)
	}
	pool, err := pg.Open(t.Context(), pg.Config{URL: dbURL, MaxConns: 1})
	require.NoError(t, err)
	defer pool.Close()
	// Everybody who wants to write a record waits for this transaction.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE "+s.table("record")+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	for _, name := range []string{"indexer_pending_messages", "indexer_active_tasks", "indexer_unexpected_errors_total", "indexer_ack_failures_total"} {
		require.Zero(t, in.sum(t, name), name)
	}

	s.send("firehose_live", event.JSON, history(t).events...)
	eventually("a batch waits", func() bool {
		return in.sum(t, "indexer_pending_messages") > 0 && in.sum(t, "indexer_active_tasks") > 0
	})
	eventually("PostgreSQL is away", func() bool {
		database.cut(math.MaxInt)
		return in.sum(t, "indexer_unexpected_errors_total") > 0
	})
	command("CLIENT", "PAUSE", "60000", "WRITE")
	require.NoError(t, tx.Rollback(t.Context()))
	eventually("an acknowledgement is lost", func() bool {
		acks.cut(math.MaxInt)
		return in.sum(t, "indexer_ack_failures_total") > 0
	})
	command("CLIENT", "UNPAUSE")
	s.wait(in)
	eventually("everything is done", func() bool {
		return in.sum(t, "indexer_pending_messages") == 0 && in.sum(t, "indexer_active_tasks") == 0
	})
}
