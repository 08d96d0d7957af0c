package app

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

var (
	proofSeed  = flag.Uint64("seed", 0, "chooses the pairs of faults and the worlds; 0: by chance")
	proofPairs = flag.Int("pairs", 4, "pairs of faults for each number of relays; SLUICE_SOAK tries all")
)

// ourFaults are the faults of the simulated network that an ingester meets,
// and when they fire.
func ourFaults() map[string]string {
	out := map[string]string{}
	for _, f := range simnet.StreamFaults() {
		out[f] = f + "=2/40"
	}
	for _, f := range simnet.OtherFaults() {
		switch {
		case strings.HasPrefix(f, "plc_"):
			out[f] = f + "=2/3"
		case strings.HasPrefix(f, "list_"):
			out[f] = f + "=1/1"
		case strings.HasPrefix(f, "label_"):
			out[f] = f + "=2/9"
		}
	}
	return out
}

// proof is one run: a world, relays, and the faults they have.
type proof struct {
	seed   uint64
	relays int
	faults []string
}

func (p proof) String() string {
	return fmt.Sprintf("%d relays, seed %d, %s", p.relays, p.seed, strings.Join(p.faults, " and "))
}

// proofs are every fault alone and pairs of them: all pairs for a soak, else a
// sample.
func proofs() []proof {
	names := make([]string, 0, 40)
	for name := range ourFaults() {
		names = append(names, name)
	}
	slices.Sort(names)
	seed := *proofSeed
	if seed == 0 {
		seed = rand.Uint64N(1_000_000) + 1
	}
	soak := os.Getenv("SLUICE_SOAK") != ""
	chance := rand.New(rand.NewPCG(seed, 0))
	var out []proof
	for i, name := range names {
		for n, relays := range []int{1, 3} {
			if soak || i%2 == n {
				out = append(out, proof{seed, relays, []string{name}})
			}
		}
	}
	var pairs [][]string
	for i, a := range names {
		for _, b := range names[i+1:] {
			pairs = append(pairs, []string{a, b})
		}
	}
	for _, relays := range []int{1, 3} {
		chance.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		for i, pair := range pairs {
			if soak || i < *proofPairs {
				out = append(out, proof{seed, relays, pair})
			}
		}
	}
	return out
}

// Whatever goes wrong in the network, in the end the stream and the
// repositories that it asks to be fetched are the truth: records, listing and
// labels.
func TestEveryFaultAloneAndInPairs(t *testing.T) {
	t.Parallel()
	for _, p := range proofs() {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			p.run(t)
		})
	}
}

func (p proof) run(t *testing.T) {
	t.Helper()
	plans, records := ourFaults(), 250
	if os.Getenv("SLUICE_SOAK") != "" {
		records = 500
	}
	var spec []string
	for _, f := range p.faults {
		spec = append(spec, plans[f])
	}
	n := simnet.Start(t, simnet.Options{
		World:  world.Options{Seed: p.seed, Accounts: 16, Records: records, Labels: 60, BackfillShare: -1},
		Faults: strings.Join(spec, ","), Relays: p.relays, StallTime: 1200 * time.Millisecond, SlowPause: 5 * time.Millisecond, RetryAfter: time.Second,
	})
	r := newRig(t, n.Env())
	r.env["INGESTER_DATA_IDLE_SECS"] = "1"
	if slices.Contains(p.faults, simnet.FaultPLCEndless) {
		r.env["INGESTER_IDENTITY_PATIENCE_SECS"] = "30"
	}
	r.start()
	r.caughtUp(n)
	r.listed(n)
	require.Empty(t, n.Faults.Pending(), "planned faults did not fire")
	for _, f := range p.faults {
		require.Positive(t, n.Faults.Fired(f), f)
	}
	r.labels(n)
	r.agrees(n)
	r.wholeTruth(n)
}

// listed waits for the end of the listings and the labels.
func (r *rig) listed(n *simnet.Network) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		for _, relay := range n.RelayHosts {
			if r.get("repo_backfill:cursor:"+strings.TrimPrefix(relay, "ws://")) != "!ingester-done" {
				return false
			}
		}
		return r.get("label_live:cursor:"+strings.TrimPrefix(n.LabelerHost, "ws://")) == itoa(n.World.LastLabel())
	}, 60*time.Second, 10*time.Millisecond, "listing and labels do not come to their end")
	listed := map[string]bool{}
	for _, j := range r.jobs() {
		if j.Reason == event.ReasonEnumerate {
			listed[j.DID] = true
		}
	}
	for _, a := range n.Truth().Accounts {
		if a.Status != "deleted" {
			require.True(r.t, listed[a.DID], "%s is not listed", a.DID)
		}
	}
}

// wholeTruth does what is asked for on the job stream, the repositories in
// doubt, and compares what is alive then with the model of the world. What is
// older than all frames and was not fetched is left to the backfill.
func (r *rig) wholeTruth(n *simnet.Network) {
	r.t.Helper()
	keep, err := r.config().keep()
	require.NoError(r.t, err)
	truth := n.Truth()
	accounts := map[string]world.AccountTruth{}
	for _, a := range truth.Accounts {
		accounts[a.DID] = a
	}
	got := map[string]version{}
	events := r.events()
	for i := range events {
		fold(got, &events[i])
	}
	for did := range r.resyncs() {
		if accounts[did].Status == "" {
			r.fetch(n.PDSURLs[accounts[did].PDS], did, keep.Keep, got)
		}
	}
	var wrong []string
	checked, oldest := 0, firstRev(r.t, n)
	for _, rec := range truth.Records {
		v, there := got[rec.URI]
		delete(got, rec.URI)
		switch collection := strings.Split(rec.URI, "/")[3]; {
		case accounts[didOf(rec.URI)].Status != "" || !keep.Keep(collection):
		case !there && rec.Rev < oldest:
		case v.cid != rec.CID:
			wrong = append(wrong, fmt.Sprintf("%s is %q at %q, true is %s at %s", rec.URI, v.cid, v.rev, rec.CID, rec.Rev))
		default:
			checked++
		}
	}
	for uri, v := range got {
		if v.cid != "" && accounts[didOf(uri)].Status == "" {
			wrong = append(wrong, fmt.Sprintf("%s is %s at %s, true is nothing", uri, v.cid, v.rev))
		}
	}
	require.Empty(r.t, wrong)
	require.Positive(r.t, checked)
}

// firstRev is the oldest rev of all frames.
func firstRev(t *testing.T, n *simnet.Network) (rev string) {
	t.Helper()
	frames, _ := n.World.Frames(0, 1<<30)
	for _, raw := range frames {
		f, err := atproto.ParseFrame(raw.Data)
		require.NoError(t, err)
		if f.Commit != nil && (rev == "" || f.Commit.Rev < rev) {
			rev = f.Commit.Rev
		}
	}
	return rev
}

// fetch puts a repository as its server has it in the place of what was
// gathered, but for what is newer.
func (r *rig) fetch(pds, did string, keep func(string) bool, into map[string]version) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, pds+"/xrpc/com.atproto.sync.getRepo?did="+did, http.NoBody)
	require.NoError(r.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	require.Equal(r.t, http.StatusOK, resp.StatusCode, did)
	fresh := map[string]version{}
	info, err := atproto.ReadRepo(context.Background(), resp.Body, atproto.RepoOptions{DID: did}, func(rec atproto.Record) error {
		if keep(rec.Collection) {
			fresh["at://"+did+"/"+rec.Collection+"/"+rec.RKey] = version{cid: rec.CID.String()}
		}
		return nil
	})
	require.NoError(r.t, err)
	for uri, v := range into {
		if didOf(uri) == did && v.rev <= info.Rev {
			delete(into, uri)
		}
	}
	for uri, v := range fresh {
		if newer, ok := into[uri]; !ok || newer.rev <= info.Rev {
			v.rev = info.Rev
			into[uri] = v
		}
	}
}
