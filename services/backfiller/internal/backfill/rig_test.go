package backfill

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"),
	)
}

// rig is a Redis with a world behind it.
type rig struct {
	t      *testing.T
	w      *world
	url    string
	prefix string
	redis  *redstream.Client
	writer *redstream.Writer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	url, prefix := testkit.Redis(t)
	return newRigOn(t, url, prefix)
}

func newRigOn(t *testing.T, url, prefix string) *rig {
	t.Helper()
	r := &rig{t: t, w: newWorld(t), url: url, prefix: prefix}
	r.redis = r.open(nil)
	var err error
	r.writer, err = r.redis.NewWriter(redstream.WriterConfig{Stream: "repo_backfill"})
	require.NoError(t, err)
	t.Cleanup(r.writer.Close)
	return r
}

func (r *rig) open(reg prometheus.Registerer) *redstream.Client {
	r.t.Helper()
	c, err := redstream.Open(r.t.Context(), redstream.Config{URL: r.url, KeyPrefix: r.prefix}, quiet(), reg)
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

func quiet() *slog.Logger {
	if os.Getenv("SLUICE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// jobs appends jobs to the stream.
func (r *rig) jobs(jobs ...event.RepoJob) {
	r.t.Helper()
	items := make([]redstream.Item, 0, len(jobs))
	for i := range jobs {
		field, value, err := event.JSON.Job(&jobs[i])
		require.NoError(r.t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
	}
	require.NoError(r.t, r.writer.Append(r.t.Context(), items))
}

func (r *rig) enumerate(as ...*account) {
	r.t.Helper()
	jobs := make([]event.RepoJob, len(as))
	for i, a := range as {
		jobs[i] = event.RepoJob{DID: a.did, Host: "listed.test", Rev: a.rev, Active: true}
	}
	r.jobs(jobs...)
}

func testConfig() Config {
	return Config{
		Jobs: "repo_backfill", Output: "firehose_backfill", DeadLetters: "repo_backfill_dlq", Group: "repo_backfill_group",
		Consumer: "one", Concurrency: 16, Collections: []string{"app.bsky.*", "chat.bsky.*"}, Encoding: event.JSON,
		ClaimIdle: 2 * time.Second, Grace: 5 * time.Second,
		Fetch: FetchConfig{Timeout: 10 * time.Second, MinRate: 2000, RateWindow: 5 * time.Second, MaxBytes: 32 << 20},
		Host:  HostConfig{Rate: 1000, ParkInitial: 20 * time.Millisecond, ParkMax: 200 * time.Millisecond},
		Retry: RetryConfig{Max: 6, Initial: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond},
	}
}

// impatient gives up hosts quickly, for tests in which some never answer.
func impatient(c *Config) {
	c.Fetch.Timeout, c.Fetch.RateWindow = 400*time.Millisecond, 300*time.Millisecond
}

// running is a Backfiller at work.
type running struct {
	*Backfiller
	reg  *prometheus.Registry
	stop func() error
}

func (r *rig) start(edit ...func(*Config)) *running {
	r.t.Helper()
	return r.startOn(r.w.directory(r.t), edit...)
}

func (r *rig) startOn(dir Directory, edit ...func(*Config)) *running {
	r.t.Helper()
	cfg := testConfig()
	for _, e := range edit {
		e(&cfg)
	}
	reg := prometheus.NewRegistry()
	b, err := New(cfg, Deps{
		Redis: r.open(nil), Directory: dir, HTTP: testHTTP(r.t), Log: quiet(), Registry: reg,
	})
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	var once atomic.Bool
	x := &running{Backfiller: b, reg: reg}
	x.stop = func() error {
		if once.Swap(true) {
			return nil
		}
		cancel()
		return <-done
	}
	r.t.Cleanup(func() {
		if err := x.stop(); err != nil {
			r.t.Errorf("backfiller: %v", err)
		}
	})
	return x
}

func testHTTP(t *testing.T) *http.Client {
	t.Helper()
	c, err := atproto.NewHTTPClient(atproto.HTTPConfig{AllowPrivate: []string{"127.0.0.0/8", "::1"}})
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// idle says that no job is left anywhere. A job that goes from the delayed set
// to the stream between two looks would be missed: then entries were added.
func (r *rig) idle() bool {
	r.t.Helper()
	look := func() (added int64, none bool) {
		st, err := r.redis.Stats(r.t.Context(), "repo_backfill", Groups("repo_backfill_group")...)
		if err != nil {
			return 0, false
		}
		return st.Added, len(st.Groups) == 2 && st.Lag == 0 && st.Groups[0].Pending == 0 && st.Groups[1].Pending == 0
	}
	before, none := look()
	if !none {
		return false
	}
	n, err := r.redis.NewDelayed("repo_backfill:delayed", "repo_backfill").Len(r.t.Context())
	after, still := look()
	return err == nil && n == 0 && still && before == after
}

func (r *rig) drained(limit time.Duration) {
	r.t.Helper()
	eventually(r.t, limit, "no job is left", r.idle)
}

// events reads the output stream.
func (r *rig) events() []*event.Event {
	r.t.Helper()
	list, _ := r.read()
	return list
}

// read reads the output stream and says which entry was the last.
func (r *rig) read() (out []*event.Event, last string) {
	r.t.Helper()
	c, err := testkit.RedisClient(r.url)
	require.NoError(r.t, err)
	defer c.Close()
	for from := "-"; ; {
		list, err := c.Do(r.t.Context(), c.B().Xrange().Key(r.prefix+"firehose_backfill").Start(from).End("+").Count(5000).Build()).AsXRange()
		require.NoError(r.t, err)
		for _, x := range list {
			e, err := event.DecodeEvent(func(name string) (string, bool) { v, ok := x.FieldValues[name]; return v, ok })
			require.NoError(r.t, err)
			out = append(out, e)
		}
		if len(list) == 0 {
			return out, last
		}
		last = list[len(list)-1].ID
		from = "(" + last
	}
}

// output is what the events add up to.
type output struct {
	records map[string]string // uri → cid
	// closed: did → count of the last closing event.
	closed map[string]int64
	ends   map[string]int
}

func (r *rig) output() output {
	r.t.Helper()
	out := output{map[string]string{}, map[string]int64{}, map[string]int{}}
	since := map[string]int64{}
	for _, e := range r.events() {
		require.Equal(r.t, event.SeqBackfill, e.Seq)
		require.NotEmpty(r.t, e.Commit)
		require.NotEmpty(r.t, e.Rev)
		_, err := time.Parse(time.RFC3339, e.Time)
		require.NoError(r.t, err)
		switch e.Type {
		case event.Create:
			out.records[e.URI()] = e.CID
			since[e.DID]++
			b, err := e.DAGCBOR()
			require.NoError(r.t, err)
			require.Equal(r.t, e.CID, atproto.SumCID(b).String(), "the CID can be recomputed")
		case event.Repo:
			require.True(r.t, e.Snapshot)
			require.GreaterOrEqual(r.t, since[e.DID], e.Count, "the records of %s are before its end", e.DID)
			out.closed[e.DID] = e.Count
			out.ends[e.DID]++
		default:
			r.t.Fatalf("unexpected %s event", e.Type)
		}
	}
	return out
}

// complete compares the output with the truth of the accounts.
func (r *rig) complete(as ...*account) output {
	r.t.Helper()
	f, err := NewFilter(testConfig().Collections)
	require.NoError(r.t, err)
	want, out := map[string]string{}, r.output()
	for _, a := range as {
		truth := a.truth(f.Keep)
		maps.Copy(want, truth)
		require.Equal(r.t, int64(len(truth)), out.closed[a.did], "closing event of %s", a.did)
	}
	require.Equal(r.t, want, out.records)
	return out
}

func (r *rig) dead() []redstream.DeadLetter {
	r.t.Helper()
	list, err := r.redis.DeadLetters("repo_backfill", "repo_backfill_dlq").List(r.t.Context(), "", 10_000)
	require.NoError(r.t, err)
	return list
}

func (r *rig) state(did string) Record {
	r.t.Helper()
	s := &states{ledger: r.redis.NewRegister("repo_backfill", stateKey, stateShards)}
	got, err := s.read(r.t.Context(), []string{did})
	require.NoError(r.t, err)
	return got[0]
}

// metric adds up the series of a metric, or those with the label value.
func (x *running) metric(name string, label ...string) float64 {
	families, err := x.reg.Gather()
	if err != nil {
		panic(err)
	}
	total, found := 0.0, false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		found = true
		for _, m := range f.GetMetric() {
			values := make([]string, 0, 2)
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if len(label) > 0 && !slices.Equal(values, label) {
				continue
			}
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		panic("no metric " + name)
	}
	return total
}

// directory is a Directory of the world, with caches as in production.
func (w *world) directory(t *testing.T) Directory {
	t.Helper()
	d, err := atproto.NewDirectory(atproto.DirectoryConfig{PLCURL: w.PLC.URL, Client: testHTTP(t), PLCRate: 10_000})
	require.NoError(t, err)
	return d
}
