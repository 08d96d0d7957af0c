package atproto_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/testkit"
)

const (
	testDID = "did:plc:wq4aajammjtxdomz3e23667t"
	testRev = "3mptbypluud2a"
	newRev  = "3mptbypluud2b"
	testNow = "2026-07-04T15:00:00Z"
)

func post(text string) []byte {
	b := dagcbor.AppendMap(nil, 2)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "text"), text)
	return dagcbor.AppendText(dagcbor.AppendText(b, "$type"), "app.bsky.feed.post")
}

// account is a repository that a test changes, commit by commit.
type account struct {
	key    atcrypto.PrivateKey
	store  atproto.Store
	leaves map[string]atproto.CID
	data   atproto.CID
}

func newAccount(tb testing.TB) *account {
	tb.Helper()
	a := &account{key: newKey(tb), store: atproto.Store{}, leaves: map[string]atproto.CID{}}
	for name := range strings.FieldsSeq(string(interop(tb, "example_keys.txt"))) {
		a.leaves["app.bsky.feed.post/"+strings.ReplaceAll(name, "/", "-")] = a.store.Put(post(name))
	}
	a.data = a.store.Tree(a.leaves)
	return a
}

// commit applies operations and returns the commit that says so, with the whole
// repository as its archive.
func (a *account) commit(ops ...atproto.Op) *atproto.Commit {
	c := &atproto.Commit{Seq: 7, DID: testDID, Time: testNow, Rev: newRev, PrevData: a.data, Ops: ops, NumOps: len(ops)}
	for i := range c.Ops {
		op := &c.Ops[i]
		op.Prev = a.leaves[op.Path]
		if op.Action == atproto.ActionDelete {
			delete(a.leaves, op.Path)
		} else {
			a.leaves[op.Path] = op.CID
		}
	}
	a.data = a.store.Tree(a.leaves)
	c.Commit = a.store.Commit(testDID, newRev, a.data, a.key)
	c.Blocks = a.store.CAR(c.Commit)
	return c
}

func (a *account) sample() *atproto.Commit {
	create := a.store.Put(post("created"))
	update := a.store.Put(post("updated"))
	return a.commit(
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/new", CID: create},
		atproto.Op{Action: atproto.ActionUpdate, Path: "app.bsky.feed.post/A0-374913", CID: update},
		atproto.Op{Action: atproto.ActionDelete, Path: "app.bsky.feed.post/B1-986427"},
	)
}

func (a *account) keys(tb testing.TB) atproto.Keys {
	tb.Helper()
	id := atproto.Identity{DID: testDID}
	return atproto.Keys{testDID: atproto.WithKey(id, publicKey(tb, a.key))}
}

func clock() time.Time {
	now, _ := time.Parse(time.RFC3339, testNow)
	return now
}

// reparse sends a commit over the wire.
func reparse(tb testing.TB, c *atproto.Commit) *atproto.Commit {
	tb.Helper()
	f, err := atproto.ParseFrame(c.Frame())
	require.NoError(tb, err)
	require.Equal(tb, atproto.KindCommit, f.Kind)
	return f.Commit
}

func TestVerifyAcceptsWhatIsRight(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	c := reparse(t, a.sample())
	v := atproto.NewVerifier(a.keys(t), clock)
	for level, want := range map[atproto.Level]atproto.Verdict{
		atproto.Off:       {Data: a.data},
		atproto.Structure: {Data: a.data, Proven: true},
		atproto.Full:      {Data: a.data, Proven: true, Signed: true},
	} {
		got, err := v.Verify(t.Context(), c, level)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	events, err := c.Events(nil, all, func(_ *atproto.Op, err error) { t.Error(err) })
	require.NoError(t, err)
	require.Len(t, events, 3)
	require.Equal(t, []event.Type{event.Create, event.Update, event.Delete}, []event.Type{events[0].Type, events[1].Type, events[2].Type})
	require.Equal(t, event.Event{
		Type: event.Delete, Seq: 7, Time: testNow, DID: testDID, Commit: c.Commit.String(), Rev: newRev,
		Collection: "app.bsky.feed.post", RKey: "B1-986427",
	}, events[2])
	require.Equal(t, post("created"), events[0].RecordCBOR)
	events, err = c.Events(nil, func(string) bool { return false }, nil)
	require.NoError(t, err)
	require.Empty(t, events)
}

// resign makes the signed commit of c anew.
func (a *account) resign(c *atproto.Commit, did, rev string, data atproto.CID) {
	c.Commit = a.store.Commit(did, rev, data, a.key)
	c.Blocks = a.store.CAR(c.Commit)
}

// without takes a block out of the archive.
func (a *account) without(c *atproto.Commit, id atproto.CID) {
	delete(a.store, id)
	c.Blocks = a.store.CAR(c.Commit)
}

func TestVerifyRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]struct {
		mutate func(a *account, c *atproto.Commit)
		level  atproto.Level
		want   event.Reason
	}{
		"envelope cid is not the root": {func(_ *account, c *atproto.Commit) { c.Commit = atproto.SumCID([]byte("x")) }, atproto.Off, event.ReasonBadCommit},
		"wrong prevData":               {func(_ *account, c *atproto.Commit) { c.PrevData = c.Ops[0].CID }, atproto.Structure, event.ReasonBadProof},
		"operation left out":           {func(_ *account, c *atproto.Commit) { c.Ops = c.Ops[1:] }, atproto.Structure, event.ReasonBadProof},
		"operation made up":            {func(_ *account, c *atproto.Commit) { c.Ops = append(c.Ops, c.Ops[1]); c.Ops[3].Path += "x" }, atproto.Structure, event.ReasonBadCID},
		"wrong op cid":                 {func(_ *account, c *atproto.Commit) { c.Ops[0].CID = c.Ops[1].CID }, atproto.Structure, event.ReasonBadCID},
		"op cid without block":         {func(_ *account, c *atproto.Commit) { c.Ops[0].CID = atproto.SumCID([]byte("x")) }, atproto.Structure, event.ReasonNoRecord},
		"wrong prev":                   {func(_ *account, c *atproto.Commit) { c.Ops[1].Prev = c.Ops[0].CID }, atproto.Structure, event.ReasonBadProof},
		"update without prev":          {func(_ *account, c *atproto.Commit) { c.Ops[1].Prev = atproto.CID{} }, atproto.Structure, event.ReasonBadProof},
		"delete without prev":          {func(_ *account, c *atproto.Commit) { c.Ops[2].Prev = atproto.CID{} }, atproto.Structure, event.ReasonBadProof},
		"create with prev":             {func(_ *account, c *atproto.Commit) { c.Ops[0].Prev = c.Ops[0].CID }, atproto.Structure, event.ReasonBadOp},
		"delete of what is there":      {func(_ *account, c *atproto.Commit) { c.Ops[2].Path = "app.bsky.feed.post/C0-451630" }, atproto.Structure, event.ReasonBadCID},
		"duplicate path":               {func(_ *account, c *atproto.Commit) { c.Ops = append(c.Ops, c.Ops[1]) }, atproto.Structure, event.ReasonBadProof},
		"other did signed":             {func(a *account, c *atproto.Commit) { a.resign(c, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", newRev, a.data) }, atproto.Off, event.ReasonBadCommit},
		"other rev signed":             {func(a *account, c *atproto.Commit) { a.resign(c, testDID, testRev, a.data) }, atproto.Off, event.ReasonBadRev},
		"other rev in the envelope":    {func(_ *account, c *atproto.Commit) { c.Rev = testRev }, atproto.Off, event.ReasonBadRev},
		"rev ten minutes ahead":        {func(a *account, c *atproto.Commit) { c.Rev = "3mptedbf22222"; a.resign(c, testDID, c.Rev, a.data) }, atproto.Structure, event.ReasonFutureRev},
		"rev is no tid":                {func(a *account, c *atproto.Commit) { c.Rev = "later"; a.resign(c, testDID, c.Rev, a.data) }, atproto.Off, event.ReasonBadRev},
		"too big":                      {func(_ *account, c *atproto.Commit) { c.TooBig = true }, atproto.Off, event.ReasonTooBig},
		"blocks over the limit":        {func(_ *account, c *atproto.Commit) { c.Blocks = append(c.Blocks, make([]byte, atproto.MaxBlocks)...) }, atproto.Off, event.ReasonTooBig},
		"too many operations":          {func(_ *account, c *atproto.Commit) { c.Ops = slices.Repeat(c.Ops, 67) }, atproto.Off, event.ReasonTooManyOps},
		"bad time":                     {func(_ *account, c *atproto.Commit) { c.Time = "yesterday" }, atproto.Off, event.ReasonBadTime},
		"missing root of the tree":     {func(a *account, c *atproto.Commit) { a.without(c, a.data) }, atproto.Structure, event.ReasonMissingBlock},
		"missing commit":               {func(a *account, c *atproto.Commit) { a.without(c, c.Commit) }, atproto.Off, event.ReasonMissingBlock},
		"truncated archive":            {func(_ *account, c *atproto.Commit) { c.Blocks = c.Blocks[:len(c.Blocks)-1] }, atproto.Off, event.ReasonTruncated},
		"bit flipped in a block":       {func(_ *account, c *atproto.Commit) { c.Blocks[len(c.Blocks)-1] ^= 1 }, atproto.Off, event.ReasonBadBlock},
		"no archive":                   {func(_ *account, c *atproto.Commit) { c.Blocks = nil }, atproto.Off, event.ReasonBadCAR},
		"root is not a commit":         {func(a *account, c *atproto.Commit) { c.Commit = a.data; c.Blocks = a.store.CAR(a.data) }, atproto.Off, event.ReasonBadCommit},
		"data is not a tree":           {func(a *account, c *atproto.Commit) { a.resign(c, testDID, newRev, c.Ops[0].CID) }, atproto.Structure, event.ReasonBadTree},
		"signed by another key": {func(a *account, c *atproto.Commit) {
			a.key, _ = atcrypto.GeneratePrivateKeyP256()
			a.resign(c, testDID, newRev, a.data)
		}, atproto.Full, event.ReasonBadSignature},
		"old version": {func(a *account, c *atproto.Commit) {
			c.Commit = a.store.Put(atproto.SignedBytes(testDID, newRev, 2, a.data, a.key))
			c.Blocks = a.store.CAR(c.Commit)
		}, atproto.Off, event.ReasonOldVersion},
		"version of the future": {func(a *account, c *atproto.Commit) {
			c.Commit = a.store.Put(atproto.SignedBytes(testDID, newRev, 4, a.data, a.key))
			c.Blocks = a.store.CAR(c.Commit)
		}, atproto.Off, event.ReasonBadCommit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t)
			ks := a.keys(t)
			c := a.sample()
			m.mutate(a, c)
			v := atproto.NewVerifier(ks, clock)
			_, err := v.Verify(t.Context(), reparse(t, c), m.level)
			require.Equal(t, m.want, atproto.ReasonOf(err), "%v", err)
			require.Equal(t, fault.Permanent, fault.ClassOf(err))
			require.Contains(t, event.Reasons(), m.want)
			if m.level != atproto.Full {
				_, err = v.Verify(t.Context(), reparse(t, c), atproto.Full)
				require.Equal(t, m.want, atproto.ReasonOf(err), "%v", err)
			}
		})
	}
}

// A sender of before prevData is taken, and said not to be proven.
func TestVerifyWithoutPrevData(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	c := a.sample()
	c.PrevData = atproto.CID{}
	c.Ops[1].Prev, c.Ops[2].Prev = atproto.CID{}, atproto.CID{}
	v := atproto.NewVerifier(a.keys(t), clock)
	got, err := v.Verify(t.Context(), reparse(t, c), atproto.Full)
	require.NoError(t, err)
	require.Equal(t, atproto.Verdict{Data: a.data, Signed: true}, got)
	c.Ops[0].CID = c.Ops[1].CID
	_, err = v.Verify(t.Context(), reparse(t, c), atproto.Structure)
	require.Equal(t, event.ReasonBadCID, atproto.ReasonOf(err))
}

// One bad operation is dropped with its reason, the others are kept.
func TestEventsDropSingleOperations(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	deep := bytes.Repeat([]byte{0x81}, 1000)
	bad := a.store.Put(append(append(dagcbor.AppendText(dagcbor.AppendMap(nil, 1), "x"), deep...), 0x80))
	list := a.store.Put([]byte{0x80})
	big := a.store.Put(dagcbor.AppendBytes(dagcbor.AppendText(dagcbor.AppendMap(nil, 1), "x"), make([]byte, atproto.MaxRecord)))
	good := a.store.Put(post("good"))
	c := a.commit(
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/deep", CID: bad},
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/list", CID: list},
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/big", CID: big},
		atproto.Op{Action: atproto.ActionCreate, Path: "not-an-nsid/x", CID: good},
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/bad key", CID: good},
		atproto.Op{Action: atproto.ActionCreate, Path: "app.bsky.feed.post/good", CID: good},
	)
	c = reparse(t, c)
	verdict, err := atproto.NewVerifier(a.keys(t), clock).Verify(t.Context(), c, atproto.Full)
	require.NoError(t, err)
	require.True(t, verdict.Proven)
	dropped := map[string]event.Reason{}
	events, err := c.Events(nil, all, func(op *atproto.Op, err error) { dropped[op.Path] = atproto.ReasonOf(err) })
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "good", events[0].RKey)
	require.Equal(t, map[string]event.Reason{
		"app.bsky.feed.post/deep":    event.ReasonBadRecord,
		"app.bsky.feed.post/list":    event.ReasonBadRecord,
		"app.bsky.feed.post/big":     event.ReasonTooBig,
		"not-an-nsid/x":              event.ReasonBadPath,
		"app.bsky.feed.post/bad key": event.ReasonBadPath,
	}, dropped)
}

// rotating is a KeySource whose cache has an old key.
type rotating struct {
	old, now  atproto.Identity
	refreshes int
	err       error
}

func (r *rotating) Identity(context.Context, string) (atproto.Identity, error) { return r.old, nil }

func (r *rotating) Refresh(context.Context, string) (atproto.Identity, error) {
	r.refreshes++
	return r.now, r.err
}

func TestSignatureRefreshesTheKeyOnce(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	right := atproto.WithKey(atproto.Identity{DID: testDID}, publicKey(t, a.key))
	wrong := atproto.WithKey(atproto.Identity{DID: testDID}, publicKey(t, newKey(t)))
	c := reparse(t, a.sample())

	keys := &rotating{old: wrong, now: right}
	verdict, err := atproto.NewVerifier(keys, clock).Verify(t.Context(), c, atproto.Full)
	require.NoError(t, err)
	require.True(t, verdict.Signed)
	require.Equal(t, 1, keys.refreshes)

	now := clock()
	keys = &rotating{old: wrong, now: wrong}
	v := atproto.NewVerifier(keys, func() time.Time { return now })
	for range 10 {
		_, err = v.Verify(t.Context(), c, atproto.Full)
		require.Equal(t, event.ReasonBadSignature, atproto.ReasonOf(err))
	}
	require.Equal(t, 1, keys.refreshes, "a bad signer costs one look-up in a while")
	now = now.Add(atproto.RefreshEvery)
	_, err = v.Verify(t.Context(), c, atproto.Full)
	require.Error(t, err)
	require.Equal(t, 2, keys.refreshes)

	keys = &rotating{old: wrong, err: errors.New("directory is away")}
	_, err = atproto.NewVerifier(keys, clock).Verify(t.Context(), c, atproto.Full)
	require.Equal(t, fault.Transient, fault.ClassOf(err))

	keys = &rotating{old: atproto.Identity{DID: testDID}, now: right}
	verdict, err = atproto.NewVerifier(keys, clock).Verify(t.Context(), c, atproto.Full)
	require.NoError(t, err, "no key in the cache, one in the directory")
	require.True(t, verdict.Signed)
}

func TestVerifySync(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	frame := func(rev string, key atcrypto.PrivateKey) *atproto.Sync {
		s := atproto.Store{}
		root := s.Commit(testDID, rev, a.data, key)
		b := atproto.FrameHeader(1, "#sync")
		b = dagcbor.AppendMap(b, 5)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "did"), testDID)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "rev"), rev)
		b = dagcbor.AppendInt(dagcbor.AppendText(b, "seq"), 9)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "time"), testNow)
		b = dagcbor.AppendBytes(dagcbor.AppendText(b, "blocks"), s.CAR(root))
		f, err := atproto.ParseFrame(b)
		require.NoError(t, err)
		require.Equal(t, int64(9), f.Seq)
		return f.Sync
	}
	v := atproto.NewVerifier(a.keys(t), clock)
	got, err := v.VerifySync(t.Context(), frame(newRev, a.key), atproto.Full)
	require.NoError(t, err)
	require.Equal(t, atproto.Verdict{Data: a.data, Signed: true}, got)
	_, err = v.VerifySync(t.Context(), frame(newRev, newKey(t)), atproto.Full)
	require.Equal(t, event.ReasonBadSignature, atproto.ReasonOf(err))
	_, err = v.VerifySync(t.Context(), frame("3mptedbf22222", a.key), atproto.Structure)
	require.Equal(t, event.ReasonFutureRev, atproto.ReasonOf(err))
}

// The recorded networks: every commit verifies but those that are said not to.
func TestRecordedNetworks(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob(filepath.Join(testkit.Shared(t, "fixtures/network"), "*", "frames.bin"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			checkNetwork(t, dir)
		})
	}
}
