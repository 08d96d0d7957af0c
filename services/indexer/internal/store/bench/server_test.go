package bench

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"sluice/pkg/lexicon"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

// schema is that of the AppView in every database.
const schema = "bsky"

// server is a PostgreSQL with the settings of production. Its template holds
// the history that every turn starts from.
type server struct {
	admin *pgxpool.Pool
	url   string
	pid   int
	made  int
}

// startServer starts one; -server names one that runs already. What is not
// measured uses that of the other tests.
func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{url: *serverURL}
	switch {
	case !*measure:
		s.url, _ = testkit.Postgres(t)
	case s.url == "":
		debug.SetGCPercent(400) // as the indexer does
		s.url = testkit.StartPostgres(t, productionSettings(t)...).URL
	}
	s.admin = openPool(t, s.url)
	var data string
	require.NoError(t, s.admin.QueryRow(t.Context(), "SHOW data_directory").Scan(&data))
	if f, err := os.Open(filepath.Join(data, "postmaster.pid")); err == nil {
		line, _ := bufio.NewReader(f).ReadString('\n')
		s.pid, _ = strconv.Atoi(strings.TrimSpace(line))
		_ = f.Close()
	}
	return s
}

// productionSettings are those that deploy/postgres ships, as far as they are
// about work; commits wait for the disk.
func productionSettings(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "deploy", "postgres", "postgresql.conf"))
	require.NoError(t, err)
	out := []string{"fsync=on"}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), "'")
		if ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, "log_") && name != "listen_addresses" && name != "password_encryption" {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// workbench is a database of one turn.
type workbench struct {
	pool  *pgxpool.Pool
	store *store.Store
	reg   *prometheus.Registry
}

// database makes a copy of a template.
func (s *server) database(t *testing.T, template string) *workbench {
	t.Helper()
	s.made++
	name := databaseName(strconv.Itoa(s.made))
	_, err := s.admin.Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+databaseName(template)+" STRATEGY FILE_COPY")
	require.NoError(t, err)
	u, err := url.Parse(s.url)
	require.NoError(t, err)
	u.Path = "/" + name
	w := &workbench{pool: openPool(t, u.String()), reg: prometheus.NewRegistry()}
	w.store = w.newStore(t)
	t.Cleanup(func() { s.drop(w, name) })
	return w
}

func databaseName(name string) string { return fmt.Sprintf("bench_%d_%s", os.Getpid(), name) }

// newStore is another indexer on the database.
func (w *workbench) newStore(t *testing.T) *store.Store {
	t.Helper()
	lex, err := lexicon.New(lexicon.Options{})
	require.NoError(t, err)
	st, err := store.New(w.pool, store.Config{Schema: schema, Validate: lex.Validate, QueueHandles: true, Registerer: w.reg})
	require.NoError(t, err)
	return st
}

func (s *server) drop(w *workbench, name string) {
	w.pool.Close()
	_, _ = s.admin.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// close ends a turn early, so that its database does not burden the next one.
func (s *server) close(w *workbench) { s.drop(w, w.pool.Config().ConnConfig.Database) }

// template makes a database with the AppView's tables, filled by statements.
func (s *server) template(t *testing.T, name string, fill ...string) {
	t.Helper()
	name = databaseName(name)
	_, err := s.admin.Exec(t.Context(), "CREATE DATABASE "+name)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = s.admin.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	u, err := url.Parse(s.url)
	require.NoError(t, err)
	u.Path = "/" + name
	pool, err := pgxpool.New(t.Context(), u.String())
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, store.Migrate(t.Context(), pool, schema))
	for _, sql := range append(fill, "VACUUM ANALYZE", "CHECKPOINT") {
		_, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
}

func openPool(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	cfg.MaxConns = int32(max(*lanes*2+4, 8))
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// cpu is the processor time, in seconds, that this process and the server's
// processes have used. The server's is 0 where it is on another machine.
type cpu struct{ own, server float64 }

func (s *server) cpu() cpu {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	c := cpu{own: float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9}
	if s.pid == 0 {
		return c
	}
	c.server = procTime(s.pid, true)
	for _, child := range children(s.pid) {
		c.server += procTime(child, false)
	}
	return c
}

func (c cpu) since(o cpu) cpu { return cpu{c.own - o.own, c.server - o.server} }

// perRecord is in microseconds: all, and the part of the server.
func (c cpu) perRecord(n int) (all, server float64) {
	return (c.own + c.server) * 1e6 / float64(n), c.server * 1e6 / float64(n)
}

// procTime reads the time of a process, with that of its ended children.
func procTime(pid int, ended bool) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	upTo := 13
	if ended {
		upTo = 15
	}
	var ticks float64
	for _, f := range fields[11:upTo] {
		n, _ := strconv.ParseFloat(f, 64)
		ticks += n
	}
	return ticks / 100
}

func children(pid int) (out []int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for f := range strings.FieldsSeq(string(b)) {
		n, _ := strconv.Atoi(f)
		out = append(out, n)
	}
	return out
}
