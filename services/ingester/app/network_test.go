package app

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func network(t *testing.T, seed uint64, relays int, faults string) *simnet.Network {
	t.Helper()
	return simnet.Start(t, simnet.Options{
		World:  world.Options{Seed: seed, Accounts: 24, Records: 500, Labels: 60},
		Faults: faults, Relays: relays, StallTime: 1200 * time.Millisecond, RetryAfter: time.Second,
	})
}

func TestWorldIsIngested(t *testing.T) {
	t.Parallel()
	n := network(t, 1, 1, "")
	r := newRig(t, n.Env())
	r.start()
	r.caughtUp(n)
	r.agrees(n)
	events := r.events()
	kinds := map[event.Type]int{}
	seen := map[string]bool{}
	for i := range events {
		e := &events[i]
		kinds[e.Type]++
		id := string(e.Type) + itoa(e.Seq) + e.Collection + e.RKey
		require.False(t, seen[id], "%s is written twice", id)
		seen[id] = true
	}
	for _, k := range []event.Type{event.Create, event.Update, event.Delete, event.Repo, event.Account, event.Identity} {
		require.Positive(t, kinds[k], "no event of type %s", k)
	}
	stats := n.World.Stats()
	require.Equal(t, stats["frame #account"], kinds[event.Account])
	require.Equal(t, stats["frame #identity"], kinds[event.Identity])
	require.GreaterOrEqual(t, kinds[event.Repo], stats["frame #sync"])
	// An account that is gone by now has no key any more to check its past with.
	gone := r.metric("sluice_ingester_drops_total", "no_identity")
	require.InDelta(t, gone, r.metric("sluice_ingester_drops_total"), 0)
	require.InDelta(t, gone, r.metric("ingester_errors_total"), 0)
	require.InDelta(t, gone, r.metric("sluice_ingester_noticed_total", "invalid"), 0)

	// Only a #sync leaves a repository in doubt here.
	for did := range r.resyncs() {
		require.Positive(t, r.metric("sluice_ingester_noticed_total", "sync"), did)
	}
	for _, kind := range []string{"fork", "rev_back", "too_big"} {
		require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total", kind), 0, kind)
	}

	// Every account is listed; the labels are all there.
	require.Eventually(t, func() bool {
		return r.get("repo_backfill:cursor:"+strings.TrimPrefix(n.RelayHost, "ws://")) == "!ingester-done" &&
			r.get("label_live:cursor:"+strings.TrimPrefix(n.LabelerHost, "ws://")) == itoa(n.World.LastLabel())
	}, 60*time.Second, 10*time.Millisecond)
	listed := map[string]bool{}
	for _, j := range r.jobs() {
		if j.Reason == event.ReasonEnumerate {
			listed[j.DID] = true
		}
	}
	for _, a := range n.Truth().Accounts {
		if a.Status != "deleted" {
			require.True(t, listed[a.DID], "%s is not listed", a.DID)
		}
	}
	r.labels(n)
}

// labels compares the label stream with the labels of the world, field by field.
func (r *rig) labels(n *simnet.Network) {
	r.t.Helper()
	want := map[string]world.LabelTruth{}
	for _, l := range n.Truth().Labels {
		want[l.Src+l.URI+l.CID+l.Val] = l
	}
	got := map[string]event.Label{}
	for _, f := range r.entries("label_live") {
		labels, err := event.DecodeLabels(getter(f))
		require.NoError(r.t, err)
		require.Len(r.t, labels, 1, "one label an entry")
		l := labels[0].Label
		require.NotEmpty(r.t, labels[0].Host)
		got[l.Src+l.URI+l.CID+l.Val] = l
	}
	require.Len(r.t, got, len(want))
	for k, w := range want {
		g := got[k]
		text, err := json.Marshal(w)
		require.NoError(r.t, err)
		require.Equal(r.t, w.CTS, g.CTS, string(text))
		require.Equal(r.t, w.Neg, g.Neg)
		require.NotEmpty(r.t, g.Sig)
	}
}

// Every fault of the stream, alone: the repository is as its frames say, or is
// fetched.
func TestStreamFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range simnet.StreamFaults() {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			n := network(t, 7, 1, fault+"=3/60")
			env := maps.Clone(n.Env())
			env["INGESTER_MODE"], env["INGESTER_DATA_IDLE_SECS"] = "firehose", "1"
			r := newRig(t, env)
			r.start()
			r.caughtUp(n)
			require.Empty(t, n.Faults.Pending(), "planned faults did not fire")
			r.agrees(n)
		})
	}
}

// Faults of three relays at once: what one spoils the others bring.
func TestThreeRelaysWithFaults(t *testing.T) {
	t.Parallel()
	n := network(t, 11, 3, "disconnect=4/150,gap=3/200,garbage=3/100,duplicate=3/100,error_frame=2/300,wrong_signature=2/150,reorder=3/170")
	env := maps.Clone(n.Env())
	env["INGESTER_MODE"] = "firehose"
	r := newRig(t, env)
	r.start()
	r.caughtUp(n)
	require.Empty(t, n.Faults.Pending())
	r.agrees(n)
	written := map[string]int{}
	events := r.events()
	for i := range events {
		if e := &events[i]; e.Collection != "" {
			written[e.URI()+e.Rev]++
		}
	}
	twice := 0
	for _, times := range written {
		twice += times - 1
	}
	require.LessOrEqual(t, twice, 5, "a commit is written once, but for those that came late")
	require.Positive(t, r.metric("sluice_ingester_duplicate_frames_total"))
}
