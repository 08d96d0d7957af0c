package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/pg"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/indexer/app"
)

// suite is one Redis prefix and one schema with the indexers of a test on them.
type suite struct {
	t        *testing.T
	redisURL string
	prefix   string
	dbURL    string
	schema   string
	client   *redstream.Client
	writers  map[string]*redstream.Writer
	last     map[string]string // id of the last entry by stream
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	redisURL, prefix := testkit.Redis(t)
	dbURL, schema := testkit.Postgres(t)
	return suiteOn(t, redisURL, prefix, dbURL, schema)
}

func suiteOn(t *testing.T, redisURL, prefix, dbURL, schema string) *suite {
	t.Helper()
	c, err := redstream.Open(t.Context(), redstream.Config{URL: redisURL, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return &suite{
		t: t, redisURL: redisURL, prefix: prefix, dbURL: dbURL, schema: schema, client: c,
		writers: map[string]*redstream.Writer{}, last: map[string]string{},
	}
}

// config is that of one indexer of the suite, without any look at the network.
func (s *suite) config(consumer string) app.Config {
	return app.Config{
		RedisURL: s.redisURL, KeyPrefix: s.prefix, DatabaseURL: s.dbURL, DatabaseSchema: s.schema,
		PoolMax: 8, PoolMin: 0, Mode: "all", Streams: []string{"firehose_live", "firehose_backfill"}, LabelStream: "label_live",
		Group: "firehose_group", LabelGroup: "label_group", Consumer: consumer, Concurrency: 4, BatchSize: 200,
		BatchWait: 5 * time.Millisecond, ClaimIdle: 5 * time.Second, MaxDeliveries: 5, Replicas: 1,
		Resolvers: 8, ResolveRate: 10000, FoldEvery: 20 * time.Millisecond, RecheckEvery: 20 * time.Millisecond,
		TrimEvery: 100 * time.Millisecond, Migrate: true, DebugWait: true,
	}
}

// instance is an indexer in this process.
type instance struct {
	app      *app.App
	mux      *http.ServeMux
	registry *prometheus.Registry
	stop     func()
}

func (s *suite) start(cfg app.Config) *instance {
	s.t.Helper()
	in := &instance{mux: http.NewServeMux(), registry: prometheus.NewRegistry()}
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	a, err := app.New(s.t.Context(), cfg, proc.Deps{
		Log: log, Registry: in.registry, Version: "test", Grace: 5 * time.Second, Handle: in.mux.Handle,
	})
	require.NoError(s.t, err)
	in.app = a
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	in.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(s.t, <-done)
	})
	s.t.Cleanup(in.stop)
	return in
}

// send appends events to a stream, one append for each sequence number.
func (s *suite) send(stream string, enc event.Encoding, events ...event.Event) {
	s.t.Helper()
	items := make([]redstream.Item, len(events))
	for i := range events {
		e := events[i]
		if enc == event.Protobuf && len(e.RecordCBOR) == 0 {
			cbor, err := e.DAGCBOR()
			require.NoError(s.t, err)
			e.RecordCBOR = cbor
		}
		name, value, err := enc.Event(&e)
		require.NoError(s.t, err)
		items[i] = redstream.Item{Seq: e.Seq, Fields: []redstream.Field{{Name: name, Value: value}}}
	}
	s.append(stream, items)
}

func (s *suite) append(stream string, items []redstream.Item) {
	s.t.Helper()
	w := s.writers[stream]
	if w == nil {
		var err error
		w, err = s.client.NewWriter(redstream.WriterConfig{Stream: stream})
		require.NoError(s.t, err)
		s.t.Cleanup(w.Close)
		s.writers[stream] = w
	}
	for len(items) > 0 {
		n := min(len(items), 500)
		require.NoError(s.t, w.Append(s.t.Context(), items[:n]))
		items = items[n:]
	}
	stats, err := s.client.Stats(s.t.Context(), stream)
	require.NoError(s.t, err)
	s.last[stream] = stats.LastID
}

// passed says whether every group is done with all that was sent to a stream.
func (s *suite) passed(stream string) bool {
	floor, _, err := s.client.Floor(s.t.Context(), stream)
	return err == nil && redstream.CompareIDs(floor, s.last[stream]) > 0
}

// wait asks an indexer until everything sent is in the tables.
func (s *suite) wait(in *instance) {
	s.t.Helper()
	query := url.Values{"timeout": {"60s"}}
	for stream, id := range s.last {
		query.Set(stream, id)
	}
	w := httptest.NewRecorder()
	in.mux.ServeHTTP(w, httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, "/debug/wait?"+query.Encode(), nil))
	require.Equal(s.t, http.StatusOK, w.Code, w.Body.String())
}

// rows reads tables of the suite.
func (s *suite) rows(names ...string) map[string][]row {
	s.t.Helper()
	pool, err := pg.Open(s.t.Context(), pg.Config{URL: s.dbURL, MaxConns: 2})
	require.NoError(s.t, err)
	defer pool.Close()
	out := map[string][]row{}
	for _, name := range names {
		var texts []string
		q := fmt.Sprintf("SELECT coalesce(array_agg(row_to_json(x)::text), '{}') FROM %s x", s.table(name))
		require.NoError(s.t, pool.QueryRow(s.t.Context(), q).Scan(&texts))
		out[name] = rowsOf(s.t, texts)
	}
	return out
}

// exec runs a statement on the suite's database; {s} is the schema.
func (s *suite) exec(sql string, args ...any) {
	s.t.Helper()
	pool, err := pg.Open(s.t.Context(), pg.Config{URL: s.dbURL, MaxConns: 1})
	require.NoError(s.t, err)
	defer pool.Close()
	_, err = pool.Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err)
}

func (s *suite) table(name string) string { return fmt.Sprintf("%q.%q", s.schema, name) }
