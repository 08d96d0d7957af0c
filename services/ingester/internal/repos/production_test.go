package repos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

type expectation struct {
	DID    string `json:"did"`
	Commit struct {
		Rev        string          `json:"rev"`
		Operation  string          `json:"operation"`
		Collection string          `json:"collection"`
		RKey       string          `json:"rkey"`
		CID        string          `json:"cid"`
		Record     json.RawMessage `json:"record"`
	} `json:"commit"`
}

func seqOf(t *testing.T, raw []byte) int64 {
	t.Helper()
	f, err := atproto.ParseFrame(raw)
	require.NoError(t, err)
	return f.Seq
}

func TestProductionFramesBecomeTheExpectedEvents(t *testing.T) {
	t.Parallel()
	for _, enc := range []event.Encoding{event.JSON, event.Protobuf} {
		t.Run(string(enc), func(t *testing.T) {
			t.Parallel()
			frames, ks := production(t)
			r := newRig(t, ks)
			r.cfg.Encoding = enc
			r.relay("relay.example", newSource(frames...))
			r.start()
			last := seqOf(t, frames[len(frames)-1])
			r.until("relay.example", strconv.FormatInt(last, 10))
			compare(t, r)
			require.Empty(t, r.schedule.dids())
			require.Empty(t, r.letters())
			require.InDelta(t, 100, r.metric("ingester_firehose_events_total"), 0)
			require.InDelta(t, 1, r.metric("ingester_firehose_filtered_operations_total"), 0)
			require.InDelta(t, 97, r.metric("ingester_firehose_create_events_total"), 0)
			require.InDelta(t, 1, r.metric("ingester_firehose_update_events_total"), 0)
			require.InDelta(t, 3, r.metric("ingester_firehose_delete_events_total"), 0)
			require.InDelta(t, 0, r.metric("sluice_ingester_drops_total"), 0)
			require.InDelta(t, 0, r.metric("ingester_events_in_memory"), 0)
		})
	}
}

// compare checks every kept collection against what another implementation
// made of the frames, in order.
func compare(t *testing.T, r *rig) {
	t.Helper()
	file, err := os.ReadFile(testkit.Shared(t, "fixtures/firehose/expected.jsonl"))
	require.NoError(t, err)
	var want []expectation
	lines := bufio.NewScanner(bytes.NewReader(file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e expectation
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		if r.cfg.Keep.Keep(e.Commit.Collection) {
			want = append(want, e)
		}
	}
	require.NotEmpty(t, want)
	var got []event.Event
	for _, e := range r.events() {
		if e.Collection != "" {
			got = append(got, e)
		}
	}
	require.Len(t, got, len(want))
	byURI := map[string]event.Event{}
	for _, e := range got {
		byURI[e.URI()+e.Rev] = e
	}
	for _, w := range want {
		uri := "at://" + w.DID + "/" + w.Commit.Collection + "/" + w.Commit.RKey
		g, ok := byURI[uri+w.Commit.Rev]
		require.True(t, ok, uri)
		require.Equal(t, w.Commit.Operation, string(g.Type))
		require.Equal(t, w.Commit.CID, g.CID)
		require.NotEmpty(t, g.Time)
		require.NotEmpty(t, g.Commit)
		require.Positive(t, g.Seq)
		if g.Type != event.Delete {
			record, err := g.RecordJSON()
			require.NoError(t, err)
			require.JSONEq(t, string(w.Commit.Record), string(record))
			cbor, err := g.DAGCBOR()
			require.NoError(t, err)
			require.Equal(t, w.Commit.CID, atproto.SumCID(cbor).String(), "the CID follows from the record")
		}
	}
}
