package enumerate_test

import (
	"context"
	"encoding/json"
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

func TestListsEveryRepositoryOnceWithTheCursor(t *testing.T) {
	t.Parallel()
	h := newHost(t, append(rows(2300),
		`{"did":"did:plc:inactive0000000000000000","rev":"3mptbypluud2a","active":false,"status":"Takendown"}`)...)
	r := newRig(t, h.URL)
	r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
	jobs := r.jobs(t)
	require.Len(t, jobs, 2301)
	require.Equal(t, event.RepoJob{
		DID: "did:plc:inactive0000000000000000", Host: h.name(), Rev: "3mptbypluud2a", Status: "takendown", Reason: event.ReasonEnumerate,
	}, jobs[2300])
	require.True(t, jobs[0].Active)
	require.InDelta(t, 2301, r.metric(t, "ingester_backfill_repos_written_total"), 0)
	require.InDelta(t, 0, r.metric(t, "ingester_backfill_cursor_skips_total"), 0)
	require.InDelta(t, 1, r.metric(t, "ingester_backfill_complete"), 0)
}

func TestResumesAtTheSavedCursor(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(2500)...)
	r := newRig(t, h.URL)
	require.NoError(t, r.client.SetCursor(t.Context(), stream+":cursor:"+h.name(), "1500"))
	r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
	require.Len(t, r.jobs(t), 1000)
}

func TestFailedPageIsAskedAgainWithSmallerLimitsNeverSkipped(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(1200)...)
	h.refuse = func(w http.ResponseWriter, cursor string, limit int) bool {
		if cursor == "1000" || limit <= 125 {
			return false
		}
		switch limit % 3 {
		case 0:
			http.Error(w, "no", http.StatusInternalServerError)
		case 1:
			_, _ = w.Write([]byte(`{"repos":[`))
		default:
			_, _ = w.Write([]byte(`<html>`))
		}
		return true
	}
	r := newRig(t, h.URL)
	r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
	require.Len(t, r.jobs(t), 1200)
	require.Contains(t, h.limits, 125)
	require.Positive(t, r.metric(t, "ingester_backfill_fetch_errors_total"))
	require.InDelta(t, 0, r.metric(t, "ingester_backfill_cursor_skips_total"), 0)
}

func TestUnreadableRowsLeaveTheRestOfThePage(t *testing.T) {
	t.Parallel()
	h := newHost(t, row(1, "3mptbypluud2a"), `{"did":7}`, `"text"`, `null`, `{"did":"nonsense"}`,
		`{"did":"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa","rev":3,"active":"yes"}`, row(2, "3mptbypluud2a"))
	r := newRig(t, h.URL)
	r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
	jobs := r.jobs(t)
	require.Len(t, jobs, 3)
	require.Empty(t, jobs[1].Rev)
	require.True(t, jobs[1].Active)
	require.InDelta(t, 4, r.metric(t, "sluice_ingester_enumerate_unreadable_rows_total"), 0)
}

func TestEndMarkIsHonouredAndThePassRepeatsOnSchedule(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(1500)...)
	r := newRig(t, h.URL)
	r.deps.Revs = r.client.NewTable(stream, ":revs", 100_000)
	require.NoError(t, r.client.SetCursor(t.Context(), stream+":cursor:"+h.name(), "!ingester-done"))
	r.run(t, func() bool {
		v, found, err := r.client.Cursor(t.Context(), stream+":enumerated:"+h.name())
		return err == nil && found && v != ""
	})
	require.Zero(t, h.asked.Load()-1, "only listHosts is asked while the listing is not due")

	overdue := strconv.FormatInt(time.Now().Add(-2*time.Hour).Unix(), 10)
	pass := func(want int) {
		r.reg = prometheus.NewRegistry()
		r.deps.Registry = r.reg
		require.NoError(t, r.client.SetCursor(t.Context(), stream+":enumerated:"+h.name(), overdue))
		r.run(t, func() bool {
			v, _, err := r.client.Cursor(t.Context(), stream+":enumerated:"+h.name())
			return err == nil && v != overdue
		})
		require.Len(t, r.jobs(t), want)
	}
	pass(1500)
	h.mu.Lock()
	h.rows[7] = row(7, "3mzzzzzzzzz22")
	h.rows = append(h.rows, row(9999, "3mptbypluud2a"))
	h.mu.Unlock()
	pass(1502) // only what is new or changed
}

func TestSinglePageIsListedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(3)...)
	r := newRig(t, h.URL)
	r.cfg.Every = time.Second
	r.run(t, func() bool { return len(r.jobs(t)) >= 6 })
	require.Equal(t, 0, len(r.jobs(t))%3)
}

func TestHostsAreListedOneByOne(t *testing.T) {
	t.Parallel()
	a, b, gone := newHost(t, rows(30)...), newHost(t, row(100, "3mptbypluud2a")), newHost(t)
	relay := newHost(t)
	relay.hosts = []string{
		fmt.Sprintf(`{"hostname":"%s","status":"active","accountCount":30}`, a.name()),
		fmt.Sprintf(`{"hostname":"%s","status":"idle","accountCount":12}`, b.name()),
		`{"hostname":"bad host/"}`, `{"hostname":"banned.example","status":"banned"}`,
		fmt.Sprintf(`{"hostname":"%s","status":"offline"}`, gone.name()),
	}
	gone.Close()
	r := newRig(t, relay.URL)
	r.cfg.Mode, r.cfg.Attempts = enumerate.ByHosts, 2
	r.run(t, func() bool {
		return r.cursor(t, a.name()) == "!ingester-done" && r.cursor(t, b.name()) == "!ingester-done" &&
			r.metric(t, "ingester_backfill_fetch_errors_total") >= 4
	})
	require.Len(t, r.jobs(t), 31)
	require.InDelta(t, 42, r.metric(t, "sluice_ingester_enumerate_accounts_estimate"), 0)
	require.InDelta(t, 0, r.metric(t, "ingester_backfill_complete"), 0, "a host is missing")
	hosts := map[string]int{}
	for _, j := range r.jobs(t) {
		hosts[j.Host]++
	}
	require.Equal(t, map[string]int{a.name(): 30, b.name(): 1}, hosts)
}

func TestThrottledHostIsAskedWhenItSays(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(3)...)
	var times []time.Time
	h.refuse = func(w http.ResponseWriter, _ string, limit int) bool {
		times = append(times, time.Now())
		if len(times) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	r := newRig(t, h.URL)
	r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
	require.GreaterOrEqual(t, times[1].Sub(times[0]), time.Second)
	require.Equal(t, []int{1000, 1000}, h.limits, "a throttled page keeps its limit")
}

func TestHostileListingsCostOneError(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(w http.ResponseWriter){
		"cursor stands still": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"repos":[],"cursor":"5"}`)) },
		"cursor is the mark":  func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"repos":[],"cursor":"!ingester-done"}`)) },
		"cursor is huge": func(w http.ResponseWriter) {
			_ = json.NewEncoder(w).Encode(map[string]any{"repos": []any{}, "cursor": strings.Repeat("x", 4000)})
		},
		"body without end": func(w http.ResponseWriter) {
			chunk := []byte(strings.Repeat(" ", 1<<16))
			for range 400 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			tries := 0
			h.refuse = func(w http.ResponseWriter, _ string, _ int) bool {
				if tries++; tries <= 2 {
					answer(w)
					return true
				}
				return false
			}
			h.rows = rows(7)
			r := newRig(t, h.URL)
			require.NoError(t, r.client.SetCursor(t.Context(), stream+":cursor:"+h.name(), "5"))
			r.run(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" })
			require.Len(t, r.jobs(t), 2)
			require.InDelta(t, 2, r.metric(t, "ingester_backfill_fetch_errors_total"), 0)
		})
	}
}

type shut struct{ open atomic.Bool }

func (g *shut) Wait(ctx context.Context) error {
	for !g.open.Load() {
		if err := fault.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func TestFullStreamHoldsTheListing(t *testing.T) {
	t.Parallel()
	h := newHost(t, rows(2500)...)
	r := newRig(t, h.URL)
	gate := &shut{}
	r.deps.Gate = gate
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	require.Never(t, func() bool { return len(h.limitsSeen()) > 0 }, 100*time.Millisecond, 5*time.Millisecond)
	gate.open.Store(true)
	require.Eventually(t, func() bool { return r.cursor(t, h.name()) == "!ingester-done" }, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	require.Len(t, r.jobs(t), 2500)
}

func (h *host) limitsSeen() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]int(nil), h.limits...)
}

func TestGapIsFilledByRev(t *testing.T) {
	t.Parallel()
	old, recent := "3jzfcijpj2z2a", tidOf(time.Now())
	h := newHost(t, row(1, old), row(2, recent), row(3, recent), row(4, "junk"))
	r := newRig(t, h.URL)
	known := r.client.NewTable("firehose_live", ":state", 1000)
	require.NoError(t, known.Put(t.Context(), []string{fmt.Sprintf("did:plc:%024d", 3)}, []string{recent}))
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, known)
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now().Add(-time.Minute)))
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now()), "a later gap does not hide the earlier one")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 2 }, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	jobs := r.jobs(t)
	require.Equal(t, event.ReasonResync, jobs[0].Reason)
	require.Equal(t, []string{recent, "junk"}, []string{jobs[0].Rev, jobs[1].Rev})
}

// A gap that is noted while one is filled is filled after it, although it
// keeps the earlier time; then nothing is left to fill.
func TestGapNotedWhileOneIsFilled(t *testing.T) {
	t.Parallel()
	recent := tidOf(time.Now())
	h := newHost(t, row(1, recent))
	r := newRig(t, h.URL)
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, nil)
	since := time.Now().Add(-time.Minute)
	noted := make(chan error, 1)
	listed := 0
	h.refuse = func(_ http.ResponseWriter, _ string, _ int) bool {
		if listed++; listed == 1 {
			noted <- g.Note(context.Background(), h.name(), since.Add(time.Second))
			h.rows = append(h.rows, row(2, recent)) // not in the page being read
		}
		return false
	}
	require.NoError(t, g.Note(t.Context(), h.name(), since))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.NoError(t, <-noted)
	left := func() string {
		v, _, err := r.client.Cursor(t.Context(), stream+":gap:"+h.name())
		require.NoError(t, err)
		return v
	}
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 3 && left() == "" }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

// What was seen does not count where it is in doubt.
func TestDoubtIsFetchedAlthoughItsRevIsKnown(t *testing.T) {
	t.Parallel()
	recent := tidOf(time.Now())
	h := newHost(t, row(1, recent), row(2, recent))
	r := newRig(t, h.URL)
	known := r.client.NewTable("firehose_live", ":state", 1000)
	require.NoError(t, known.Put(t.Context(), []string{fmt.Sprintf("did:plc:%024d", 1)}, []string{recent}))
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, known)
	require.NoError(t, g.Doubt(t.Context(), h.name(), time.Now()))
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now()), "the doubt stays")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 2 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

// A listing that never ends, in empty pages or in slow ones, is left for the
// next pass and holds no other host.
func TestListingWithoutEndHoldsNobody(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, cursor string, _ int) bool {
		n, _ := strconv.Atoi(cursor)
		_, _ = fmt.Fprintf(w, `{"repos":[],"cursor":"%d"}`, n+1)
		return true
	}
	fresh := func(w http.ResponseWriter, cursor string, _ int) bool {
		n, _ := strconv.Atoi(cursor)
		_, _ = fmt.Fprintf(w, `{"repos":[%s],"cursor":"%d"}`, row(n, "3mptbypluud2a"), n+1)
		return true
	}
	empty, slow, good, relay := newHost(t), newHost(t), newHost(t, rows(30)...), newHost(t)
	empty.refuse, slow.refuse = endless, fresh
	for _, h := range []*host{empty, slow, good} {
		relay.hosts = append(relay.hosts, fmt.Sprintf(`{"hostname":"%s"}`, h.name()))
	}
	r := newRig(t, relay.URL)
	r.cfg.Mode, r.cfg.Concurrency, r.cfg.VisitTime = enumerate.ByHosts, 1, 300*time.Millisecond
	r.run(t, func() bool { return r.cursor(t, good.name()) == "!ingester-done" })
	require.LessOrEqual(t, len(empty.limitsSeen()), 300)
	require.NotEmpty(t, r.cursor(t, slow.name()), "it goes on from there")
}

// A list of hosts without end is taken as far as it names new ones.
func TestListOfHostsWithoutEnd(t *testing.T) {
	t.Parallel()
	good := newHost(t, rows(3)...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n, _ := strconv.Atoi(req.URL.Query().Get("cursor"))
		_, _ = fmt.Fprintf(w, `{"hosts":[{"hostname":"%s"}],"cursor":"%d"}`, good.name(), n+1)
	}))
	t.Cleanup(server.Close)
	r := newRig(t, server.URL)
	r.cfg.Mode = enumerate.ByHosts
	r.run(t, func() bool { return r.cursor(t, good.name()) == "!ingester-done" })
	require.Len(t, r.jobs(t), 3)
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
