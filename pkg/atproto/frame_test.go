package atproto_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// message makes a frame from the JSON of its body.
func message(tb testing.TB, op int64, kind, body string) []byte {
	tb.Helper()
	b, err := dagcbor.FromJSON([]byte(body))
	require.NoError(tb, err)
	return append(atproto.FrameHeader(op, kind), b...)
}

func TestFrameKinds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		op         int64
		kind, body string
		want       atproto.Frame
	}{
		"identity": {1, "#identity", `{"seq":5,"did":"` + testDID + `","time":"` + testNow + `","handle":"a.test"}`, atproto.Frame{
			Kind: atproto.KindIdentity, Type: "#identity", Seq: 5, Identity: &atproto.IdentityChange{Seq: 5, DID: testDID, Time: testNow, Handle: "a.test"},
		}},
		"identity without handle": {1, "#identity", `{"seq":5,"did":"` + testDID + `","time":"` + testNow + `"}`, atproto.Frame{
			Kind: atproto.KindIdentity, Type: "#identity", Seq: 5, Identity: &atproto.IdentityChange{Seq: 5, DID: testDID, Time: testNow},
		}},
		"account": {1, "#account", `{"seq":6,"did":"` + testDID + `","time":"` + testNow + `","active":false,"status":"Takendown"}`, atproto.Frame{
			Kind: atproto.KindAccount, Type: "#account", Seq: 6, Account: &atproto.AccountChange{Seq: 6, DID: testDID, Time: testNow, Status: "takendown"},
		}},
		"account active": {1, "#account", `{"seq":6,"did":"` + testDID + `","time":"` + testNow + `","active":true,"status":null,"later":[{}]}`, atproto.Frame{
			Kind: atproto.KindAccount, Type: "#account", Seq: 6, Account: &atproto.AccountChange{Seq: 6, DID: testDID, Time: testNow, Active: true},
		}},
		"info": {1, "#info", `{"name":"OutdatedCursor","message":"m"}`, atproto.Frame{
			Kind: atproto.KindInfo, Type: "#info", Info: &atproto.Info{Name: atproto.InfoOutdatedCursor, Message: "m"},
		}},
		"error": {-1, "", `{"error":"FutureCursor","message":"m"}`, atproto.Frame{
			Kind: atproto.KindError, Error: &atproto.StreamError{Name: atproto.ErrorFutureCursor, Message: "m"},
		}},
		"error without message": {-1, "", `{"error":"ConsumerTooSlow"}`, atproto.Frame{
			Kind: atproto.KindError, Error: &atproto.StreamError{Name: atproto.ErrorConsumerTooSlow},
		}},
		"unknown":          {1, "#handle", `{"seq":7,"did":"x"}`, atproto.Frame{Kind: atproto.KindUnknown, Type: "#handle", Seq: 7}},
		"unknown sequence": {1, "#new", `{"x":[1,2,{"seq":9}]}`, atproto.Frame{Kind: atproto.KindUnknown, Type: "#new"}},
		"unknown op":       {2, "#commit", `{"seq":8}`, atproto.Frame{Kind: atproto.KindUnknown, Type: "#commit"}},
	} {
		f, err := atproto.ParseFrame(message(t, c.op, c.kind, c.body))
		require.NoError(t, err, name)
		require.Equal(t, c.want, *f, name)
		require.Contains(t, atproto.Kinds(), f.Kind)
	}
	require.EqualError(t, &atproto.StreamError{Name: "A", Message: "b"}, "stream error A: b")
}

func TestBadFrames(t *testing.T) {
	t.Parallel()
	good := message(t, 1, "#account", `{"seq":6,"did":"`+testDID+`","time":"`+testNow+`","active":false}`)
	deep := append(atproto.FrameHeader(1, "#account"), append([]byte{0xa1, 0x61, 'x'}, bytes.Repeat([]byte{0x81}, 100_000)...)...)
	for name, c := range map[string]struct {
		in   []byte
		want event.Reason
		seq  int64
	}{
		"empty":          {nil, event.ReasonBadFrame, 0},
		"garbage":        {[]byte("hello"), event.ReasonBadFrame, 0},
		"html":           {[]byte("<html>"), event.ReasonBadFrame, 0},
		"no body":        {atproto.FrameHeader(1, "#account"), event.ReasonBadFrame, 0},
		"body cut":       {good[:len(good)-1], event.ReasonBadFrame, 6},
		"trailing":       {append(bytes.Clone(good), 0), event.ReasonBadFrame, 6},
		"deep":           {deep, event.ReasonBadFrame, 0},
		"bad did":        {message(t, 1, "#account", `{"seq":6,"did":"x","time":"t","active":false}`), event.ReasonBadDID, 6},
		"bad did commit": {message(t, 1, "#commit", `{"seq":6,"repo":"x"}`), event.ReasonBadDID, 6},
		"bad type":       {message(t, 1, "#account", `{"seq":6,"did":7}`), event.ReasonBadFrame, 6},
		"bad sequence":   {message(t, 1, "#account", `{"seq":"6"}`), event.ReasonBadFrame, 0},
		"body a list":    {message(t, 1, "#account", `[]`), event.ReasonBadFrame, 0},
		"over the limit": {make([]byte, atproto.MaxFrame+1), event.ReasonTooBig, 0},
		"bad commit cid": {message(t, 1, "#commit", `{"seq":6,"repo":"`+testDID+`","commit":{"$link":"bafkreias7oxbr6swsuggccmtnqpoeami4jza5x4w3urltn6gzhqf4k6k2e"}}`), event.ReasonBadCID, 6},
	} {
		f, err := atproto.ParseFrame(c.in)
		require.Equal(t, c.want, atproto.ReasonOf(err), "%s: %v", name, err)
		if c.seq == 0 {
			require.Nil(t, f, name)
			continue
		}
		require.Equal(t, atproto.KindUnknown, f.Kind, name)
		require.Equal(t, c.seq, f.Seq, "the cursor can pass")
	}
}

// An operation with a CID of another form is dropped, the frame is not.
func TestOpWithOddCID(t *testing.T) {
	t.Parallel()
	f, err := atproto.ParseFrame(message(t, 1, "#commit", `{"seq":6,"repo":"`+testDID+`","ops":[`+
		`{"action":"create","path":"app.bsky.feed.post/a","cid":{"$link":"bafkreias7oxbr6swsuggccmtnqpoeami4jza5x4w3urltn6gzhqf4k6k2e"}},`+
		`{"action":"replace","path":"app.bsky.feed.post/a","cid":null},`+
		`{"action":"delete","path":"app.bsky.feed.post/a","cid":null,"prev":null},`+
		`{"action":"create","path":"app.bsky.feed.post/a","cid":null}]}`))
	require.NoError(t, err)
	ops := f.Commit.Ops
	require.Len(t, ops, 4)
	require.Equal(t, event.ReasonBadCID, atproto.ReasonOf(ops[0].Err))
	require.Equal(t, event.ReasonBadOp, atproto.ReasonOf(ops[1].Err))
	require.NoError(t, ops[2].Err)
	require.Equal(t, event.ReasonBadOp, atproto.ReasonOf(ops[3].Err))
}

func TestLabels(t *testing.T) {
	t.Parallel()
	// From the label tests of the SDK: a label of a production labeler.
	key, err := atproto.ParseKey("Multikey", "zQ3shcnfWLQN1bY4d2patsEAYFzy4xp1zdckEvHsV7S4ocTnC")
	require.NoError(t, err)
	signed := `{"ver":1,"src":"did:plc:n3timvoib5nau7gvwd6cshap","uri":"did:plc:44ybard66vv44zksje25o7dz","val":"bladerunner",` +
		`"cts":"2024-10-23T17:51:19.128Z","sig":{"$bytes":"uCRNA5mTzh078T5xZtkvLEt/O+z0gsKM3aqRI/lVAB8ZtbMnznwS/JwHopZE40JhNNDj80z8gsDLAp/hWqG5Pg"}}`
	f, err := atproto.ParseFrame(message(t, 1, "#labels", `{"seq":3,"labels":[`+signed+
		`,{"src":"`+testDID+`","uri":"at://x","cid":"c","val":"v","neg":true,"cts":"t","exp":"e"}`+
		`,{"src":"nobody","uri":"at://x","val":"v","cts":"t"},{"src":7},[],`+
		`{"src":"`+testDID+`","uri":"at://x","val":"v","cts":"t","neg":null,"ver":null,"sig":null}]}`))
	require.NoError(t, err)
	require.Equal(t, int64(3), f.Seq)
	require.Len(t, f.Labels.Labels, 3)
	require.Len(t, f.Labels.Bad, 3)
	for _, err := range f.Labels.Bad {
		require.Equal(t, event.ReasonBadLabel, atproto.ReasonOf(err))
	}
	l := f.Labels.Labels[0]
	require.NoError(t, atproto.VerifyLabel(&l, key))
	require.Equal(t, event.Label{Src: testDID, URI: "at://x", CID: "c", Val: "v", Neg: true, CTS: "t", Exp: "e"}, f.Labels.Labels[1])
	for _, change := range []func(*event.Label){
		func(l *event.Label) { l.Val = "other" },
		func(l *event.Label) { l.Neg = true },
		func(l *event.Label) { l.Exp = "e" },
		func(l *event.Label) { l.CID = "c" },
		func(l *event.Label) { l.Ver = nil },
		func(l *event.Label) { l.Sig = nil },
	} {
		bad := l
		change(&bad)
		require.Equal(t, event.ReasonBadSignature, atproto.ReasonOf(atproto.VerifyLabel(&bad, key)))
	}
	_, err = atproto.ParseFrame(message(t, 1, "#labels", `{"seq":3,"labels":[`+strings.Repeat("1,", 10_000)+`1]}`))
	require.Equal(t, event.ReasonTooBig, atproto.ReasonOf(err))
}

func TestLabelerIdentity(t *testing.T) {
	t.Parallel()
	key := multibase(t)
	id, err := atproto.ParseDocument(testDID, []byte(`{"id":"`+testDID+`","verificationMethod":[`+
		`{"id":"`+testDID+`#atproto_label","type":"Multikey","controller":"`+testDID+`","publicKeyMultibase":"`+key+`"},`+
		`{"id":"did:web:else.test#atproto","type":"Multikey","controller":"`+testDID+`","publicKeyMultibase":"`+key+`"},`+
		`{"id":"#atproto","type":"Multikey","controller":"did:web:else.test","publicKeyMultibase":"`+key+`"}],`+
		`"service":[{"id":"#atproto_labeler","type":"AtprotoLabeler","serviceEndpoint":"https://labels.test/base/"},`+
		`{"id":"#atproto_pds","type":"Other","serviceEndpoint":"https://p.test"},`+
		`{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"ftp://p.test"}]}`))
	require.NoError(t, err)
	require.Equal(t, "https://labels.test/base", id.Labeler)
	require.Empty(t, id.PDS)
	require.Empty(t, id.SigningKey)
	pub, err := id.LabelerPublicKey()
	require.NoError(t, err)
	require.Equal(t, key, pub.Multibase())
	_, err = id.PublicKey()
	require.Error(t, err)
}
