package enumerate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/ingester/internal/enumerate"
)

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
