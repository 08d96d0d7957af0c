package enumerate_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/ingester/internal/enumerate"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"), goleak.IgnoreAnyFunction("internal/poll.runtime_pollWait"))
}

const stream = "repo_backfill"

// host is a server with repositories and hosts to list.
type host struct {
	*httptest.Server

	mu    sync.Mutex
	rows  []string // JSON
	hosts []string
	// refuse, if set, answers a request itself.
	refuse func(w http.ResponseWriter, cursor string, limit int) bool
	limits []int
	asked  atomic.Int64
}

func newHost(t *testing.T, rows ...string) *host {
	t.Helper()
	h := &host{rows: rows}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *host) name() string { return strings.TrimPrefix(h.URL, "http://") }

func (h *host) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked.Add(1)
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	cursor := r.URL.Query().Get("cursor")
	list, key := h.rows, "repos"
	if strings.HasSuffix(r.URL.Path, "listHosts") {
		list, key = h.hosts, "hosts"
		if list == nil {
			http.Error(w, `{"error":"MethodNotImplemented"}`, http.StatusNotImplemented)
			return
		}
	} else {
		h.limits = append(h.limits, limit)
		if h.refuse != nil && h.refuse(w, cursor, limit) {
			return
		}
	}
	from, _ := strconv.Atoi(cursor)
	to := min(from+limit, len(list))
	next := ""
	if to < len(list) {
		next = fmt.Sprintf(`,"cursor":"%d"`, to)
	}
	_, _ = fmt.Fprintf(w, `{"%s":[%s]%s}`, key, strings.Join(list[from:to], ","), next)
}

func row(i int, rev string) string {
	return fmt.Sprintf(`{"did":"did:plc:%024d","head":"x","rev":"%s","active":true}`, i, rev)
}

func rows(n int) []string {
	var out []string
	for i := range n {
		out = append(out, row(i, "3mptbypluud2a"))
	}
	return out
}

type rig struct {
	client *redstream.Client
	writer *redstream.Writer
	raw    testkit.RedisConn
	prefix string
	reg    *prometheus.Registry
	cfg    enumerate.Config
	deps   enumerate.Deps
}

type open struct{}

func (open) Wait(ctx context.Context) error { return ctx.Err() }

func newRig(t *testing.T, relays ...string) *rig {
	t.Helper()
	url, prefix := testkit.Redis(t)
	r := &rig{prefix: prefix, reg: prometheus.NewRegistry()}
	log := slog.New(slog.DiscardHandler)
	var err error
	r.client, err = redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, log, nil)
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	r.writer, err = r.client.NewWriter(redstream.WriterConfig{Stream: stream})
	require.NoError(t, err)
	t.Cleanup(r.writer.Close)
	r.raw, err = testkit.RedisClient(url)
	require.NoError(t, err)
	t.Cleanup(r.raw.Close)
	r.cfg = enumerate.Config{
		Relays: relays, Mode: enumerate.ByRelay, Stream: stream, Every: time.Hour, RetryHosts: 50 * time.Millisecond,
		Backoff: fault.Backoff{Initial: time.Millisecond, Max: 5 * time.Millisecond},
	}
	r.deps = enumerate.Deps{
		Jobs: r.writer, Cursors: r.client, Gate: open{}, Encode: event.JSON.Job,
		Trusted: http.DefaultClient, Guarded: http.DefaultClient, Log: log, Registry: r.reg,
	}
	return r
}

func (r *rig) jobs(t *testing.T) []event.RepoJob {
	t.Helper()
	entries, err := r.raw.Do(t.Context(), r.raw.B().Xrange().Key(r.prefix+stream).Start("-").End("+").Build()).AsXRange()
	require.NoError(t, err)
	var out []event.RepoJob
	for _, e := range entries {
		j, err := event.DecodeJob(func(name string) (string, bool) { v, ok := e.FieldValues[name]; return v, ok })
		require.NoError(t, err)
		out = append(out, *j)
	}
	return out
}

func (r *rig) cursor(t *testing.T, host string) string {
	t.Helper()
	v, _, err := r.client.Cursor(t.Context(), stream+":cursor:"+host)
	require.NoError(t, err)
	return v
}

func (r *rig) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return sum
	}
	t.Fatalf("metric %s is not exported", name)
	return 0
}

// run enumerates until done says so.
func (r *rig) run(t *testing.T, done func() bool) {
	t.Helper()
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	require.Eventually(t, done, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

func tidOf(at time.Time) string {
	const alphabet = "234567abcdefghijklmnopqrstuvwxyz"
	n := uint64(at.UnixMicro()) << 10
	var out [13]byte
	for i := 12; i >= 0; i-- {
		out[i] = alphabet[n&31]
		n >>= 5
	}
	return string(out[:])
}
