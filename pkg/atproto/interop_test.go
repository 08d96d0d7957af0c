package atproto_test

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

func interop(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/interop", name))
	require.NoError(tb, err)
	return b
}

func interopJSON[T any](tb testing.TB, name string) (v T) {
	tb.Helper()
	require.NoError(tb, json.Unmarshal(interop(tb, name), &v))
	return v
}

// vectors are the lines of a syntax file, which may have spaces on purpose.
func vectors(tb testing.TB, name string) (out []string) {
	tb.Helper()
	lines := bufio.NewScanner(strings.NewReader(string(interop(tb, "syntax/"+name+".txt"))))
	for lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	require.NotEmpty(tb, out)
	return out
}

func TestInteropSyntax(t *testing.T) {
	t.Parallel()
	checks := map[string]func(string) bool{
		"did":       func(s string) bool { return atproto.CheckDID(s) == nil },
		"nsid":      func(s string) bool { _, _, err := atproto.SplitPath(s + "/self"); return err == nil },
		"recordkey": atproto.ValidRKey,
		"handle":    func(s string) bool { return atproto.DocHandle([]string{"at://" + s}) == strings.ToLower(s) },
	}
	for name, ok := range checks {
		for _, s := range vectors(t, name+"_syntax_valid") {
			require.True(t, ok(s), "%s %q", name, s)
		}
		for _, s := range vectors(t, name+"_syntax_invalid") {
			require.False(t, ok(s), "%s %q", name, s)
		}
	}
}

func TestInteropRevs(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	read := func(rev string) event.Reason {
		s := atproto.Store{}
		root := s.Commit("did:plc:wq4aajammjtxdomz3e23667t", rev, s.Tree(nil), key)
		_, err := readRepo(t, s.CAR(root))
		return atproto.ReasonOf(err)
	}
	for _, s := range vectors(t, "tid_syntax_valid") {
		require.Empty(t, read(s), "%q", s)
	}
	for _, s := range vectors(t, "tid_syntax_invalid") {
		require.Equal(t, event.ReasonBadRev, read(s), "%q", s)
	}
}

func TestInteropSignatures(t *testing.T) {
	t.Parallel()
	type vector struct {
		Comment            string
		MessageBase64      string
		DIDDocSuite        string `json:"didDocSuite"`
		PublicKeyDID       string `json:"publicKeyDid"`
		PublicKeyMultibase string
		SignatureBase64    string
		ValidSignature     bool
	}
	all := interopJSON[[]vector](t, "signature-fixtures.json")
	require.NotEmpty(t, all)
	for _, v := range all {
		msg, err := base64.RawStdEncoding.DecodeString(v.MessageBase64)
		require.NoError(t, err)
		sig, err := base64.RawStdEncoding.DecodeString(v.SignatureBase64)
		require.NoError(t, err)
		for _, form := range [][2]string{
			{v.DIDDocSuite, v.PublicKeyMultibase},
			{"Multikey", strings.TrimPrefix(v.PublicKeyDID, "did:key:")},
		} {
			key, err := atproto.ParseKey(form[0], form[1])
			if form[0] != "Multikey" && err != nil {
				// The fixtures have the compressed point where documents have the
				// whole one.
				continue
			}
			require.NoError(t, err)
			require.Equal(t, v.ValidSignature, key.HashAndVerify(msg, sig) == nil, v.Comment)
		}
	}
}

func TestInteropDIDKeys(t *testing.T) {
	t.Parallel()
	type vector struct {
		PrivateKeyBytesHex    string
		PrivateKeyBytesBase58 string
		PublicDIDKey          string `json:"publicDidKey"`
	}
	for _, v := range interopJSON[[]vector](t, "w3c_didkey_K256.json") {
		raw, err := hex.DecodeString(v.PrivateKeyBytesHex)
		require.NoError(t, err)
		key, err := atcrypto.ParsePrivateBytesK256(raw)
		require.NoError(t, err)
		pub, err := key.PublicKey()
		require.NoError(t, err)
		parsed, err := atproto.ParseKey("Multikey", strings.TrimPrefix(v.PublicDIDKey, "did:key:"))
		require.NoError(t, err)
		require.True(t, parsed.Equal(pub))
	}
}

func TestInteropKeyLayers(t *testing.T) {
	t.Parallel()
	n := 0
	for key := range strings.FieldsSeq(string(interop(t, "example_keys.txt"))) {
		require.Equal(t, int(key[1]-'0'), atproto.LayerOf([]byte(key)), key)
		n++
	}
	require.Greater(t, n, 100)
	for key, want := range map[string]int{"": 0, "asdf": 0, "blue": 1, "2653ae71": 0, "88bfafc7": 2, "2a92d355": 4, "884976f5": 6, "app.bsky.feed.post/454397e440ec": 4, "app.bsky.feed.post/9adeb165882c": 8} {
		require.Equal(t, want, atproto.LayerOf([]byte(key)), key)
	}
}

const interopValue = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"

func mustCID(tb testing.TB, s string) atproto.CID {
	tb.Helper()
	c, err := atproto.ParseCID(s)
	require.NoError(tb, err)
	require.Equal(tb, s, c.String())
	return c
}

// Roots of known maps, published with the protocol.
func TestInteropKnownTrees(t *testing.T) {
	t.Parallel()
	key := func(s string) string { return "com.example.record/3jqfcqz" + s + "2j" }
	value := mustCID(t, interopValue)
	for want, keys := range map[string][]string{
		"bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm": {},
		"bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu": {"m3fo"},
		"bafyreih7wfei65pxzhauoibu3ls7jgmkju4bspy4t2ha2qdjnzqvoy33ai": {"m3fx"},
		"bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m": {"m3fp", "m3fr", "m3fs", "m3ft", "m4fc"},
		"bafyreifnqrwbk6ffmyaz5qtujqrzf5qmxf7cbxvgzktl4e3gabuxbtatv4": {"m3fn", "m3fo", "m3fp", "m3fs", "m3ft", "m3fu"},
		"bafyreie4kjuxbwkhzg2i5dljaswcroeih4dgiqq6pazcmunwt2byd725vi": {"m3fn", "m3fo", "m3fp", "m3ft", "m3fu"},
		"bafyreiettyludka6fpgp33stwxfuwhkzlur6chs4d2v4nkmq2j3ogpdjem": {"m3fo", "m3fp", "m3fr", "m3fs", "m3ft", "m3fz", "m4fc", "m4fd", "m4ff", "m4fg", "m4fh"},
		"bafyreid2x5eqs4w4qxvc5jiwda4cien3gw2q6cshofxwnvv7iucrmfohpm": {"m3fo", "m3fp", "m3fr", "m3fs", "m3ft", "m3fx", "m3fz", "m4fc", "m4fd", "m4ff", "m4fg", "m4fh"},
	} {
		leaves := map[string]atproto.CID{}
		tree, err := atproto.NewEdit(atproto.CID{}, nil)
		require.NoError(t, err)
		for i := range keys { // in another order than sorted
			k := key(keys[(i*7+3)%len(keys)])
			if _, ok := leaves[k]; ok {
				continue
			}
			leaves[k] = value
			require.NoError(t, tree.Insert(k, value))
		}
		for _, k := range keys {
			if _, ok := leaves[key(k)]; !ok {
				leaves[key(k)] = value
				require.NoError(t, tree.Insert(key(k), value))
			}
		}
		require.Equal(t, want, tree.Hash().String())
		require.Equal(t, want, atproto.Store{}.Tree(leaves).String())
	}
}

// Proofs published with the protocol: the nodes that a commit must carry are
// enough to take it back.
func TestInteropCommitProofs(t *testing.T) {
	t.Parallel()
	type vector struct {
		Comment          string
		LeafValue        string
		Keys             []string
		Adds             []string
		Dels             []string
		RootBeforeCommit string
		RootAfterCommit  string
		BlocksInProof    []string
	}
	for _, v := range interopJSON[[]vector](t, "commit-proof-fixtures.json") {
		t.Run(v.Comment, func(t *testing.T) {
			t.Parallel()
			value := mustCID(t, v.LeafValue)
			leaves, ops := map[string]atproto.CID{}, []atproto.Op{}
			for _, k := range v.Keys {
				leaves[k] = value
			}
			store := atproto.Store{}
			before := store.Tree(leaves)
			require.Equal(t, v.RootBeforeCommit, before.String())
			for _, k := range v.Adds {
				leaves[k] = value
				ops = append(ops, atproto.Op{Action: atproto.ActionCreate, Path: k, CID: value})
			}
			for _, k := range v.Dels {
				delete(leaves, k)
				ops = append(ops, atproto.Op{Action: atproto.ActionDelete, Path: k, Prev: value})
			}
			after := store.Tree(leaves)
			require.Equal(t, v.RootAfterCommit, after.String())

			proof := atproto.Store{}
			for _, s := range v.BlocksInProof {
				c := mustCID(t, s)
				require.Contains(t, store, c)
				proof[c] = store[c]
			}
			tree, err := atproto.NewEdit(after, proof)
			require.NoError(t, err)
			require.NoError(t, tree.Check(ops))
			require.NoError(t, tree.Invert(ops))
			require.Equal(t, before, tree.Hash())
		})
	}
}

// Commits of the production network from before prevData, whose proofs are not
// whole: they are taken, and said not to be proven.
func TestInteropFirehoseCommits(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"4621317030", "4621317332", "4621332152", "4623075231"} {
		body, err := dagcbor.FromJSON(interop(t, "firehose_commit_"+name+".json"))
		require.NoError(t, err)
		f, err := atproto.ParseFrame(append(atproto.FrameHeader(1, "#commit"), body...))
		require.NoError(t, err)
		require.NotNil(t, f.Commit)
		verdict, err := atproto.NewVerifier(nil, nil).Verify(t.Context(), f.Commit, atproto.Structure)
		require.NoError(t, err)
		require.False(t, verdict.Proven)
		require.True(t, f.Commit.PrevData.IsZero())
		events, err := f.Commit.Events(nil, all, func(op *atproto.Op, err error) { t.Errorf("%s: %v", op.Path, err) })
		require.NoError(t, err)
		require.Len(t, events, f.Commit.NumOps)
	}
}

func TestInteropDocuments(t *testing.T) {
	t.Parallel()
	id, err := atproto.ParseDocument("did:plc:ewvi7nxzyoun6zhxrhs64oiz", interop(t, "did_plc_doc.json"))
	require.NoError(t, err)
	require.Equal(t, "atproto.com", id.Handle)
	require.Equal(t, "https://bsky.social", id.PDS)
	require.Equal(t, "did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF", id.SigningKey)
	old, err := atproto.ParseDocument("did:plc:ewvi7nxzyoun6zhxrhs64oiz", interop(t, "did_plc_doc_legacy.json"))
	require.NoError(t, err)
	require.NotEmpty(t, old.SigningKey)
	web, err := atproto.ParseDocument("did:web:discover.bsky.social", interop(t, "did_web_doc.json"))
	require.NoError(t, err)
	require.Equal(t, atproto.Identity{DID: "did:web:discover.bsky.social"}, web)
	_, err = web.PublicKey()
	require.Equal(t, event.ReasonNoIdentity, atproto.ReasonOf(err))
	for _, name := range []string{"fakermaker", "greenground", "paul_staging", "did_plc_z5vnbioquyhivxirw3bbljmu"} {
		doc := interop(t, name+".didDoc.json")
		var head struct{ ID string }
		require.NoError(t, json.Unmarshal(doc, &head))
		id, err := atproto.ParseDocument(head.ID, doc)
		require.NoError(t, err)
		require.NotEmpty(t, id.SigningKey, name)
		require.NotEmpty(t, id.PDS, name)
		require.NotEmpty(t, id.Handle, name)
	}
}
