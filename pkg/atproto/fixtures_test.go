package atproto_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// readFrames splits a recording: u32 little-endian length, then the message.
func readFrames(tb testing.TB, path string) [][]byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	var out [][]byte
	for len(b) > 0 {
		n := int(binary.LittleEndian.Uint32(b))
		out = append(out, b[4:4+n])
		b = b[4+n:]
	}
	return out
}

// keys is a KeySource of known identities.
type keys map[string]atproto.Identity

func (k keys) Identity(_ context.Context, did string) (atproto.Identity, error) {
	id, ok := k[did]
	if !ok {
		return id, event.Dropf(event.ReasonNoIdentity, "%s", did)
	}
	return id, nil
}

func (k keys) Refresh(ctx context.Context, did string) (atproto.Identity, error) {
	return k.Identity(ctx, did)
}

func firehoseKeys(tb testing.TB) keys {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Shared(tb, "fixtures/firehose"), "did_docs.json"))
	require.NoError(tb, err)
	var docs map[string]json.RawMessage
	require.NoError(tb, json.Unmarshal(b, &docs))
	out := keys{}
	for did, doc := range docs {
		id, err := atproto.ParseDocument(did, doc)
		require.NoError(tb, err)
		require.NotEmpty(tb, id.SigningKey)
		require.NotEmpty(tb, id.PDS)
		out[did] = id
	}
	return out
}

func all(string) bool { return true }

// expectedOp is a line of expected.jsonl, what another implementation read out
// of the same frames.
type expectedOp struct {
	DID    string `json:"did"`
	Kind   string `json:"kind"`
	Commit struct {
		Rev        string          `json:"rev"`
		Operation  string          `json:"operation"`
		Collection string          `json:"collection"`
		RKey       string          `json:"rkey"`
		CID        string          `json:"cid"`
		Record     json.RawMessage `json:"record"`
	} `json:"commit"`
	Identity json.RawMessage `json:"identity"`
	Account  json.RawMessage `json:"account"`
}

func TestProductionFrames(t *testing.T) {
	t.Parallel()
	dir := testkit.Shared(t, "fixtures/firehose")
	ks := firehoseKeys(t)
	v := atproto.NewVerifier(ks, nil)
	var got []expectedOp
	for _, b := range readFrames(t, filepath.Join(dir, "frames.bin")) {
		f, err := atproto.ParseFrame(b)
		require.NoError(t, err)
		if f.Commit == nil {
			continue
		}
		require.Equal(t, f.Seq, f.Commit.Seq)
		verdict, err := v.Verify(t.Context(), f.Commit, atproto.Full)
		require.NoError(t, err)
		require.True(t, verdict.Proven)
		require.True(t, verdict.Signed)
		events, err := f.Commit.Events(nil, all, func(op *atproto.Op, err error) { t.Errorf("%s: %v", op.Path, err) })
		require.NoError(t, err)
		for _, e := range events {
			op := expectedOp{DID: e.DID, Kind: "commit"}
			op.Commit.Rev, op.Commit.Operation, op.Commit.Collection, op.Commit.RKey, op.Commit.CID = e.Rev, string(e.Type), e.Collection, e.RKey, e.CID
			op.Commit.Record, err = e.RecordJSON()
			require.NoError(t, err)
			if e.Type != event.Delete {
				again, err := (&event.Event{Record: op.Commit.Record}).DAGCBOR()
				require.NoError(t, err)
				require.Equal(t, e.RecordCBOR, again)
			}
			got = append(got, op)
		}
	}
	var want []expectedOp
	file, err := os.ReadFile(filepath.Join(dir, "expected.jsonl"))
	require.NoError(t, err)
	lines := bufio.NewScanner(bytes.NewReader(file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var op expectedOp
		require.NoError(t, json.Unmarshal(lines.Bytes(), &op))
		if op.Kind == "commit" {
			want = append(want, op)
		}
	}
	require.NotEmpty(t, want)
	require.Len(t, got, len(want))
	for i := range want {
		if len(want[i].Commit.Record) > 0 {
			require.JSONEq(t, string(want[i].Commit.Record), string(got[i].Commit.Record))
		}
		want[i].Commit.Record, got[i].Commit.Record = nil, nil
		require.Equal(t, want[i], got[i])
	}
}
