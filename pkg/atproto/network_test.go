package atproto_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
)

type networkIdentity struct {
	Doc      json.RawMessage
	Versions []struct {
		FromSeq int64 `json:"from_seq"`
		Doc     json.RawMessage
	}
}

// doc is the document at a sequence number.
func (n *networkIdentity) doc(seq int64) json.RawMessage {
	doc := n.Doc
	for _, v := range n.Versions {
		if v.FromSeq <= seq {
			doc = v.Doc
		}
	}
	return doc
}

func readJSON(tb testing.TB, path string, into any) {
	tb.Helper()
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	require.NoError(tb, json.Unmarshal(b, into))
}

func checkNetwork(t *testing.T, dir string) {
	t.Helper()
	var identities map[string]networkIdentity
	readJSON(t, filepath.Join(dir, "identities.json"), &identities)
	var meta struct {
		Signatures struct {
			Valid       int
			InvalidSeqs []int64 `json:"invalid_seqs"`
		} `json:"commit_signatures"`
		LastSeq int64 `json:"last_seq"`
	}
	readJSON(t, filepath.Join(dir, "meta.json"), &meta)
	invalid := map[int64]bool{}
	for _, seq := range meta.Signatures.InvalidSeqs {
		invalid[seq] = true
	}

	signed, last := 0, int64(0)
	data := map[string]atproto.CID{}
	for _, b := range readFrames(t, filepath.Join(dir, "frames.bin")) {
		f, err := atproto.ParseFrame(b)
		require.NoError(t, err)
		require.Equal(t, last+1, f.Seq)
		last = f.Seq
		require.NotEqual(t, atproto.KindUnknown, f.Kind)
		if f.Commit == nil && f.Sync == nil {
			continue
		}
		verdict, err := verifyFrame(t, f, identities)
		if invalid[f.Seq] {
			require.Contains(t, []event.Reason{event.ReasonBadSignature, event.ReasonNoIdentity}, atproto.ReasonOf(err))
			continue
		}
		require.NoError(t, err, "seq %d", f.Seq)
		require.True(t, verdict.Signed)
		signed++
		if f.Sync != nil {
			data[f.Sync.DID] = verdict.Data
			continue
		}
		c := f.Commit
		if prev, ok := data[c.DID]; ok && !c.PrevData.IsZero() {
			require.Equal(t, prev, c.PrevData, "chain of %s at seq %d", c.DID, f.Seq)
			require.True(t, verdict.Proven)
		}
		data[c.DID] = verdict.Data
		checkEvents(t, c)
	}
	require.Equal(t, meta.LastSeq, last)
	require.Positive(t, signed)
}

func verifyFrame(t *testing.T, f *atproto.Frame, identities map[string]networkIdentity) (atproto.Verdict, error) {
	t.Helper()
	var did string
	if f.Commit != nil {
		did = f.Commit.DID
	} else {
		did = f.Sync.DID
	}
	keys := atproto.Keys{did: {DID: did}}
	known := identities[did]
	if doc := known.doc(f.Seq); len(doc) > 0 && string(doc) != "null" {
		id, err := atproto.ParseDocument(did, doc)
		require.NoError(t, err)
		keys[did] = id
	}
	v := atproto.NewVerifier(keys, nil)
	if f.Commit != nil {
		return v.Verify(t.Context(), f.Commit, atproto.Full)
	}
	return v.VerifySync(t.Context(), f.Sync, atproto.Full)
}

func checkEvents(t *testing.T, c *atproto.Commit) {
	t.Helper()
	events, err := c.Events(nil, all, func(op *atproto.Op, err error) { t.Errorf("%s: %v", op.Path, err) })
	require.NoError(t, err)
	require.Len(t, events, c.NumOps)
	for i := range events {
		e := &events[i]
		_, value, err := event.JSON.Event(e)
		require.NoError(t, err)
		back, err := event.DecodeEvent(func(name string) (string, bool) { return value, name == event.FieldEvent })
		require.NoError(t, err)
		cbor, err := back.DAGCBOR()
		require.NoError(t, err)
		require.Equal(t, e.RecordCBOR, cbor)
	}
}
