package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"
)

// follow reads the whole stream as a client does that reconnects at the
// highest sequence number it has seen.
func follow(t *testing.T, n *Network, relay string) (frames [][]byte, connections int) {
	t.Helper()
	_, last := n.World.Seqs()
	for i, r := range n.RelayHosts {
		if r == relay {
			last += int64(i) * seqStep
		}
	}
	var cursor int64
	for cursor < last && connections < 200 {
		connections++
		r := subscribe(t, fmt.Sprintf("%s/xrpc/com.atproto.sync.subscribeRepos?cursor=%d", relay, cursor))
		for cursor < last {
			data := r.next()
			if data == nil {
				break
			}
			frames = append(frames, data)
			cursor = max(cursor, seqOf(data))
		}
		_ = r.conn.Close()
	}
	require.Equal(t, last, cursor)
	return frames, connections
}

func seqOf(data []byte) int64 {
	_, message, err := repo.Message(data)
	if err != nil {
		return 0
	}
	var m struct {
		Seq int64 `cbor:"seq"`
	}
	_ = cbor.Unmarshal(message, &m)
	return m.Seq
}

func TestEveryStreamFaultFires(t *testing.T) {
	t.Parallel()
	n := start(t, func(o *Options) {
		o.Relays = 2
		var list []string
		for _, name := range StreamFaults() {
			list = append(list, name+"=2/15")
		}
		o.Faults = strings.Join(list, ",")
	})
	frames, connections := follow(t, n, n.RelayHosts[1])
	require.Empty(t, n.Faults.Pending())
	for _, name := range StreamFaults() {
		require.Equal(t, 2, n.Faults.Fired(name), name)
	}
	require.GreaterOrEqual(t, connections, 5, "disconnects and error frames end connections")
	// What a relay has spoiled stays spoiled there.
	again, _ := follow(t, n, n.RelayHosts[1])
	truth := map[string]bool{}
	all, _ := n.World.Frames(0, 1<<20)
	for _, f := range all {
		truth[string(reseq(f.Data, f.Seq, seqStep))] = true
	}
	require.Equal(t, foreign(frames, truth), foreign(again, truth))
	// The other relay has faults of its own: none are left for it.
	other, _ := follow(t, n, n.RelayHosts[0])
	require.Len(t, other, len(all))
}

// foreign returns the frames of a seq that are not the world's own.
func foreign(frames [][]byte, truth map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, f := range frames {
		if !truth[string(f)] && seqOf(f) > 0 {
			out[repo.RawCID(f).String()] = true
		}
	}
	return out
}

func TestSpoiledCommitsDoNotVerify(t *testing.T) {
	t.Parallel()
	w, err := world.Generate(world.Options{Seed: 9, Records: 300})
	require.NoError(t, err)
	frames, _ := w.Frames(0, 1<<20)
	for i := range frames {
		if f := &frames[i]; f.Kind == world.Commit {
			require.NoError(t, verify(f.Account, f.Data))
			for _, name := range damaging() {
				if name == FaultGap || name == FaultReorder {
					continue
				}
				data, err := spoil(name, f)
				require.NoError(t, err, name)
				require.Error(t, verify(f.Account, data), name)
			}
			return
		}
	}
	t.Fatal("no commit")
}

// verify is what a careful reader checks of a commit.
func verify(a *world.Account, data []byte) error {
	_, message, err := repo.Message(data)
	if err != nil {
		return err
	}
	strict, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF}.DecMode()
	if err != nil {
		return err
	}
	if err := strict.Unmarshal(message, new(any)); err != nil {
		return err
	}
	var m comatproto.SyncSubscribeRepos_Commit
	if err := m.UnmarshalCBOR(bytes.NewReader(message)); err != nil {
		return err
	}
	if m.TooBig {
		return errors.New("too big")
	}
	ctx := context.Background()
	if _, err := atrepo.VerifyCommitMessage(ctx, &m); err != nil {
		return err
	}
	root, blocks, err := repo.ReadCAR(m.Blocks)
	if err != nil {
		return err
	}
	if root != cid.Cid(m.Commit) {
		return errors.New("commit is not the root")
	}
	for _, b := range blocks {
		if repo.CID(b.Data) != b.CID {
			return errors.New("block does not hash to its cid")
		}
	}
	commit, _, err := atrepo.LoadCommitFromCAR(ctx, bytes.NewReader(m.Blocks))
	if err != nil {
		return err
	}
	if commit.Rev > "3m" {
		return errors.New("rev of the future")
	}
	return commit.VerifySignature(a.Key.Public())
}

func TestEveryServerFaultFires(t *testing.T) {
	t.Parallel()
	n := start(t, func(o *Options) { o.Faults = "all=2/2" })
	good := 0
	for _, a := range n.World.Accounts() {
		if !n.World.State(a).Active() {
			continue
		}
		for range 8 {
			fetchSome(n.PLCURL+"/"+a.DID, 1<<20)
		}
		tryFetch(relayURL(n) + "/xrpc/com.atproto.sync.listRepos")
		// Each fault hits a repository once, so it is whole in the end.
		for attempt := range len(RepoFaults()) + 1 {
			got := tryFetch(relayURL(n) + "/xrpc/com.atproto.sync.getRepo?did=" + a.DID)
			if got.err == nil && got.status == http.StatusOK && whole(a, got.body) {
				good++
				break
			}
			require.Less(t, attempt, len(RepoFaults()), a.DID)
		}
	}
	require.Positive(t, good)
	for range 4 {
		r := subscribe(t, n.LabelerHost+"/xrpc/com.atproto.label.subscribeLabels?cursor=0")
		r.drain(nil)
	}
	for _, name := range append(RepoFaults(), OtherFaults()...) {
		require.Equal(t, 2, n.Faults.Fired(name), name)
	}
}

func whole(a *world.Account, car []byte) bool {
	commit, r, err := atrepo.LoadRepoFromCAR(context.Background(), bytes.NewReader(car))
	if err != nil || commit.VerifySignature(a.Key.Public()) != nil || r.MST.IsPartial() {
		return false
	}
	records := 0
	err = r.MST.Walk(func(_ []byte, c cid.Cid) error {
		b, err := r.RecordStore.Get(context.Background(), c)
		if err == nil && repo.CID(b.RawData()) != c {
			err = errors.New("wrong cid")
		}
		records++
		return err
	})
	return err == nil && records == a.Repo.Len()
}

func TestRateLimitsSayWhen(t *testing.T) {
	t.Parallel()
	n := start(t, func(o *Options) { o.Faults = "pds_429=1/1,pds_429_html=1/1" })
	a := n.World.Accounts()[0]
	url := relayURL(n) + "/xrpc/com.atproto.sync.getRepo?did=" + a.DID
	got := tryFetch(url)
	require.NoError(t, got.err)
	require.Equal(t, http.StatusTooManyRequests, got.status)
	require.Equal(t, "1", got.header.Get("Retry-After"))
	require.NotEmpty(t, got.header.Get("Ratelimit-Reset"))
	got = tryFetch(url)
	require.NoError(t, got.err)
	require.Equal(t, http.StatusTooManyRequests, got.status)
	require.Empty(t, got.header.Get("Retry-After"))
	require.Contains(t, string(got.body), "<html>")
}

func TestHostileRepositoriesAreTraps(t *testing.T) {
	t.Parallel()
	n := start(t, func(o *Options) {
		o.World.Hostile, o.HostileRecords = world.HostileKinds(), 5000
	})
	for _, a := range n.World.Accounts() {
		if a.Hostile == "" {
			continue
		}
		got := fetchSome(n.PDSURLs[n.World.State(a).PDS]+"/xrpc/com.atproto.sync.getRepo?did="+a.DID, 16<<20)
		body, err := got.body, got.err
		require.Positive(t, n.Faults.Fired("hostile_"+a.Hostile), a.Hostile)
		switch a.Hostile {
		case "redirect_loop":
			require.ErrorContains(t, err, "stopped after 10 redirects")
		case "endless", "gzip_bomb":
			require.NoError(t, err)
			require.Len(t, body, 16<<20, a.Hostile)
		case "tiny_records", "deep_record", "duplicate_keys", "giant":
			require.NoError(t, err)
			_, _, err := repo.ReadCAR(body)
			require.NoError(t, err, a.Hostile)
		default:
			require.NoError(t, err)
			require.Less(t, len(body), 16<<20, a.Hostile)
		}
	}
	truth := n.Truth()
	for _, r := range truth.Records {
		a := n.World.Account(strings.Split(r.URI, "/")[2])
		require.Empty(t, a.Hostile)
	}
}

func TestFaultListIsChecked(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{"earthquake", "gap=x", "gap=1/0", "gap=1/x"} {
		_, err := New(Options{World: world.Options{Records: 100}, Faults: spec})
		require.Error(t, err, spec)
	}
	_, err := New(Options{Role: "plc"})
	require.ErrorContains(t, err, "base port")
}
