package world

import (
	"bytes"
	"context"
	"strings"
	"testing"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit/repo"
)

func small(t *testing.T, change func(*Options)) *World {
	t.Helper()
	o := Options{Seed: 7}
	if change != nil {
		change(&o)
	}
	w, err := Generate(o)
	require.NoError(t, err)
	return w
}

func TestSameSeedSameBytes(t *testing.T) {
	t.Parallel()
	a, b := small(t, nil), small(t, nil)
	require.Equal(t, a.Len(), b.Len())
	for i := range a.frames {
		require.Equal(t, a.frames[i].Data, b.frames[i].Data, "frame %d", i)
	}
	require.Equal(t, a.labels, b.labels)
	require.Equal(t, a.Truth(), b.Truth())
	c := small(t, func(o *Options) { o.Seed = 8 })
	require.NotEqual(t, a.frames[0].Data, c.frames[0].Data)
}

func TestEveryKindOccurs(t *testing.T) {
	t.Parallel()
	w := small(t, nil)
	kinds := w.Truth().Kinds()
	for _, c := range append(Collections(), foreignCollection) {
		require.Positive(t, kinds[c], "%s: %v", c, kinds)
	}
	stats := w.Stats()
	for _, k := range []string{
		"frame #commit", "frame #sync", "frame #identity", "frame #account", "renamed", "swapped", "paused", "moved",
		"update " + Post, "delete " + Post, "delete " + Like, "update " + Profile, "delete " + Profile, "left deleted",
	} {
		require.Positive(t, stats[k], "%s: %v", k, stats)
	}
	for name, n := range w.Counts() {
		require.Positive(t, n, name)
	}
}

// TestCommitsVerify takes the frames to the protocol's own verifier: tree,
// inversion against prevData, signature; and checks what that leaves out.
func TestCommitsVerify(t *testing.T) {
	t.Parallel()
	w := small(t, func(o *Options) { o.Accounts, o.Records = 60, 8000 })
	heads := map[string]cid.Cid{}
	multi, last := 0, int64(0)
	for _, f := range w.frames {
		require.Greater(t, f.Seq, last)
		last = f.Seq
		kind, message, err := repo.Message(f.Data)
		require.NoError(t, err)
		require.Equal(t, f.Kind.String(), kind)
		if kind == "#sync" {
			delete(heads, f.Account.DID)
		}
		if kind != "#commit" {
			continue
		}
		var c comatproto.SyncSubscribeRepos_Commit
		require.NoError(t, c.UnmarshalCBOR(bytes.NewReader(message)))
		_, err = atrepo.VerifyCommitMessage(context.Background(), &c)
		require.NoError(t, err, "seq %d", f.Seq)
		commit, root, err := atrepo.LoadCommitFromCAR(context.Background(), bytes.NewReader(c.Blocks))
		require.NoError(t, err)
		require.NoError(t, commit.VerifySignature(f.Account.Key.Public()))
		require.Equal(t, cid.Cid(c.Commit), *root)
		require.NotNil(t, c.PrevData)
		if head, known := heads[c.Repo]; known {
			require.Equal(t, head, cid.Cid(*c.PrevData), "chain of %s at %d", c.Repo, f.Seq)
		}
		heads[c.Repo] = commit.Data
		if len(c.Ops) > 1 {
			multi++
		}
	}
	require.Positive(t, multi)
}

// TestReposHoldTheTruth loads every repository as its PDS serves it and
// compares with the model.
func TestReposHoldTheTruth(t *testing.T) {
	t.Parallel()
	w := small(t, nil)
	want := map[string]string{}
	for _, r := range w.Truth().Records {
		want[r.URI] = r.CID
	}
	got := map[string]string{}
	for _, a := range w.Accounts() {
		if w.State(a).Status == "deleted" {
			continue
		}
		var car bytes.Buffer
		require.NoError(t, a.Repo.Export(&car, ""))
		commit, loaded, err := atrepo.LoadRepoFromCAR(context.Background(), &car)
		require.NoError(t, err)
		require.NoError(t, commit.VerifySignature(a.Key.Public()))
		require.NoError(t, loaded.MST.Verify())
		err = loaded.MST.Walk(func(key []byte, value cid.Cid) error {
			got["at://"+a.DID+"/"+string(key)] = value.String()
			block, err := loaded.RecordStore.Get(context.Background(), value)
			if err == nil {
				require.Equal(t, value, repo.CID(block.RawData()))
			}
			return err
		})
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
}

func TestInvalidRecordsAreNotIndexed(t *testing.T) {
	t.Parallel()
	w := small(t, func(o *Options) { o.InvalidShare = 0.2 })
	invalid := 0
	for _, r := range w.Truth().Records {
		if !r.Indexed && !strings.Contains(r.URI, foreignCollection) {
			invalid++
		}
	}
	require.Positive(t, invalid)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := Generate(Options{Accounts: 2, Hostile: []string{"unheard_of"}})
	require.ErrorContains(t, err, "accounts is 2")
	require.ErrorContains(t, err, "unheard_of")
}
