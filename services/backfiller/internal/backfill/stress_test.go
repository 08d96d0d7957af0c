package backfill

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
)

// The gate is asked before every chunk: the output passes the mark by at most
// one chunk for each repository in flight.
func TestBackfillGateOvershoot(t *testing.T) {
	t.Parallel()
	const high, inFlight = 1500, 4
	r := newRig(t)
	h := r.w.newHost(t)
	var as []*account
	for range 11 {
		as = append(as, r.w.add(t, h, 1300))
	}
	x := r.start(func(c *Config) { c.HighWater, c.Concurrency = high, inFlight })
	r.enumerate(as...)
	records, closed := map[string]bool{}, map[string]bool{}
	peak := int64(0)
	watch := func() int64 {
		n, err := r.redis.Len(t.Context(), "firehose_backfill")
		require.NoError(t, err)
		peak = max(peak, n)
		return n
	}
	closings := 0
	for !r.idle() {
		eventually(t, 20*time.Second, "gate closes or all is done", func() bool { return watch() >= high || r.idle() })
		if !r.idle() {
			// It stays closed, and nothing more comes, until somebody reads.
			eventually(t, 5*time.Second, "gate is closed", func() bool { watch(); return x.hold.closed.Load() })
			closings++
		}
		for _, e := range r.take() {
			if e.Type == event.Repo {
				closed[e.DID] = true
			} else {
				records[e.URI()] = true
			}
		}
	}
	const most = high + inFlight*(chunkEvents+1)
	require.LessOrEqual(t, peak, int64(most))
	f, _ := NewFilter(testConfig().Collections)
	want := 0
	for _, a := range as {
		want += len(a.truth(f.Keep))
		require.True(t, closed[a.did])
	}
	require.Len(t, records, want, "waiting at the gate loses nothing")
	require.GreaterOrEqual(t, closings, want/most, "what does not fit at once waits")
}

func TestBackfillPause(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.w.add(t, r.w.newHost(t), 10)
	require.NoError(t, r.redis.SetFlag(t.Context(), "repo_backfill", pausedKey, true))
	x := r.start()
	eventually(t, 5*time.Second, "paused", func() bool { return x.hold.paused.Load() })
	r.enumerate(a)
	eventually(t, 5*time.Second, "job waits", func() bool {
		return x.metric("backfiller_repos_waiting")+x.metric("backfiller_repos_running") == 1
	})
	require.Empty(t, r.events())
	require.InDelta(t, 1, x.metric("sluice_backfill_held"), 0)
	require.NoError(t, r.redis.SetFlag(t.Context(), "repo_backfill", pausedKey, false))
	r.drained(10 * time.Second)
	r.complete(a)
}

// A host that refuses everything for long, one that never answers and a giant
// repository that comes slowly hold back nobody else.
func TestBackfillNobodyStarves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var release atomic.Bool
	refusing := r.w.newHost(t, func(w httpWriter, req *httpRequest, h *testHost, a *account) bool {
		return !release.Load() && status(429, nil, "text/html", "<html/>")(w, req, h, a)
	})
	silent := r.w.newHost(t, func(w httpWriter, req *httpRequest, h *testHost, a *account) bool {
		return !release.Load() && hang(w, req, h, a)
	})
	good := r.w.newHost(t)
	var bad, fine []*account
	for range 100 {
		bad = append(bad, r.w.add(t, refusing, 3), r.w.add(t, silent, 3))
	}
	for range 40 {
		fine = append(fine, r.w.add(t, good, 30))
	}
	x := r.start(impatient, func(c *Config) { c.Concurrency, c.Window, c.Retry.Max, c.Host.DeferMax = 8, 80, 1000, time.Second })
	r.enumerate(bad...)
	r.enumerate(fine...)
	start := time.Now()
	eventually(t, 20*time.Second, "the good host's repositories are done", func() bool {
		return x.metric("backfiller_repos_processed_total") >= float64(len(fine))
	})
	t.Logf("40 repositories behind 200 stuck ones: %s", time.Since(start).Round(time.Millisecond))
	require.Positive(t, x.metric("sluice_backfill_jobs_total", endDeferred), "some made room")
	release.Store(true)
	r.drained(60 * time.Second)
	r.complete(append(fine, bad...)...)
	require.Empty(t, r.dead())
}

func TestBackfillTwoShareAndOneDies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t)
	var as []*account
	for i := range 100 {
		as = append(as, r.w.add(t, h, 10+i/2))
	}
	one := r.start(func(c *Config) { c.Concurrency, c.Window = 4, 40 })
	two := r.start(func(c *Config) { c.Consumer, c.Concurrency, c.Window = "two", 4, 40 })
	r.enumerate(as...)
	eventually(t, 10*time.Second, "both work", func() bool {
		return one.metric("backfiller_repos_processed_total") > 5 && two.metric("backfiller_repos_processed_total") > 5
	})
	require.NoError(t, one.stop())
	r.drained(20 * time.Second)
	r.complete(as...)
	eventually(t, 10*time.Second, "who stopped has left the groups", func() bool {
		st, err := r.redis.Stats(t.Context(), "repo_backfill")
		return err == nil && len(st.Groups) == 2 && len(st.Groups[0].Consumers) == 1 && len(st.Groups[1].Consumers) == 1
	})
}

// A stop in the middle of a long repository ends within the grace time; the
// job is done by the next process.
func TestBackfillStopHandsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t, func(_ httpWriter, req *httpRequest, h *testHost, a *account) bool {
		if h.requests(a.did) > 1 {
			return false
		}
		<-req.Context().Done()
		return true
	})
	a := r.w.add(t, h, 100)
	x := r.start(func(c *Config) {
		c.Grace, c.ClaimIdle, c.Fetch.Timeout = 200*time.Millisecond, time.Minute, time.Minute
	})
	r.enumerate(a)
	eventually(t, 10*time.Second, "in flight", func() bool { return h.requests(a.did) == 1 })
	start := time.Now()
	require.NoError(t, x.stop())
	require.Less(t, time.Since(start), 3*time.Second)
	require.Empty(t, r.events())
	require.False(t, r.idle(), "the job is still there")
	r.start(func(c *Config) { c.Consumer, c.ClaimIdle = "two", time.Minute })
	r.drained(20 * time.Second)
	r.complete(a)
}

func TestBackfillRedisRestart(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	r := newRigOn(t, server.URL, "")
	h := r.w.newHost(t)
	var as []*account
	for range 40 {
		as = append(as, r.w.add(t, h, 150))
	}
	x := r.start(func(c *Config) { c.Concurrency = 4 })
	r.enumerate(as...)
	eventually(t, 10*time.Second, "under way", func() bool { return x.metric("backfiller_repos_processed_total") > 10 })
	server.Kill()
	server.Restart(t)
	r.drained(30 * time.Second)
	r.complete(as...)
	require.Empty(t, r.dead())
}

// One repository of very many records stays in bounded memory.
//
//nolint:paralleltest // it measures the heap
func TestBackfillBigRepoBoundedMemory(t *testing.T) {
	n := 20_000
	if os.Getenv("SLUICE_SOAK") != "" {
		n = 1_000_000
	}
	r := newRig(t)
	h := r.w.newHost(t)
	a := r.w.add(t, h, 0)
	path := t.TempDir() + "/repo.car"
	size := writeBulk(t, path, a, n)
	h.setFaults(func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
		f, err := os.Open(path)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/vnd.ipld.car")
		_, _ = f.WriteTo(w)
		return true
	})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := watchHeap(t)
	r.start(func(c *Config) {
		c.MemoryLimit = 4 << 20
		c.Fetch.Timeout = 10 * time.Second
		c.Fetch.MaxBytes = 1 << 30
	})
	r.jobs(event.RepoJob{DID: a.did})
	eventually(t, 300*time.Second, "done", func() bool { return r.state(a.did).State == StateDone })
	grown := int64(peak()) - int64(before.HeapAlloc)
	t.Logf("%d records, %d MB archive, heap grew by at most %d MB", n, size>>20, grown>>20)
	require.Less(t, grown, int64(256<<20))
}

// writeBulk writes the archive of n posts and returns its size.
func writeBulk(t *testing.T, path string, a *account, n int) int64 {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	bulk := repo.Bulk{DID: a.did, Rev: a.rev, Key: a.key, N: n, Record: func(i int) (string, []byte) {
		return fmt.Sprintf("app.bsky.feed.post/3l%011d", i), testRecord("app.bsky.feed.post", i)
	}}
	require.NoError(t, bulk.Write(f))
	at, err := f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	return at
}

// watchHeap returns a function that gives the highest heap seen.
func watchHeap(t *testing.T) func() uint64 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var (
		peak uint64
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() uint64 {
		cancel()
		wg.Wait()
		return peak
	}
}
