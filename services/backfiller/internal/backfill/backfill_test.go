package backfill

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

func TestBackfillEmitsTheWorld(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hosts := []*testHost{r.w.newHost(t), r.w.newHost(t), r.w.newHost(t)}
	var as []*account
	for i := range 60 {
		as = append(as, r.w.add(t, hosts[i%3], i*13%200))
	}
	big := r.w.add(t, hosts[0], 2000)
	as = append(as, big)
	x := r.start()
	r.enumerate(as...)
	r.drained(20 * time.Second)
	out := r.complete(as...)
	require.Equal(t, int64(0), out.closed[as[0].did], "an empty repository is closed too")
	for _, a := range as {
		require.Equal(t, Record{State: StateDone, Rev: a.rev}, r.state(a.did))
		require.Equal(t, 1, out.ends[a.did])
	}
	require.Empty(t, r.dead())

	// The job stream is trimmed, and the same jobs again cost nothing.
	eventually(t, 10*time.Second, "job stream is trimmed", func() bool {
		n, err := r.redis.Len(t.Context(), "repo_backfill")
		return err == nil && n == 0
	})
	r.enumerate(as...)
	r.drained(10 * time.Second)
	require.Equal(t, 1, hosts[0].requests(big.did))
	require.InDelta(t, len(as), x.metric("sluice_backfill_jobs_total", endSkipped), 0)

	// A manual job is always done; a job for a later rev as well.
	r.jobs(event.RepoJob{DID: big.did, Rev: big.rev, Reason: event.ReasonManual})
	r.drained(10 * time.Second)
	require.Equal(t, 2, hosts[0].requests(big.did))
}

func TestBackfillProtobuf(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.w.add(t, r.w.newHost(t), 700)
	r.start(func(c *Config) { c.Encoding = event.Protobuf })
	r.enumerate(a)
	r.drained(10 * time.Second)
	r.complete(a)
}

func TestBackfillUrgentFromTheEndOfTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	slow := r.w.newHost(t, func(w httpWriter, req *httpRequest, _ *testHost, _ *account) bool {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-req.Context().Done():
		}
		return false
	})
	var as []*account
	for range 600 {
		as = append(as, r.w.add(t, slow, 1))
	}
	urgentOne := r.w.add(t, r.w.newHost(t), 5)
	r.enumerate(as...)
	r.jobs(event.RepoJob{DID: urgentOne.did, Reason: event.ReasonManual})
	x := r.start(func(c *Config) { c.Concurrency, c.Window = 2, 20 })
	eventually(t, 10*time.Second, "urgent job done", func() bool { return r.state(urgentOne.did).State == StateDone })
	require.Less(t, x.metric("backfiller_repos_processed_total"), 100.0, "it did not wait for the bulk")
}

func TestBackfillGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reasons := map[string]Reason{
		"RepoNotFound": RepoNotFound, "RepoTakendown": RepoTakendown, "RepoSuspended": RepoSuspended, "RepoDeactivated": RepoDeactivated,
	}
	want := map[string]Reason{}
	for name, reason := range reasons {
		h := r.w.newHost(t, func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
			xrpcError(w, 400, name, "gone")
			return true
		})
		want[r.w.add(t, h, 3).did] = reason
	}
	noPDS := r.w.add(t, r.w.newHost(t), 3)
	noPDS.pds = ""
	want[noPDS.did] = NoPDS
	private := r.w.add(t, r.w.newHost(t), 3)
	private.pds = "http://169.254.169.254"
	want[private.did] = AddressRefused
	unknown := "did:plc:zzzzzzzzzzzzzzzzzzzzzzzz"
	want[unknown] = DIDGone

	x := r.start()
	for did := range want {
		r.jobs(event.RepoJob{DID: did})
	}
	r.drained(10 * time.Second)
	for did, reason := range want {
		require.Equal(t, Record{State: StateGone, Reason: string(reason)}, r.state(did))
	}
	require.Empty(t, r.dead(), "gone is not an error of ours")
	require.Empty(t, r.events())
	require.InDelta(t, len(want), x.metric("sluice_backfill_jobs_total", endGone), 0)
}

func TestBackfillPoison(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.w.add(t, r.w.newHost(t), 10)
	x := r.start()
	for _, v := range []string{"", "{", `{"did":"nonsense"}`, `{"host":"x"}`, `[]`} {
		r.raw("repo", v)
	}
	r.raw("other", "1")
	r.enumerate(a)
	r.drained(10 * time.Second)
	require.Len(t, r.dead(), 6)
	for _, d := range r.dead() {
		require.Equal(t, parkUnreadable, d.Reason)
	}
	r.complete(a)
	require.InDelta(t, 6, x.metric("backfiller_repos_dead_lettered_total"), 0)
}

// Retry and dead letters are reached by a host that fails, and a redriven job
// starts afresh.
func TestBackfillRetriesThenDeadLettersThenRedrive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t, func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	a := r.w.add(t, h, 10)
	x := r.start(func(c *Config) { c.Retry.Max = 3 })
	r.enumerate(a)
	eventually(t, 20*time.Second, "dead letter", func() bool { return len(r.dead()) == 1 })
	r.drained(10 * time.Second)
	d := r.dead()[0]
	require.Equal(t, "retries_exhausted", d.Reason)
	require.Equal(t, int64(4), d.Attempts)
	require.Contains(t, d.Error, "host_error")
	require.Len(t, d.Fields, 1, "the job is as it came")
	require.Equal(t, 4, h.requests(a.did))
	require.Equal(t, Record{State: StateFailed, Reason: string(HostError)}, r.state(a.did))
	require.InDelta(t, 3, x.metric("backfiller_retries_attempted_total"), 0)
	require.InDelta(t, 1, x.metric("backfiller_repos_dead_lettered_total"), 0)
	require.InDelta(t, 4, x.metric("backfiller_car_fetch_errors_total"), 0)

	h.setFaults()
	n, err := r.redis.DeadLetters("repo_backfill", "repo_backfill_dlq").Redrive(t.Context(), redriveAll)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	eventually(t, 10*time.Second, "redriven job done", func() bool { return r.state(a.did).State == StateDone })
	r.complete(a)
}

// What failed is put off in Redis: a restart does not forget it, nor the
// attempts that were made.
func TestBackfillRetrySurvivesRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t, func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	a := r.w.add(t, h, 10)
	edit := func(c *Config) {
		c.Retry = RetryConfig{Max: 1, Initial: 1500 * time.Millisecond, MaxBackoff: 2 * time.Second}
	}
	x := r.start(edit)
	r.enumerate(a)
	eventually(t, 10*time.Second, "put off", func() bool { return r.state(a.did).State == StateWaiting })
	require.NoError(t, x.stop())
	require.Empty(t, r.dead())
	r.start(edit)
	eventually(t, 20*time.Second, "dead letter after the second attempt", func() bool { return len(r.dead()) == 1 })
	require.Equal(t, 2, h.requests(a.did))
}

func TestBackfillMovedAccount(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	oldHost, newHost := r.w.newHost(t), r.w.newHost(t)
	a := r.w.add(t, oldHost, 40)
	// The directory answers with the old host first, as a cache would.
	stale := &staleDirectory{Directory: r.w.directory(t), stale: map[string]string{a.did: oldHost.URL}}
	r.w.move(a, newHost)
	b, stop := r.startWith(stale)
	r.enumerate(a)
	r.drained(10 * time.Second)
	require.NoError(t, stop())
	r.complete(a)
	require.Equal(t, 1, oldHost.requests(a.did))
	require.Equal(t, 1, newHost.requests(a.did))
	_, running, _ := b.sched.counts()
	require.Zero(t, running)
}

// The old host of a moved account may go on serving what it has.
func TestBackfillOldHostStillServes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.w.newHost(t)
	newHost := r.w.newHost(t)
	a := r.w.add(t, old, 10)
	before := a.car()
	old.setFaults(func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
		_, _ = w.Write(before)
		return true
	})
	r.w.move(a, newHost)
	a.edit(func(a *account) {
		a.records["app.bsky.feed.post/3mnewrecord22"] = testRecord("app.bsky.feed.post", 99)
		a.rev = nextRev()
	})
	_, stop := r.startWith(&staleDirectory{Directory: r.w.directory(t), stale: map[string]string{a.did: old.URL}})
	r.enumerate(a)
	r.drained(10 * time.Second)
	require.NoError(t, stop())
	r.complete(a)
	require.Equal(t, a.rev, r.state(a.did).Rev)
}

// A directory in trouble costs no job an attempt.
func TestBackfillDirectoryDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t)
	var as []*account
	for range 20 {
		as = append(as, r.w.add(t, h, 5))
	}
	r.w.setPLCFault(func(w httpWriter, _ string) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	x := r.start(func(c *Config) { c.Retry.Max = 0 })
	r.enumerate(as...)
	eventually(t, 10*time.Second, "directory asked", func() bool { return r.w.plcRequests() > 5 })
	r.w.setPLCFault(nil)
	r.drained(30 * time.Second)
	r.complete(as...)
	require.Empty(t, r.dead())
	require.Zero(t, x.metric("backfiller_repos_failed_total"))
}

func TestBackfillFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.w.add(t, r.w.newHost(t), 0)
	a.edit(func(a *account) {
		for i, c := range []string{"app.bsky.feed.post", "chat.bsky.actor.declaration", "com.germnetwork.declaration", "com.whtwnd.blog.entry"} {
			a.records[c+"/self"] = testRecord(c, i)
		}
	})
	x := r.start()
	r.enumerate(a)
	r.drained(10 * time.Second)
	out := r.output()
	require.Len(t, out.records, 3)
	require.NotContains(t, out.records, "at://"+a.did+"/com.whtwnd.blog.entry/self")
	require.InDelta(t, 1, x.metric("backfiller_records_filtered_total"), 0)
	require.InDelta(t, 3, x.metric("backfiller_records_extracted_total"), 0)
}

// Two jobs for one repository do not fetch it twice at the same time, and the
// second finds it done.
func TestBackfillSameRepoTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t)
	a := r.w.add(t, h, 2000)
	for range 30 {
		r.enumerate(a)
	}
	r.jobs(event.RepoJob{DID: a.did, Rev: a.rev, Reason: event.ReasonResync})
	r.start()
	r.drained(20 * time.Second)
	r.complete(a)
	require.LessOrEqual(t, h.requests(a.did), 2)
	require.Equal(t, 1, h.peak)
}

func TestBackfillMetricsPresentAndMoving(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good := r.w.newHost(t)
	var as []*account
	for range 10 {
		as = append(as, r.w.add(t, good, 700))
	}
	spoilt := []*account{}
	for _, m := range []mischief{flipped, wrongSignature, serverError} {
		spoilt = append(spoilt, r.w.add(t, r.w.newHost(t, m), 20))
	}
	x := r.start(func(c *Config) { c.Concurrency = 4; c.Retry.Max = 1; c.HighWater = 900 })
	names := []string{
		"backfiller_repos_processed_total", "backfiller_repos_failed_total", "backfiller_repos_dead_lettered_total",
		"backfiller_records_extracted_total", "backfiller_records_filtered_total", "backfiller_retries_attempted_total",
		"backfiller_repos_waiting", "backfiller_repos_running", "backfiller_output_stream_length",
		"backfiller_car_fetch_errors_total", "backfiller_car_parse_errors_total", "backfiller_verification_errors_total",
		"sluice_backfill_fetched_bytes_total", "sluice_backfill_held", "sluice_backfill_append_seconds", "sluice_backfill_repo_seconds",
		"sluice_backfill_repos",
	}
	for _, n := range names {
		require.Zero(t, x.metric(n), "%s is there before anything happened", n)
	}
	r.enumerate(as...)
	r.enumerate(spoilt...)
	seen := map[string]bool{}
	defer func() {
		for _, n := range names {
			if !seen[n] {
				t.Logf("%s did not move", n)
			}
		}
	}()
	eventually(t, 60*time.Second, fmt.Sprintf("all of %d metrics moved", len(names)), func() bool {
		for _, n := range names {
			if x.metric(n) > 0 {
				seen[n] = true
			}
		}
		if n, _ := r.redis.Len(t.Context(), "firehose_backfill"); n >= 900 && seen["sluice_backfill_held"] && seen["backfiller_repos_waiting"] && seen["backfiller_output_stream_length"] {
			r.take()
		}
		return len(seen) == len(names)
	})
	eventually(t, 60*time.Second, "progress adds up", func() bool {
		r.take()
		p := x.Progress()
		return p.Repos["done"] == 10 && p.Repos["failed"] == 3 && p.Left == 0 && p.Totals["repos"] == 10
	})
}

// A body without end costs its bound, once.
func TestBackfillEndlessBody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t, endless)
	a, b := r.w.add(t, h, 30), r.w.add(t, r.w.newHost(t), 30)
	x := r.start(func(c *Config) { c.Fetch.MaxBytes, c.Fetch.Timeout = 2<<20, 5*time.Second })
	r.enumerate(a, b)
	r.drained(20 * time.Second)
	require.Equal(t, Record{State: StateFailed, Reason: string(TooLarge)}, r.state(a.did))
	require.Equal(t, 1, h.requests(a.did), "another try cannot help")
	require.Len(t, r.dead(), 1)
	require.Equal(t, string(TooLarge), r.dead()[0].Reason)
	require.Less(t, x.metric("sluice_backfill_fetched_bytes_total"), 3e6)
	r.complete(b)
}
