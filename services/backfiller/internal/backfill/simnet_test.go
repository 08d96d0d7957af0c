package backfill

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit/simnet"
	simworld "sluice/pkg/testkit/world"
)

// network is a simulated network with a rig beside it.
func (r *rig) network(o simnet.Options) (*simnet.Network, Directory) {
	r.t.Helper()
	n := simnet.Start(r.t, o)
	d, err := atproto.NewDirectory(atproto.DirectoryConfig{PLCURL: n.PLCURL, Client: testHTTP(r.t), PLCRate: 10_000})
	require.NoError(r.t, err)
	return n, d
}

func (r *rig) enumerateNetwork(n *simnet.Network) {
	r.t.Helper()
	jobs := make([]event.RepoJob, 0)
	for _, a := range n.Truth().Accounts {
		jobs = append(jobs, event.RepoJob{DID: a.DID, Host: "listed.test", Rev: a.Rev, Active: a.Status == ""})
	}
	r.jobs(jobs...)
}

// sameAsTruth compares the output with what is true of the active accounts.
func (r *rig) sameAsTruth(n *simnet.Network) {
	r.t.Helper()
	f, err := NewFilter(testConfig().Collections)
	require.NoError(r.t, err)
	truth := n.Truth()
	active := map[string]bool{}
	for _, a := range truth.Accounts {
		active[a.DID] = a.Status == "" && a.Hostile == ""
	}
	want := map[string]string{}
	for _, x := range truth.Records {
		did, path, _ := strings.Cut(strings.TrimPrefix(x.URI, "at://"), "/")
		if collection, _, _ := strings.Cut(path, "/"); active[did] && f.Keep(collection) {
			want[x.URI] = x.CID
		}
	}
	out := r.output()
	got := map[string]string{}
	for uri, cid := range out.records {
		did, _, _ := strings.Cut(strings.TrimPrefix(uri, "at://"), "/")
		if active[did] {
			got[uri] = cid
		}
	}
	require.NotEmpty(r.t, want)
	require.Equal(r.t, want, got)
	for _, a := range truth.Accounts {
		switch {
		case active[a.DID]:
			require.Equal(r.t, Record{State: StateDone, Rev: a.Rev}, r.state(a.DID))
			require.Contains(r.t, out.closed, a.DID)
		case a.Hostile == "":
			require.Equal(r.t, StateGone, r.state(a.DID).State, "%s is %s", a.DID, a.Status)
		}
	}
}

// The simulated network, with every fault of servers and directory, through
// the backfill is the truth.
func TestBackfillSimulatedNetwork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	faults := append(simnet.RepoFaults(), simnet.FaultPLC429, simnet.FaultPLC5xx)
	n, dir := r.network(simnet.Options{
		World:  simworld.Options{Seed: 7, Accounts: 60, Records: 2000, PDS: 4},
		Faults: strings.Join(faults, ","), RetryAfter: 200 * time.Millisecond, SlowPause: time.Millisecond,
	})
	r.enumerateNetwork(n)
	_, stop := r.startWith(dir)
	r.drained(60 * time.Second)
	require.NoError(t, stop())
	r.sameAsTruth(n)
	require.Empty(t, r.dead())
	for _, name := range faults {
		require.Positive(t, n.Faults.Fired(name), "%s has fired", name)
	}
}

// Repositories that are traps cost bounded memory and time, and nobody else
// anything.
//
//nolint:paralleltest // it measures the heap
func TestBackfillHostileRepositories(t *testing.T) {
	r := newRig(t)
	kinds := simworld.HostileKinds()
	records := 10_000
	if os.Getenv("SLUICE_SOAK") != "" {
		records = 200_000
	}
	n, dir := r.network(simnet.Options{
		World:          simworld.Options{Seed: 9, Accounts: 40, Records: 500, PDS: 2, Hostile: kinds},
		HostileRecords: records,
	})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := watchHeap(t)
	x := r.startOn(dir, func(c *Config) {
		c.Retry.Max = 1
		c.Fetch.Timeout = 15 * time.Second // not less: a slow machine must not time out what ends otherwise
		c.Fetch.MaxBytes = 24 << 20
		c.MemoryLimit = 32 << 20
	})
	r.enumerateNetwork(n)
	r.drained(200 * time.Second)
	grown := int64(peak()) - int64(before.HeapAlloc)
	t.Logf("heap grew by at most %d MB", grown>>20)
	require.Less(t, grown, int64(256<<20))
	require.NoError(t, x.stop())
	r.sameAsTruth(n)
	want := map[Reason]int{}
	for _, a := range n.Truth().Accounts {
		if a.Hostile == "" {
			continue
		}
		end, known := hostileEnds[a.Hostile]
		require.True(t, known, a.Hostile)
		got := r.state(a.DID)
		state := StateFailed
		if end.reason == "" {
			state = StateDone
		} else {
			want[end.reason] += end.attempts
		}
		require.Equal(t, state, got.State, a.Hostile)
		require.Equal(t, string(end.reason), got.Reason, a.Hostile)
		require.Positive(t, n.Faults.Fired("hostile_"+a.Hostile), a.Hostile)
	}
	for reason, attempts := range want {
		require.InDelta(t, attempts, x.metric("sluice_backfill_attempts_total", string(reason)), 0, "%s is counted once an attempt", reason)
	}
	require.EqualValues(t, 2, x.rejected(), "records with a key twice and without end")
}
