package app

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/atproto"
	"sluice/pkg/config"
	"sluice/pkg/event"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/simnet"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"),
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// rig is an ingester on a real Redis, configured by the environment as it
// would be in production.
type rig struct {
	t      *testing.T
	env    map[string]string
	url    string
	prefix string
	raw    testkit.RedisConn
	reg    *prometheus.Registry
	app    *App
}

func newRig(t *testing.T, env map[string]string) *rig {
	t.Helper()
	url, prefix := testkit.Redis(t)
	return newRigAt(t, url, prefix, env)
}

func newRigAt(t *testing.T, url, prefix string, env map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, url: url, prefix: prefix, env: map[string]string{
		"REDIS_URL": url, "STREAM_KEY_PREFIX": prefix, "INGESTER_FIREHOSE_START": "oldest",
		"INGESTER_BATCH_TIMEOUT_MS": "100", "SHUTDOWN_GRACE_SECS": "5",
	}}
	maps.Copy(r.env, env)
	var err error
	r.raw, err = testkit.RedisClient(url)
	require.NoError(t, err)
	t.Cleanup(r.raw.Close)
	return r
}

func (r *rig) config() Config {
	r.t.Helper()
	var cfg Config
	var common proc.Common
	var environ []string
	for k, v := range r.env {
		environ = append(environ, k+"="+v)
	}
	l := config.Loader{Service: "ingester", Environ: environ, Output: io.Discard}
	require.NoError(r.t, l.Load(nil, &cfg, &common))
	return cfg
}

// start runs the ingester until stop is called, or the test ends.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	r.reg = obs.NewRegistry("ingester", "test")
	deps := proc.Deps{Log: log, Registry: r.reg, Version: "test", Grace: 5 * time.Second, Handle: func(string, http.Handler) {}}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := New(ctx, r.config(), deps)
	require.NoError(r.t, err)
	r.app = a
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	done := false
	stop = func() {
		if !done {
			done = true
			cancel()
			require.NoError(r.t, <-ended)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) get(key string) string {
	v, err := r.raw.Do(context.Background(), r.raw.B().Get().Key(r.prefix+key).Build()).ToString()
	if err != nil && !testkit.IsRedisNil(err) {
		r.t.Logf("get %s: %v", key, err)
	}
	return v
}

func (r *rig) entries(stream string) []map[string]string {
	r.t.Helper()
	entries, err := r.raw.Do(context.Background(), r.raw.B().Xrange().Key(r.prefix+stream).Start("-").End("+").Build()).AsXRange()
	require.NoError(r.t, err)
	out := make([]map[string]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.FieldValues)
	}
	return out
}

func (r *rig) length(stream string) int {
	r.t.Helper()
	n, err := r.raw.Do(context.Background(), r.raw.B().Xlen().Key(r.prefix+stream).Build()).AsInt64()
	require.NoError(r.t, err)
	return int(n)
}

func getter(fields map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := fields[name]; return v, ok }
}

func (r *rig) events() []event.Event {
	r.t.Helper()
	var out []event.Event
	for _, f := range r.entries("firehose_live") {
		e, err := event.DecodeEvent(getter(f))
		require.NoError(r.t, err)
		out = append(out, *e)
	}
	return out
}

func (r *rig) jobs() []event.RepoJob {
	r.t.Helper()
	var out []event.RepoJob
	for _, f := range r.entries("repo_backfill") {
		j, err := event.DecodeJob(getter(f))
		require.NoError(r.t, err)
		out = append(out, *j)
	}
	return out
}

// resyncs are the DIDs that are to be fetched as a whole, due or appended: in
// this order, since that is their way.
func (r *rig) resyncs() map[string]bool {
	r.t.Helper()
	out := map[string]bool{}
	packed, err := r.raw.Do(context.Background(), r.raw.B().Zrange().Key(r.prefix+"repo_backfill:resync").Min("0").Max("-1").Build()).AsStrSlice()
	require.NoError(r.t, err)
	for _, p := range packed {
		if _, rest, found := strings.Cut(p, `"did":"`); found {
			did, _, _ := strings.Cut(rest, `"`)
			out[did] = true
		}
	}
	for _, j := range r.jobs() {
		if j.Reason == event.ReasonResync {
			out[j.DID] = true
		}
	}
	return out
}

func (r *rig) metric(name string, value ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			match := len(value) == 0
			for _, l := range m.GetLabel() {
				match = match || slices.Contains(value, l.GetValue())
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return sum
	}
	r.t.Fatalf("metric %s is not exported", name)
	return 0
}

// relaySeqStep is the difference between the sequence numbers of two relays.
const relaySeqStep = 1_000_000

// caughtUp waits until every relay's last frame is durable.
func (r *rig) caughtUp(n *simnet.Network) {
	r.t.Helper()
	for i, relay := range n.RelayHosts {
		host := strings.TrimPrefix(relay, "ws://")
		require.Eventually(r.t, func() bool {
			_, last := n.World.Seqs()
			return r.get("firehose_live:cursor:"+host) == itoa(last+int64(i)*relaySeqStep)
		}, 60*time.Second, 5*time.Millisecond, "cursor of %s", host)
	}
}

// records folds events to what is there in the end, by the newest rev.
type version struct{ rev, cid string }

func fold(into map[string]version, e *event.Event) {
	if e.Collection == "" {
		return
	}
	if v, ok := into[e.URI()]; ok && v.rev > e.Rev {
		return
	}
	into[e.URI()] = version{e.Rev, e.CID}
}

// expected is what the frames of the world say, whatever a relay made of them.
func expected(t *testing.T, n *simnet.Network, keep func(string) bool) map[string]version {
	t.Helper()
	out := map[string]version{}
	frames, _ := n.World.Frames(0, 1<<30)
	for _, raw := range frames {
		f, err := atproto.ParseFrame(raw.Data)
		require.NoError(t, err)
		if f.Commit == nil {
			continue
		}
		events, err := f.Commit.Events(nil, keep, func(_ *atproto.Op, err error) { require.NoError(t, err) })
		require.NoError(t, err)
		for i := range events {
			fold(out, &events[i])
		}
	}
	return out
}

// agrees checks the stream against the world: every repository is either as
// its frames say or about to be fetched.
func (r *rig) agrees(n *simnet.Network) {
	r.t.Helper()
	keep, err := r.config().keep()
	require.NoError(r.t, err)
	want, resync := expected(r.t, n, keep.Keep), r.resyncs()
	got := map[string]version{}
	events := r.events()
	for i := range events {
		fold(got, &events[i])
	}
	require.NotEmpty(r.t, got)
	for uri, v := range want {
		if !resync[didOf(uri)] {
			require.Equal(r.t, v, got[uri], "%s", uri)
		}
	}
	for uri := range got {
		if !resync[didOf(uri)] {
			_, wanted := want[uri]
			require.True(r.t, wanted, uri)
		}
	}
	r.truth(n, got, resync)
}

// truth checks what is alive in the end against the model of the world.
func (r *rig) truth(n *simnet.Network, got map[string]version, resync map[string]bool) {
	r.t.Helper()
	living, gone := map[string]string{}, map[string]bool{}
	truth := n.Truth()
	for _, a := range truth.Accounts {
		gone[a.DID] = a.Status == "deleted"
	}
	for _, rec := range truth.Records {
		living[rec.URI] = rec.CID
	}
	checked := 0
	for uri, v := range got {
		if did := didOf(uri); !resync[did] && !gone[did] {
			require.Equal(r.t, living[uri], v.cid, uri)
			checked++
		}
	}
	require.Positive(r.t, checked)
}

func didOf(uri string) string {
	did, _, _ := strings.Cut(strings.TrimPrefix(uri, "at://"), "/")
	return did
}

func sharedURL(t *testing.T) string {
	t.Helper()
	url, _ := testkit.Redis(t)
	return url
}
