package event_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sluicev1 "sluice/proto/sluice/v1"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
	"sluice/pkg/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fields makes the lookup of a stream entry from names and values.
func fields(kv ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				return kv[i+1], true
			}
		}
		return "", false
	}
}

const (
	did  = "did:plc:wq4aajammjtxdomz3e23667t"
	rev  = "3mptbypluud2a"
	when = "2026-07-04T14:38:08.085Z"
	ccid = "bafyreiftot7eltsc3f6g4qktykmbv6jcmdmhcx5osscan6jpdxkpqcmcza"
	rcid = "bafyreiguce4jh7kcbmof3pmcvasifqtw24b6isakj5ve5ga2b4z4alpc4i"
)

// events is one of each type, with what is hard about it.
func events() map[string]event.Event {
	record := `{"text":"a \"b\"\n\u0000 é \u2028","$type":"app.bsky.feed.post","big":9007199254740993,` +
		`"ref":{"$link":"` + rcid + `"},"raw":{"$bytes":"AQI"},"createdAt":"2026-07-04T14:38:08.999Z"}`
	op := event.Event{
		Type: event.Create, Seq: 12345678901, Time: when, DID: did, Commit: ccid, Rev: rev,
		Collection: "app.bsky.feed.post", RKey: "3mptbyplj5d2a", CID: rcid, Record: json.RawMessage(record),
	}
	upd, del, back := op, op, op
	upd.Type = event.Update
	del.Type, del.CID, del.Record = event.Delete, "", nil
	back.Seq = event.SeqBackfill
	return map[string]event.Event{
		"create":        op,
		"create_back":   back,
		"update":        upd,
		"delete":        del,
		"repo":          {Type: event.Repo, Seq: 1, Time: when, DID: did, Commit: ccid, Rev: rev},
		"repo_snapshot": {Type: event.Repo, Seq: -1, Time: when, DID: did, Commit: ccid, Rev: rev, Snapshot: true, Count: 1234},
		"repo_empty":    {Type: event.Repo, Seq: -1, Time: when, DID: did, Commit: ccid, Rev: rev, Snapshot: true},
		"account":       {Type: event.Account, Seq: 2, Time: when, DID: did, Active: true},
		"account_gone":  {Type: event.Account, Seq: 3, Time: when, DID: did, Status: "takendown"},
		"identity":      {Type: event.Identity, Seq: 4, Time: when, DID: did, Handle: "alice.test"},
		"identity_bare": {Type: event.Identity, Seq: 5, Time: when, DID: did},
	}
}

func labels() map[string]event.LabelEvent {
	ver := int64(1)
	return map[string]event.LabelEvent{
		"label": {Seq: 7, Host: "labeler.test", Label: event.Label{
			Ver: &ver, Src: did, URI: "at://" + did + "/app.bsky.feed.post/1", CID: rcid, Val: "spam", Neg: true,
			CTS: "2025-10-31T18:00:00.5Z", Exp: "2026-10-31T18:00:00Z", Sig: []byte{1, 2, 3, 255},
		}},
		"label_bare": {Seq: 8, Host: "labeler.test:1234", Label: event.Label{Src: did, URI: did, Val: "!hide", CTS: "2025-10-31T18:00:00Z"}},
	}
}

func jobs() map[string]event.RepoJob {
	return map[string]event.RepoJob{
		"job":        {DID: did, Host: "pds.test", Rev: rev, Active: true},
		"job_resync": {DID: did, Host: "pds.test", Rev: rev, Status: "deactivated", Reason: event.ReasonResync, Priority: 5},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".json")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got+"\n"), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSuffix(string(want), "\n"), got)
	require.True(t, json.Valid([]byte(got)))
}

// protoOf decodes the JSON form with protojson and returns the binary form.
func protoOf(t *testing.T, j string, m proto.Message) string {
	t.Helper()
	require.NoError(t, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(j), m))
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

func TestEventForms(t *testing.T) {
	t.Parallel()
	for name, want := range events() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			field, j, err := event.JSON.Event(&want)
			require.NoError(t, err)
			require.Equal(t, event.FieldEvent, field)
			golden(t, name, j)

			got, err := event.DecodeEvent(fields(field, j))
			require.NoError(t, err)
			require.Equal(t, want, *got)

			field, pb, err := event.Protobuf.Event(&want)
			require.NoError(t, err)
			require.Equal(t, event.FieldProto, field)
			fromPB, err := event.DecodeEvent(fields(field, pb))
			require.NoError(t, err)
			cbor, err := want.DAGCBOR()
			require.NoError(t, err)
			require.Equal(t, cbor, fromPB.RecordCBOR)
			_, again, err := event.JSON.Event(fromPB)
			require.NoError(t, err)
			back, err := event.DecodeEvent(fields(event.FieldEvent, again))
			require.NoError(t, err)
			if want.Record != nil {
				require.JSONEq(t, string(want.Record), string(back.Record))
				require.NoError(t, dagcbor.Validate(cbor))
			}

			var m sluicev1.Event
			protoOf(t, j, &m)
			m.RecordCbor = cbor
			var direct sluicev1.Event
			require.NoError(t, proto.Unmarshal([]byte(pb), &direct))
			require.True(t, proto.Equal(&direct, &m), "%v\n%v", &direct, &m)
		})
	}
}

func TestLabelForms(t *testing.T) {
	t.Parallel()
	for name, want := range labels() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			field, j, err := event.JSON.Label(&want)
			require.NoError(t, err)
			require.Equal(t, event.FieldEvent, field)
			golden(t, name, j)
			got, err := event.DecodeLabels(fields(field, j))
			require.NoError(t, err)
			require.Equal(t, []event.LabelEvent{want}, got)

			field, pb, err := event.Protobuf.Label(&want)
			require.NoError(t, err)
			got, err = event.DecodeLabels(fields(field, pb))
			require.NoError(t, err)
			require.Equal(t, []event.LabelEvent{want}, got)
			require.Equal(t, pb, protoOf(t, j, &sluicev1.LabelEvent{}))
		})
	}
}

func TestJobForms(t *testing.T) {
	t.Parallel()
	for name, want := range jobs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			field, j, err := event.JSON.Job(&want)
			require.NoError(t, err)
			require.Equal(t, event.FieldRepo, field)
			golden(t, name, j)
			got, err := event.DecodeJob(fields(field, j))
			require.NoError(t, err)
			require.Equal(t, want, *got)

			field, pb, err := event.Protobuf.Job(&want)
			require.NoError(t, err)
			got, err = event.DecodeJob(fields(field, pb))
			require.NoError(t, err)
			require.Equal(t, want, *got)
			require.Equal(t, pb, protoOf(t, j, &sluicev1.RepoJob{}))
		})
	}
}

// What the systems before this one wrote.
func TestDecodeOlderForms(t *testing.T) {
	t.Parallel()
	e, err := event.DecodeEvent(fields("event", `{"type":"account","seq":-2,"did":"`+did+`","active":false,"status":"Takendown","record":null}`))
	require.NoError(t, err)
	require.Equal(t, event.Event{Type: event.Account, Seq: -1, DID: did, Status: "takendown"}, *e)

	e, err = event.DecodeEvent(fields("event", ` { "type" : "repo" , "did" : "`+did+`" , "rev" : "3k\u0061" , "extra" : {"a":["]}\"",{}]} , "commit":null } `))
	require.NoError(t, err)
	require.Equal(t, event.Event{Type: event.Repo, Seq: -1, DID: did, Rev: "3ka"}, *e)

	e, err = event.DecodeEvent(fields("event", `{"type":"identity","seq":"77","did":"`+did+`","status":null}`))
	require.NoError(t, err)
	require.Equal(t, int64(77), e.Seq)

	j, err := event.DecodeJob(fields("repo", `{"did":"`+did+`","host":"h","rev":"r","status":null}`))
	require.NoError(t, err)
	require.Equal(t, event.RepoJob{DID: did, Host: "h", Rev: "r", Active: true}, *j)

	seed := `{"seq":9,"labels":[` +
		`{"ver":1,"src":"` + did + `","uri":"at://x","cid":null,"val":"a","neg":false,"cts":"2025-10-31 18:00:00 UTC"},` +
		`{"src":"` + did + `","uri":"at://x","val":"b","cts":"2025-10-31 18:00:00.123456 UTC","exp":"2026-01-01 00:00:00 UTC","sig":[1,2]},` +
		`{"src":"` + did + `","uri":"at://x","val":"c","cts":"odd UTC","sig":"AQI="}]}`
	for _, field := range []string{"labels", "event"} {
		ls, err := event.DecodeLabels(fields(field, seed))
		require.NoError(t, err)
		require.Len(t, ls, 3)
		require.Equal(t, "2025-10-31T18:00:00Z", ls[0].Label.CTS)
		require.Equal(t, "2025-10-31T18:00:00.123456Z", ls[1].Label.CTS)
		require.Equal(t, "2026-01-01T00:00:00Z", ls[1].Label.Exp)
		require.Equal(t, []byte{1, 2}, ls[1].Label.Sig)
		require.Equal(t, []byte{1, 2}, ls[2].Label.Sig)
		require.Equal(t, "odd UTC", ls[2].Label.CTS)
		require.Equal(t, int64(9), ls[0].Seq)
	}

	ls, err := event.DecodeLabels(fields("labels", `{"seq":1,"labels":[{"src":"`+did+`","uri":"u","val":"v","cts":"t"},{"src":"x"}]}`))
	require.Len(t, ls, 1)
	requireReason(t, err, event.ReasonBadLabel)
}

func requireReason(t *testing.T, err error, want event.Reason) {
	t.Helper()
	var drop *event.DropError
	require.ErrorAs(t, err, &drop)
	require.Equal(t, want, drop.Reason)
	require.Equal(t, fault.Permanent, fault.ClassOf(err))
	require.Contains(t, event.Reasons(), want)
}

func TestDecodeBadEntries(t *testing.T) {
	t.Parallel()
	op := func(change, to string) string {
		return strings.Replace(`{"type":"create","seq":1,"time":"t","did":"`+did+`","commit":"c","rev":"r","collection":"c","rkey":"k","cid":"x","record":{}}`, change, to, 1)
	}
	_, err := event.DecodeEvent(fields("event", op("", "")))
	require.NoError(t, err)
	for in, want := range map[string]event.Reason{
		"":                                 event.ReasonBadEntry,
		"[]":                               event.ReasonBadEntry,
		"{":                                event.ReasonBadEntry,
		`{"type":"create"}x`:               event.ReasonBadEntry,
		"{\"type\":\"\xff\"}":              event.ReasonBadEntry,
		op(`"record":{}`, `"record":null`): event.ReasonNoRecord,
		op(`,"record":{}`, ``):             event.ReasonNoRecord,
		op(`"record":{}`, `"record":[]`):   event.ReasonBadEntry,
		op(`"cid":"x"`, `"cid":""`):        event.ReasonBadCID,
		op(`"rkey":"k"`, `"rkey":null`):    event.ReasonBadEntry,
		op(`"rkey":"k"`, `"rkey":1`):       event.ReasonBadEntry,
		op(`"seq":1`, `"seq":1.5`):         event.ReasonBadEntry,
		op(`"seq":1`, `"seq":{}`):          event.ReasonBadEntry,
		op(`"create"`, `"created"`):        event.ReasonBadType,
		op(`"create"`, `null`):             event.ReasonBadType,
		op(did, "alice"):                   event.ReasonBadDID,
		op(did, "did:plc:a/b"):             event.ReasonBadDID,
		`{"type":"account","active":1,"did":"` + did + `"}`: event.ReasonBadEntry,
	} {
		_, err := event.DecodeEvent(fields("event", in))
		requireReason(t, err, want)
	}
	_, err = event.DecodeEvent(fields("other", "x"))
	requireReason(t, err, event.ReasonBadEntry)
	_, err = event.DecodeEvent(fields("pb", "\xff\xff"))
	requireReason(t, err, event.ReasonBadEntry)
	_, err = event.DecodeJob(fields("repo", `{"did":1}`))
	requireReason(t, err, event.ReasonBadEntry)
	_, err = event.DecodeJob(fields("repo", `{}`))
	requireReason(t, err, event.ReasonBadDID)
	_, err = event.DecodeJob(fields())
	requireReason(t, err, event.ReasonBadEntry)
	for _, in := range []string{`{}`, `[]`, `{"label":{"sig":"!"}}`, `{"label":{"sig":[256]}}`, `{"label":{"sig":{}}}`, `{"label":{"sig":7}}`} {
		_, err = event.DecodeLabels(fields("event", in))
		requireReason(t, err, event.ReasonBadEntry)
	}
	_, err = event.DecodeLabels(fields("event", `{"type":"create"}`))
	requireReason(t, err, event.ReasonBadType)
	_, err = event.DecodeLabels(fields("pb", ""))
	requireReason(t, err, event.ReasonBadType)
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	for _, enc := range []event.Encoding{event.JSON, event.Protobuf} {
		_, _, err := enc.Event(&event.Event{Type: "odd", DID: did})
		requireReason(t, err, event.ReasonBadType)
		_, _, err = enc.Event(&event.Event{Type: event.Create, DID: did})
		requireReason(t, err, event.ReasonNoRecord)
	}
	_, _, err := event.JSON.Event(&event.Event{Type: event.Create, DID: did, RecordCBOR: []byte{0xff}})
	requireReason(t, err, event.ReasonBadRecord)
	_, _, err = event.Protobuf.Event(&event.Event{Type: event.Create, DID: did, Record: json.RawMessage("{")})
	requireReason(t, err, event.ReasonBadRecord)
	_, err = (&event.Event{RecordCBOR: []byte{0xff}}).RecordJSON()
	requireReason(t, err, event.ReasonBadRecord)
}
