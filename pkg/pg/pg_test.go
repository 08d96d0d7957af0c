package pg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/pkg/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("sluice/pkg/testkit.startPinned.func1"))
}

func show(t *testing.T, cfg pg.Config, name string) string {
	t.Helper()
	pool, err := pg.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer pool.Close()
	var v string
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&v))
	return v
}

func with(url, param string) string { return url + "&" + param }

func TestSessionSettings(t *testing.T) {
	t.Parallel()
	url, schema := testkit.Postgres(t)
	require.Equal(t, `"`+schema+`"`, `"`+strings.Trim(show(t, pg.Config{URL: url, Schema: schema}, "search_path"), `"`)+`"`)
	require.Equal(t, "other", show(t, pg.Config{URL: with(url, "search_path=other"), Schema: schema}, "search_path"))
	require.Equal(t, "other", show(t, pg.Config{URL: with(url, "options=-csearch_path%3Dother"), Schema: schema}, "search_path"))
	require.Equal(t, "7s", show(t, pg.Config{URL: url, StatementTimeout: 7 * time.Second}, "statement_timeout"))
	require.Equal(t, "3s", show(t, pg.Config{URL: with(url, "options=-c%20statement_timeout%3D3s")}, "statement_timeout"))
	require.Equal(t, "10s", show(t, pg.Config{URL: url}, "lock_timeout"))
	require.Equal(t, "sluice-test", show(t, pg.Config{URL: url, AppName: "sluice-test"}, "application_name"))
	require.Equal(t, "0", show(t, pg.Config{URL: url, Pooler: true}, "statement_timeout"), "nothing is set on a pooled session")
}

func TestPoolSizesComeFromTheURLFirst(t *testing.T) {
	t.Parallel()
	c, err := pg.PoolConfig(pg.Config{URL: "postgres://h/db", MaxConns: 7, MinIdle: 9})
	require.NoError(t, err)
	require.Equal(t, []int32{7, 7}, []int32{c.MaxConns, c.MinIdleConns})
	c, err = pg.PoolConfig(pg.Config{URL: "postgres://h/db?pool_max_conns=3"})
	require.NoError(t, err)
	require.Equal(t, int32(3), c.MaxConns)
}

func TestPoolerPreparesNothing(t *testing.T) {
	t.Parallel()
	for _, cfg := range []pg.Config{{URL: "postgres://h/db", Pooler: true}, {URL: "postgres://h/db?default_query_exec_mode=exec"}} {
		c, err := pg.PoolConfig(cfg)
		require.NoError(t, err)
		require.Equal(t, pgx.QueryExecModeExec, c.ConnConfig.DefaultQueryExecMode)
		require.Empty(t, c.ConnConfig.RuntimeParams["statement_timeout"])
		require.Zero(t, c.ConnConfig.StatementCacheCapacity)
	}
	url, _ := testkit.Postgres(t)
	pool, err := pg.Open(t.Context(), pg.Config{URL: url, Pooler: true, MaxConns: 1})
	require.NoError(t, err)
	defer pool.Close()
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM unnest($1::text[])", []string{"a", "b"}).Scan(&n))
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&n))
	require.Zero(t, n)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), pg.LocalTimeouts(pg.Config{StatementTimeout: time.Second}), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestOpenNamesTheSettingAndHidesThePassword(t *testing.T) {
	t.Parallel()
	_, err := pg.Open(t.Context(), pg.Config{URL: "postgres://u:hunter2@h:notaport/db"})
	require.ErrorContains(t, err, "DATABASE_URL=")
	require.NotContains(t, err.Error(), "hunter2")
	require.Equal(t, fault.Fatal, fault.ClassOf(err))

	url, _ := testkit.Postgres(t)
	missing := strings.Replace(url, "/postgres?", "/nosuchdb?", 1)
	_, err = pg.Open(t.Context(), pg.Config{URL: missing})
	require.ErrorContains(t, err, "nosuchdb")
	require.Equal(t, fault.Fatal, fault.ClassOf(err), "a missing database is not waited for")
	require.Equal(t, "host=h password=xxxxx user=u", pg.Redact("host=h password='hunter 2' user=u"))
}

func TestOpenWaitsForAServerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	var buf safeBuffer
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	url := fmt.Sprintf("postgres://u:hunter2@127.0.0.1:%d/db", testkit.FreePort(t))
	_, err := pg.Open(ctx, pg.Config{URL: url, Log: slog.New(slog.NewTextHandler(&buf, nil))})
	require.Error(t, err)
	require.Contains(t, buf.String(), "waiting for PostgreSQL")
	require.NotContains(t, buf.String(), "hunter2")
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]fault.Class{
		"08006": fault.Transient, "40001": fault.Transient, "40P01": fault.Transient, "53200": fault.Transient, "53100": fault.Transient,
		"57P01": fault.Transient, "57P03": fault.Transient, "57014": fault.Transient, "55P03": fault.Transient, "25006": fault.Transient, "XX000": fault.Transient,
		"22P05": fault.Permanent, "22021": fault.Permanent, "23505": fault.Permanent, "54000": fault.Permanent, "21000": fault.Permanent,
		"42P01": fault.Fatal, "42501": fault.Fatal, "28P01": fault.Fatal, "3D000": fault.Fatal, "42P05": fault.Transient, "": fault.Transient,
	} {
		require.Equal(t, want, pg.ClassOf(state), state)
		require.Equal(t, want, fault.ClassOf(pg.Classify(fmt.Errorf("apply: %w", &pgconn.PgError{Code: state}))), state)
	}
	require.NoError(t, pg.Classify(nil))
	require.Equal(t, fault.Transient, fault.ClassOf(pg.Classify(errors.New("connection reset"))))
	require.Equal(t, fault.Fatal, fault.ClassOf(pg.Classify(fault.Fatalf("x: %w", &pgconn.PgError{Code: "23505"}))), "a class that was decided stays")
}

func TestClassifyOnARealServer(t *testing.T) {
	t.Parallel()
	url, _ := testkit.Postgres(t)
	pool, err := pg.Open(t.Context(), pg.Config{URL: url, StatementTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	defer pool.Close()
	for sql, want := range map[string]fault.Class{
		"SELECT 1/0":                          fault.Permanent,
		"SELECT * FROM nosuchtable":           fault.Fatal,
		"SELECT pg_sleep(5)":                  fault.Transient,
		`SELECT '{"a":"\u0000"}'::jsonb`:      fault.Permanent,
		"SELECT convert_from('\\xff','UTF8')": fault.Permanent,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.Error(t, err, sql)
		require.Equal(t, want, fault.ClassOf(pg.Classify(err)), sql)
		require.Len(t, pg.State(err), 5)
	}
}

func TestElsewhere(t *testing.T) {
	t.Parallel()
	server := testkit.StartPostgres(t, "max_connections=4", "superuser_reserved_connections=0")
	var held []*pgxpool.Pool
	var err error
	for range 5 {
		var pool *pgxpool.Pool
		if pool, err = pgxpool.New(t.Context(), server.URL); err != nil {
			break
		}
		held = append(held, pool)
		if err = pool.Ping(t.Context()); err != nil {
			break
		}
	}
	require.Equal(t, "53300", pg.State(err))
	require.True(t, pg.Elsewhere(fmt.Errorf("begin: %w", err)))
	_, err = held[0].Exec(t.Context(), "SET statement_timeout = 1; SELECT pg_sleep(1)")
	require.Equal(t, "57014", pg.State(err))
	require.False(t, pg.Elsewhere(err))
	_, err = held[1].Exec(t.Context(), "SELECT 1/0")
	require.False(t, pg.Elsewhere(err))
	for _, pool := range held {
		pool.Close()
	}
	server.Kill()
	_, err = pgx.Connect(t.Context(), server.URL)
	require.True(t, pg.Elsewhere(err))
	for code, want := range map[string]bool{"53200": false, "53100": true, "40P01": true, "40002": false, "40001": true, "57P02": false, "57P01": true, "23505": false, "": false} {
		require.Equal(t, want, pg.Elsewhere(&pgconn.PgError{Code: code}), code)
	}
}

func TestPoolMetrics(t *testing.T) {
	t.Parallel()
	url, _ := testkit.Postgres(t)
	pool, err := pg.Open(t.Context(), pg.Config{URL: url, MaxConns: 2})
	require.NoError(t, err)
	defer pool.Close()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(pg.NewCollector("main", pool)))
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP sluice_pg_connections_max Most connections the pool may open (DB_POOL_MAX_SIZE).
# TYPE sluice_pg_connections_max gauge
sluice_pg_connections_max{pool="main"} 2
`), "sluice_pg_connections_max"))
	text, err := testutil.CollectAndFormat(pg.NewCollector("main", pool), expfmt.TypeTextPlain, "sluice_pg_connections")
	require.NoError(t, err)
	require.Contains(t, string(text), `sluice_pg_connections{pool="main",state="in_use"} 1`)
	conn.Release()
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestMigrateOnceFromManyProcesses(t *testing.T) {
	t.Parallel()
	url, schema := testkit.Postgres(t)
	m := pg.Migrations{Schema: schema, Files: fstest.MapFS{
		"00001_a.sql": {Data: []byte("-- +goose Up\nCREATE TABLE a (id int);\n")},
		"00002_b.sql": {Data: []byte("-- +goose Up\nINSERT INTO a VALUES (1);\n")},
	}}
	var wg sync.WaitGroup
	applied := make([]int, 4)
	for i := range applied {
		wg.Go(func() {
			n, err := pg.Migrate(t.Context(), pg.Config{URL: url}, m)
			if err != nil {
				t.Errorf("migrate: %v", err)
			}
			applied[i] = n
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range applied {
		sum += n
	}
	require.Equal(t, 2, sum, "each file is applied once")
	left, err := pg.MigrationsPending(t.Context(), pg.Config{URL: url}, m)
	require.NoError(t, err)
	require.Zero(t, left)
	m.Files = fstest.MapFS{
		"00001_a.sql": {Data: []byte("-- +goose Up\nSELECT 1;\n")}, "00002_b.sql": {Data: []byte("-- +goose Up\nSELECT 1;\n")},
		"00003_c.sql": {Data: []byte("-- +goose Up\nSELECT nonsense;\n")},
	}
	_, err = pg.Migrate(t.Context(), pg.Config{URL: url}, m)
	require.ErrorContains(t, err, "00003_c.sql")
	require.Equal(t, fault.Fatal, fault.ClassOf(err))
}
