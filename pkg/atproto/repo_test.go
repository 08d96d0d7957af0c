package atproto_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/testkit"
)

func TestRealRepos(t *testing.T) {
	t.Parallel()
	dir := testkit.Shared(t, "fixtures/repos")
	want := map[string]event.Reason{
		"greenground.car": "", "fakermaker.car": event.ReasonOldVersion, "paul_staging.car": event.ReasonOldVersion,
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.car"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			prev := ""
			info, err := atproto.ReadRepo(t.Context(), bytes.NewReader(b), atproto.RepoOptions{}, func(r atproto.Record) error {
				path := r.Collection + "/" + r.RKey
				require.Less(t, prev, path)
				prev = path
				require.Equal(t, r.CID, atproto.SumCID(r.Value))
				e := event.Event{RecordCBOR: r.Value}
				_, err := e.RecordJSON()
				return err
			})
			require.Equal(t, want[filepath.Base(file)], atproto.ReasonOf(err), "%v", err)
			require.Positive(t, info.Blocks)
			if err == nil {
				require.Equal(t, int64(2), info.Emitted)
			}
		})
	}
}

// bigRepo makes a repository of n records in four collections.
func bigRepo(tb testing.TB, n int) (car []byte, leaves map[string]atproto.CID, key atcrypto.PrivateKey) {
	tb.Helper()
	store, key := atproto.Store{}, newKey(tb)
	leaves = make(map[string]atproto.CID, n)
	collections := []string{"app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.graph.follow", "com.example.other"}
	for i := range n {
		leaves[fmt.Sprintf("%s/3k%011d", collections[i%4], i)] = store.Put(post(fmt.Sprintf("record number %d %s", i, strings.Repeat("x", i%200))))
	}
	root := store.Commit(testDID, testRev, store.Tree(leaves), key)
	return store.CAR(root), leaves, key
}

func TestReadRepo(t *testing.T) {
	t.Parallel()
	car, leaves, key := bigRepo(t, 4000)
	verifier := atproto.NewVerifier(atproto.Keys{testDID: atproto.WithKey(atproto.Identity{DID: testDID}, publicKey(t, key))}, nil)
	for name, o := range map[string]atproto.RepoOptions{
		"in memory":     {},
		"spilled early": {MemoryLimit: 1},
		"spilled late":  {MemoryLimit: int64(len(car)) / 2},
		"signed":        {DID: testDID, Verify: verifier.Signature},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.TempDir = t.TempDir()
			got := map[string]atproto.CID{}
			prev := ""
			info, err := atproto.ReadRepo(t.Context(), iotest.OneByteReader(bytes.NewReader(car)), o, func(r atproto.Record) error {
				path := r.Collection + "/" + r.RKey
				require.Less(t, prev, path)
				prev = path
				require.Equal(t, r.CID, atproto.SumCID(r.Value))
				got[path] = r.CID
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, leaves, got)
			require.Equal(t, int64(4000), info.Emitted)
			require.Equal(t, int64(4000), info.Leaves())
			require.Equal(t, o.MemoryLimit > 0, info.Spilled)
			require.Equal(t, testDID, info.DID)
			require.Equal(t, testRev, info.Rev)
			require.Less(t, info.Bytes, int64(len(car)))
			entries, err := os.ReadDir(o.TempDir)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

func TestReadRepoFilters(t *testing.T) {
	t.Parallel()
	car, _, _ := bigRepo(t, 400)
	info, err := atproto.ReadRepo(t.Context(), bytes.NewReader(car), atproto.RepoOptions{
		Keep: func(c string) bool { return strings.HasPrefix(c, "app.bsky.feed.") },
	}, func(r atproto.Record) error {
		require.Contains(t, []string{"app.bsky.feed.post", "app.bsky.feed.like"}, r.Collection)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(200), info.Emitted)
	require.Equal(t, int64(200), info.Filtered)
}

func TestReadRepoEmptyAndRejected(t *testing.T) {
	t.Parallel()
	s, key := atproto.Store{}, newKey(t)
	root := s.Commit(testDID, testRev, s.Tree(nil), key)
	info, err := readRepo(t, s.CAR(root))
	require.NoError(t, err)
	require.Zero(t, info.Leaves())

	good := s.Put(post("good"))
	leaves := map[string]atproto.CID{
		"app.bsky.feed.post/good":    good,
		"app.bsky.feed.post/notmap":  s.Put([]byte{0x80}),
		"app.bsky.feed.post/float16": s.Put([]byte{0xa1, 0x61, 'x', 0xf9, 0x3e, 0x00}),
		"app.bsky.feed.post/big":     s.Put(dagcbor.AppendBytes(dagcbor.AppendText(dagcbor.AppendMap(nil, 1), "x"), make([]byte, atproto.MaxRecord))),
		"app.bsky.feed.post/bad key": good,
		"noslash":                    good,
		"short/x":                    good,
		"com.example.other/notmap":   s.Put([]byte{0x81, 0x01}),
	}
	root = s.Commit(testDID, testRev, s.Tree(leaves), key)
	info, err = atproto.ReadRepo(t.Context(), bytes.NewReader(s.CAR(root)), atproto.RepoOptions{
		Keep: func(c string) bool { return c != "com.example.other" },
	}, func(r atproto.Record) error {
		require.Equal(t, "good", r.RKey)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(1), info.Emitted)
	require.Equal(t, int64(1), info.Filtered)
	require.Equal(t, map[event.Reason]int64{event.ReasonBadRecord: 2, event.ReasonTooBig: 1, event.ReasonBadPath: 3}, info.Rejected)
	require.Equal(t, int64(len(leaves)), info.Leaves())
}

// Blocks of other codecs are passed over, if they are what they say.
func TestReadRepoOtherBlocks(t *testing.T) {
	t.Parallel()
	s := atproto.Store{}
	root := s.Commit(testDID, testRev, s.Tree(nil), newKey(t))
	raw := atproto.SumCID([]byte("blob"))
	raw[1] = 0x55
	car := s.CAR(root)
	_, err := readRepo(t, atproto.AppendBlock(bytes.Clone(car), raw, []byte("blob")))
	require.NoError(t, err)
	_, err = readRepo(t, atproto.AppendBlock(bytes.Clone(car), raw, []byte("blub")))
	require.Equal(t, event.ReasonBadBlock, atproto.ReasonOf(err))
	_, err = readRepo(t, append(bytes.Clone(car), 3, 1, 2, 3))
	require.Equal(t, event.ReasonBadCAR, atproto.ReasonOf(err))
}

// Wherever an archive ends early, on a block boundary too, it is an error.
func TestReadRepoTruncatedAnywhere(t *testing.T) {
	t.Parallel()
	car, _, _ := bigRepo(t, 60)
	for n := 0; n < len(car); n += 1 + rand.IntN(9) {
		_, err := readRepo(t, car[:n])
		require.Contains(t, []event.Reason{event.ReasonTruncated, event.ReasonMissingBlock}, atproto.ReasonOf(err), "%d of %d bytes: %v", n, len(car), err)
		require.Equal(t, fault.Transient, fault.ClassOf(err))
	}
	_, err := readRepo(t, car)
	require.NoError(t, err)
}

func TestReadRepoAnyFlippedBit(t *testing.T) {
	t.Parallel()
	car, _, _ := bigRepo(t, 60)
	for n := 0; n < len(car); n += 1 + rand.IntN(9) {
		b := bytes.Clone(car)
		b[n] ^= 1 << rand.IntN(8)
		_, err := readRepo(t, b)
		require.Error(t, err, "byte %d", n)
	}
}

func TestReadRepoHostileTrees(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	// Keys by layer: the digit after the letter.
	const a0, b0, d2 = "A0/374913", "B0/601692", "D2/269196"
	for k, want := range map[string]int{a0: 0, b0: 0, d2: 2} {
		require.Equal(t, want, atproto.LayerOf([]byte(k)))
	}
	none := atproto.CID{}
	for name, c := range map[string]struct {
		tree func(s atproto.Store, v atproto.CID) atproto.CID
		want event.Reason
	}{
		"missing subtree": {func(_ atproto.Store, v atproto.CID) atproto.CID {
			return atproto.CID{}
		}, event.ReasonMissingBlock},
		"subtree repeated": {func(s atproto.Store, v atproto.CID) atproto.CID {
			leaf := s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}))
			mid := s.Put(atproto.NodeBytes(leaf))
			return s.Put(atproto.NodeBytes(mid, atproto.TreeEntry{Key: d2, Value: v, Right: mid}))
		}, event.ReasonBadTree},
		"key on a wrong layer": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}, atproto.TreeEntry{Key: d2, Value: v}))
		}, event.ReasonBadTree},
		"subtree on a wrong layer": {func(s atproto.Store, v atproto.CID) atproto.CID {
			leaf := s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}))
			return s.Put(atproto.NodeBytes(leaf, atproto.TreeEntry{Key: d2, Value: v}))
		}, event.ReasonBadTree},
		"subtree below the lowest layer": {func(s atproto.Store, v atproto.CID) atproto.CID {
			leaf := s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}))
			return s.Put(atproto.NodeBytes(leaf, atproto.TreeEntry{Key: b0, Value: v}))
		}, event.ReasonBadTree},
		"keys not in order": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: b0, Value: v}, atproto.TreeEntry{Key: a0, Value: v}))
		}, event.ReasonBadTree},
		"key twice": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}, atproto.TreeEntry{Key: a0, Value: v}))
		}, event.ReasonBadTree},
		"subtree after its place": {func(s atproto.Store, v atproto.CID) atproto.CID {
			leaf := s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: "E0/670489", Value: v}))
			mid := s.Put(atproto.NodeBytes(leaf))
			return s.Put(atproto.NodeBytes(mid, atproto.TreeEntry{Key: d2, Value: v}))
		}, event.ReasonBadTree},
		"empty subtree": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(s.Put(atproto.NodeBytes(none)), atproto.TreeEntry{Key: d2, Value: v}))
		}, event.ReasonBadTree},
		"root without keys": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: a0, Value: v}))))
		}, event.ReasonBadTree},
		"empty key": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: "", Value: v}))
		}, event.ReasonBadTree},
		"endless key": {func(s atproto.Store, v atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: strings.Repeat("a", 5000), Value: v}))
		}, event.ReasonBadTree},
		"missing record": {func(s atproto.Store, _ atproto.CID) atproto.CID {
			return s.Put(atproto.NodeBytes(none, atproto.TreeEntry{Key: "app.bsky.feed.post/x", Value: atproto.SumCID([]byte("x"))}))
		}, event.ReasonMissingBlock},
		"root is a record": {func(_ atproto.Store, v atproto.CID) atproto.CID { return v }, event.ReasonBadTree},
		"root is no node": {func(s atproto.Store, _ atproto.CID) atproto.CID {
			return s.Put([]byte("\xa2\x61e\x80\x61l\xf6\x00"))
		}, event.ReasonBadTree},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := atproto.Store{}
			data := c.tree(s, s.Put(post("x")))
			if data == none { // refer to a node that is not there
				data = s.Put(atproto.NodeBytes(atproto.SumCID([]byte("x")), atproto.TreeEntry{Key: d2, Value: s.Put(post("x"))}))
			}
			root := s.Commit(testDID, testRev, data, key)
			_, err := readRepo(t, s.CAR(root))
			require.Equal(t, c.want, atproto.ReasonOf(err), "%v", err)
		})
	}
}

func TestReadRepoBadCommits(t *testing.T) {
	t.Parallel()
	s, key := atproto.Store{}, newKey(t)
	data := s.Tree(nil)
	root := s.Commit(testDID, testRev, data, key)
	car := s.CAR(root)
	refuse := errors.New("refused")
	for name, c := range map[string]struct {
		car  []byte
		o    atproto.RepoOptions
		want event.Reason
		is   error
	}{
		"another's":        {car, atproto.RepoOptions{DID: "did:web:other.test"}, event.ReasonBadCommit, nil},
		"signature":        {car, atproto.RepoOptions{Verify: func(context.Context, *atproto.SignedCommit) error { return refuse }}, "", refuse},
		"no commit":        {atproto.Store{data: s[data]}.CAR(root), atproto.RepoOptions{}, event.ReasonMissingBlock, nil},
		"empty":            {nil, atproto.RepoOptions{}, event.ReasonTruncated, nil},
		"html":             {[]byte("<html>not found</html>"), atproto.RepoOptions{}, event.ReasonTruncated, nil},
		"endless header":   {[]byte{0xff, 0xff, 0xff, 0xff, 0x7f}, atproto.RepoOptions{}, event.ReasonBadCAR, nil},
		"endless length":   {bytes.Repeat([]byte{0xff}, 100), atproto.RepoOptions{}, "", nil},
		"huge block":       {append(bytes.Clone(car), 0xff, 0xff, 0xff, 0x7f), atproto.RepoOptions{}, event.ReasonBadCAR, nil},
		"over the bytes":   {car, atproto.RepoOptions{MaxBytes: 200}, event.ReasonTooBig, nil},
		"over the blocks":  {car, atproto.RepoOptions{MaxBlocks: 1}, event.ReasonTooBig, nil},
		"commit of no map": {atproto.Store{data: s[data]}.CAR(data), atproto.RepoOptions{}, event.ReasonBadCommit, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := atproto.ReadRepo(t.Context(), bytes.NewReader(c.car), c.o, func(atproto.Record) error { return nil })
			require.Error(t, err)
			require.Equal(t, c.want, atproto.ReasonOf(err), "%v", err)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
		})
	}
}

func TestReadRepoPassesErrorsOn(t *testing.T) {
	t.Parallel()
	car, _, _ := bigRepo(t, 100)
	boom := errors.New("boom")
	_, err := atproto.ReadRepo(t.Context(), bytes.NewReader(car), atproto.RepoOptions{}, func(atproto.Record) error { return boom })
	require.ErrorIs(t, err, boom)
	_, err = atproto.ReadRepo(t.Context(), io.MultiReader(bytes.NewReader(car[:1000]), iotest.ErrReader(boom)), atproto.RepoOptions{}, func(atproto.Record) error { return nil })
	require.ErrorIs(t, err, boom)
	require.Empty(t, atproto.ReasonOf(err))
	_, err = atproto.ReadRepo(t.Context(), bytes.NewReader(car), atproto.RepoOptions{MemoryLimit: 1, TempDir: "/nonexistent"}, func(atproto.Record) error { return nil })
	require.ErrorIs(t, err, os.ErrNotExist)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	info, err := atproto.ReadRepo(ctx, bytes.NewReader(car), atproto.RepoOptions{}, func(atproto.Record) error {
		if n++; n == 10 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, info.Emitted, int64(100))
}

// One repository of a million records (in the long form) stays below 256 MiB.
func TestReadRepoMemory(t *testing.T) {
	t.Parallel()
	n, memory := 20_000, int64(1<<20)
	if os.Getenv("SLUICE_SOAK") != "" {
		n, memory = 1_000_000, 0 // the default
	}
	file := filepath.Join(t.TempDir(), "big.car")
	writeRepo(t, file, n)
	runtime.GC()
	debug.FreeOSMemory()
	in, err := os.Open(file)
	require.NoError(t, err)
	defer in.Close()
	var peak uint64
	sample := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	seen := 0
	info, err := atproto.ReadRepo(t.Context(), sampled{in, sample}, atproto.RepoOptions{TempDir: t.TempDir(), MemoryLimit: memory}, func(atproto.Record) error {
		if seen++; seen%20_000 == 0 {
			sample()
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(n), info.Emitted)
	require.True(t, info.Spilled)
	t.Logf("%d blocks, %d bytes, peak of the heap %d MiB", info.Blocks, info.Bytes, peak>>20)
	require.Less(t, peak, uint64(256<<20))
}

func writeRepo(tb testing.TB, file string, n int) {
	tb.Helper()
	car, _, _ := bigRepo(tb, n)
	require.NoError(tb, os.WriteFile(file, car, 0o600))
}

// sampled looks at the memory now and then.
type sampled struct {
	io.Reader
	look func()
}

func (s sampled) Read(p []byte) (int, error) {
	if rand.IntN(200) == 0 {
		s.look()
	}
	return s.Reader.Read(p)
}
