package e2e_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/replay"
)

// firehoseRefused are the records of the production frames that are against
// their lexicon, by uri. There are none.
var firehoseRefused = map[string]bool{}

// operation is a line of what another implementation made of the frames.
type operation struct {
	DID    string `json:"did"`
	Kind   string `json:"kind"`
	Commit struct {
		Rev        string          `json:"rev"`
		Operation  string          `json:"operation"`
		Collection string          `json:"collection"`
		RKey       string          `json:"rkey"`
		Record     json.RawMessage `json:"record"`
		CID        string          `json:"cid"`
	} `json:"commit"`
}

func (o *operation) uri() string {
	return "at://" + o.DID + "/" + o.Commit.Collection + "/" + o.Commit.RKey
}

// readOperations reads the operations on kept collections, by uri.
func readOperations(t *testing.T, name string) map[string]*operation {
	t.Helper()
	out := map[string]*operation{}
	lines := json.NewDecoder(openPlain(t, name))
	for lines.More() {
		o := &operation{}
		require.NoError(t, lines.Decode(o))
		require.Equal(t, "commit", o.Kind, "a kind that this test does not compare")
		if !kept(o.Commit.Collection) {
			continue
		}
		require.NotContains(t, out, o.uri(), "two operations on one record")
		out[o.uri()] = o
	}
	require.NotEmpty(t, out)
	return out
}

// Frames of the production relay, with full verification: the stream and the
// tables have what another implementation made of them.
func TestProductionFrames(t *testing.T) {
	t.Parallel()
	dir := testkit.Shared(t, "fixtures/firehose")
	recording, err := replay.LoadFirehose(dir)
	require.NoError(t, err)
	want := readOperations(t, dir+"/expected.jsonl")
	server := replay.Serve(t, recording)
	s := newSuite(t)
	env := server.Env()
	p := s.ingest(env, recording.LastSeq())
	s.sameEvents(want)

	require.InDelta(t, len(recording.Frames), p.sum(t, "ingester_firehose_events_total"), 0)
	for _, name := range []string{
		"sluice_ingester_drops_total", "sluice_ingester_parked_frames_total", "sluice_ingester_unverified_commits_total",
		"sluice_ingester_resyncs_total", "ingester_errors_total",
	} {
		require.Contains(t, p.metrics(t), name)
		require.Zero(t, p.sum(t, name), name)
	}

	cfg := s.config("one")
	cfg.ResolveDIDs, cfg.CheckAccounts = true, true
	cfg.PLCURL, cfg.HandleResolver, cfg.AllowPrivate = env["PLC_URL"], env["HANDLE_RESOLVER_URL"], []string{"all"}
	in := s.start(cfg)
	s.wait(in)
	s.sameRecords(want)
	s.sameHandles(recording, want)
	require.InDelta(t, len(firehoseRefused), in.sum(t, "indexer_expected_errors_total"), 0)
	for _, name := range []string{"indexer_unexpected_errors_total", "sluice_index_parked_total"} {
		require.Zero(t, in.sum(t, name), name)
	}
	for _, stream := range []string{"firehose_live", "firehose_backfill", "repo_backfill"} {
		n, err := s.client.Len(t.Context(), stream+"_dlq")
		require.NoError(t, err)
		require.Zero(t, n, stream)
	}
	n, err := s.client.Len(t.Context(), "repo_backfill")
	require.NoError(t, err)
	require.Zero(t, n, "a repository was taken for incomplete")
}

// sameEvents compares the live stream with the operations.
func (s *suite) sameEvents(want map[string]*operation) {
	s.t.Helper()
	entries, err := s.client.Range(s.t.Context(), "firehose_live", "-", "+", 10000)
	require.NoError(s.t, err)
	seen := map[string]bool{}
	kinds := map[event.Type]int{}
	for _, entry := range entries {
		e, err := event.DecodeEvent(entry.Get)
		require.NoError(s.t, err)
		kinds[e.Type]++
		if e.Collection == "" {
			continue
		}
		o := want[e.URI()]
		require.NotNil(s.t, o, "%s of %s is in the stream alone", e.Type, e.URI())
		require.False(s.t, seen[e.URI()], "%s is in the stream twice", e.URI())
		seen[e.URI()] = true
		require.Equal(s.t, o.Commit.Operation, string(e.Type), e.URI())
		require.Equal(s.t, o.Commit.Rev, e.Rev, e.URI())
		require.Equal(s.t, o.Commit.CID, e.CID, e.URI())
		if e.Type == event.Delete {
			continue
		}
		record, err := e.RecordJSON()
		require.NoError(s.t, err)
		sameJSON(s.t, e.URI(), o.Commit.Record, record)
	}
	for uri := range want {
		require.True(s.t, seen[uri], "%s is not in the stream", uri)
	}
	s.t.Logf("events: %v", kinds)
}

// sameJSON compares two texts by value; numbers keep all their digits.
func sameJSON(t *testing.T, what string, want, got []byte) {
	t.Helper()
	values := [2]any{}
	for i, text := range [][]byte{want, got} {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		require.NoError(t, d.Decode(&values[i]), what)
	}
	require.True(t, reflect.DeepEqual(values[0], values[1]), "%s: %s is not %s", what, got, want)
}

// typedTables are tables with one row for a record, and the column that has what
// the record is about.
var typedTables = map[string]struct{ table, column string }{
	"app.bsky.feed.like":    {"like", "subject"},
	"app.bsky.feed.repost":  {"repost", "subject"},
	"app.bsky.graph.follow": {"follow", "subjectDid"},
	"app.bsky.graph.block":  {"actor_block", "subjectDid"},
	"app.bsky.feed.post":    {"post", "text"},
}

// sameRecords compares the tables with the operations.
func (s *suite) sameRecords(want map[string]*operation) {
	s.t.Helper()
	tables := s.rows("record", "like", "repost", "follow", "actor_block", "post")
	records, rows := byKey(tables["record"], "uri"), map[string]map[string]row{}
	for _, e := range typedTables {
		rows[e.table] = byKey(tables[e.table], "uri")
	}
	live, typed := 0, map[string]int{}
	for uri, o := range want {
		e, has := typedTables[o.Commit.Collection]
		if o.Commit.Operation == string(event.Delete) || firehoseRefused[uri] {
			require.NotContains(s.t, records, uri)
			require.NotContains(s.t, rows[e.table], uri)
			continue
		}
		live++
		r := records[uri]
		require.Equal(s.t, o.Commit.CID, text(r, "cid"), uri)
		require.Equal(s.t, o.DID, text(r, "did"), uri)
		sameJSON(s.t, uri, o.Commit.Record, []byte(text(r, "json")))
		if !has {
			continue
		}
		typed[e.table]++
		mine := rows[e.table][uri]
		require.Equal(s.t, o.Commit.CID, text(mine, "cid"), uri)
		require.Equal(s.t, o.DID, text(mine, "creator"), uri)
		require.Equal(s.t, o.subject(s.t), text(mine, e.column), uri)
	}
	require.Len(s.t, records, live)
	for table, n := range typed {
		require.Len(s.t, rows[table], n, table)
	}
	s.t.Logf("%d records, %v", live, typed)
}

// subject is what the record is about: an account, a uri, or its text.
func (o *operation) subject(t *testing.T) string {
	t.Helper()
	var record struct {
		Text    string          `json:"text"`
		Subject json.RawMessage `json:"subject"`
	}
	require.NoError(t, json.Unmarshal(o.Commit.Record, &record))
	var (
		did string
		ref struct {
			URI string `json:"uri"`
		}
	)
	switch {
	case record.Subject == nil:
		return record.Text
	case json.Unmarshal(record.Subject, &did) == nil:
		return did
	}
	require.NoError(t, json.Unmarshal(record.Subject, &ref))
	return ref.URI
}

// sameHandles expects every author to have the handle of its document.
func (s *suite) sameHandles(r *replay.Recording, want map[string]*operation) {
	s.t.Helper()
	actors := byKey(s.rows("actor")["actor"], "did")
	holders := map[string]int{}
	for _, id := range r.Identities {
		holders[strings.ToLower(id.Handle)]++
	}
	var authors []string
	for _, o := range want {
		authors = append(authors, o.DID)
	}
	slices.Sort(authors)
	for _, did := range slices.Compact(authors) {
		require.Contains(s.t, actors, did)
		if handle := strings.ToLower(r.Identities[did].Handle); holders[handle] == 1 {
			require.Equal(s.t, handle, text(actors[did], "handle"), did)
		}
	}
}
