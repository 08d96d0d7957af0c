package derive_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
	"sluice/pkg/lexicon"
	"sluice/services/indexer/internal/derive"
)

// FuzzBlock: any block that is valid DAG-CBOR has rows or is refused with a
// reason, in every collection.
func FuzzBlock(f *testing.F) {
	for _, text := range []string{
		`{"$type":"app.bsky.feed.post","text":"hi","createdAt":"2024-01-01T00:00:00Z","langs":["en"]}`,
		`{"$type":"app.bsky.feed.like","subject":{"uri":"at://did:plc:a/app.bsky.feed.post/k","cid":"bafyreigh2akiscaildc"},"createdAt":"2024-01-01T00:00:00Z"}`,
		`{"$type":"app.bsky.actor.profile","avatar":{"$type":"blob","ref":{"$link":"bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq"},"mimeType":"image/png","size":1}}`,
		`{"a":{"$bytes":"AAEC"},"b":[null,true,-1,18446744073709551615]}`,
		`[]`, `1`,
	} {
		if block, err := dagcbor.FromJSON([]byte(text)); err == nil {
			f.Add(uint8(0), block)
			f.Add(uint8(7), block)
		}
	}
	f.Add(uint8(1), []byte("\xa1\x64text\x63\x00\x00\x00"))
	f.Add(uint8(1), []byte("\x81\x81\x81\x81\x81\x81\x80"))
	catalog, err := lexicon.New(lexicon.Options{})
	require.NoError(f, err)
	d := derive.Deriver{Validate: catalog.Validate}
	collections := []string{
		"app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.repost", "app.bsky.graph.follow", "app.bsky.graph.block", "app.bsky.graph.listitem",
		"app.bsky.graph.listblock", "app.bsky.actor.profile", "app.bsky.graph.list", "app.bsky.feed.generator", "app.bsky.graph.starterpack", "app.bsky.feed.threadgate",
		"app.bsky.feed.postgate", "app.bsky.labeler.service", "app.bsky.graph.verification", "app.bsky.actor.status", "chat.bsky.actor.declaration",
	}
	f.Fuzz(func(t *testing.T, which uint8, block []byte) {
		if dagcbor.Validate(block) != nil {
			return
		}
		text, err := dagcbor.AppendJSON(nil, block)
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("no JSON: %q", text)
		}
		collection := collections[int(which)%len(collections)]
		r, err := d.Derive(source(collection, "self", string(text)))
		var why *derive.RejectError
		switch {
		case err != nil && !errors.As(err, &why):
			t.Fatalf("refused without a reason: %v", err)
		case err == nil && r == nil:
			t.Fatalf("%s has no rows and no reason", collection)
		}
	})
}

// FuzzDatetime: what comes out sorts as time does, comes out of itself
// unchanged, and is the same moment wherever the text has the syntax of the protocol.
func FuzzDatetime(f *testing.F) {
	for _, s := range []string{
		"2024-02-30T00:00:00Z", "2024-01-01T23:59:59.999999999+14:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00",
		"2024-1-1T0:0:0Z", "2024-01-01 00:00:00Z", "2016-12-31T23:59:60Z", "", "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00-00:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := derive.Datetime(s)
		if len(got) != len("2006-01-02T15:04:05.000Z") {
			t.Fatalf("%q became %q", s, got)
		}
		if again := derive.Datetime(got); again != got {
			t.Fatalf("%q became %q, and that %q", s, got, again)
		}
		parsed, err := syntax.ParseDatetime(s)
		if err != nil {
			return
		}
		want := parsed.Time().UTC()
		if y := want.Year(); y < 0 || y > 9999 {
			return
		}
		if text := want.Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z"); text != got {
			t.Fatalf("%q is %q, got %q", s, text, got)
		}
	})
}

// FuzzURI: the parts are those of the AT URI syntax wherever that has any.
func FuzzURI(f *testing.F) {
	for _, s := range []string{
		"at://did:plc:abc/app.bsky.feed.post/k", "at://did:plc:abc", "at://handle.test/app.bsky.feed.post", "at:///x/y", "at://did:web:a.b/c/d/e#f?g", "https://a/b/c",
		"at://did:plc:abc/app.bsky.feed.post/" + strings.Repeat("k", 8192),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := derive.ParseURI(s)
		for _, part := range []string{got.Host, got.Collection, got.RKey} {
			if !strings.Contains(s, part) || strings.Contains(part, "/") {
				t.Fatalf("%q has the part %q", s, part)
			}
		}
		want, err := syntax.ParseATURI(s)
		if err != nil {
			return
		}
		if got.Host != want.Authority().String() || got.Collection != string(want.Collection()) || got.RKey != string(want.RecordKey()) {
			t.Fatalf("%q is %q %q %q, got %+v", s, want.Authority(), want.Collection(), want.RecordKey(), got)
		}
	})
}

// FuzzFacets: mentions are found whatever else the facets are, and only there.
func FuzzFacets(f *testing.F) {
	for _, s := range []string{
		`[{"index":{"byteStart":0,"byteEnd":2},"features":[{"$type":"app.bsky.richtext.facet#mention","did":"did:plc:b"}]}]`,
		`[{"features":[{"$type":"app.bsky.richtext.facet#link","uri":"https://a"},{"$type":"app.bsky.richtext.facet#mention","did":""}]}]`,
		`[{"features":5}]`, `{}`, `[null]`, `[{"features":[null]}]`, `[{"Features":[{"$type":"app.bsky.richtext.facet#mention","did":"did:plc:b"}]}]`,
	} {
		f.Add(s)
	}
	catalog, err := lexicon.New(lexicon.Options{})
	require.NoError(f, err)
	d := derive.Deriver{Validate: catalog.Validate}
	f.Fuzz(func(t *testing.T, facets string) {
		text := `{"$type":"app.bsky.feed.post","text":"hello","createdAt":"2024-01-01T00:00:00Z","facets":` + facets + `}`
		if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
			return
		}
		loose := derive.ParseReference(text).Mentions
		if most := strings.Count(text, "{"); len(loose) > most {
			t.Fatalf("%d mentions in %d objects", len(loose), most)
		}
		r, err := d.Derive(source("app.bsky.feed.post", "k", text))
		if err != nil {
			return
		}
		require.Equal(t, loose, r.Post.Mentions, "a reply sees other mentions than the post")
		for _, did := range r.Post.Mentions {
			if _, err := syntax.ParseDID(did); err != nil {
				t.Fatalf("mentions %q", did)
			}
		}
	})
}
