package derive_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
	"sluice/pkg/lexicon"
	"sluice/services/indexer/internal/derive"
)

func TestDatetime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"2024-01-01T00:00:00Z":             "2024-01-01T00:00:00.000Z",
		"2024-01-01T00:00:00.1239999Z":     "2024-01-01T00:00:00.123Z",
		"2024-01-01T00:00:00.5+05:30":      "2023-12-31T18:30:00.500Z",
		"2024-02-30T00:00:00Z":             "2024-03-01T00:00:00.000Z",
		"0000-01-01T00:00:00Z":             "0000-01-01T00:00:00.000Z",
		"9999-12-31T23:59:59.999Z":         "9999-12-31T23:59:59.999Z",
		"0000-01-01T00:00:00+01:00":        "1970-01-01T00:00:00.000Z",
		"9999-12-31T23:59:59-01:00":        "1970-01-01T00:00:00.000Z",
		"2024-02-32T00:00:00Z":             "1970-01-01T00:00:00.000Z",
		"now":                              "1970-01-01T00:00:00.000Z",
		"":                                 "1970-01-01T00:00:00.000Z",
		"2024-01-01T00:00:00.Z":            "1970-01-01T00:00:00.000Z",
		"2026-07-04T10:11:12.123456-00:00": "2026-07-04T10:11:12.123Z",
	} {
		require.Equal(t, want, derive.Datetime(in), in)
	}
}

func TestParseURI(t *testing.T) {
	t.Parallel()
	require.Equal(t, derive.URI{Host: "did:plc:a", Collection: "app.bsky.feed.post", RKey: "k"}, derive.ParseURI("at://did:plc:a/app.bsky.feed.post/k?x#y"))
	require.Equal(t, derive.URI{Host: "did:plc:a"}, derive.ParseURI("at://did:plc:a"))
	require.Equal(t, derive.URI{}, derive.ParseURI("https://x"))
	require.Equal(t, "at://did:plc:a/app.bsky.feed.postgate/k", derive.GateURI("at://did:plc:a/app.bsky.feed.post/k", derive.PostGate))
}

func source(collection, rkey, text string) derive.Source {
	return derive.Source{DID: "did:plc:a", Collection: collection, RKey: rkey, CID: "c", Time: "2026-08-01T00:00:00.123456Z", JSON: []byte(text)}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, collection, text string
		reason                 derive.Reason
	}{
		{"list of another", "app.bsky.graph.listitem", `{"list":"at://did:plc:b/app.bsky.graph.list/x","subject":"did:plc:c"}`, derive.BadSubject},
		{"gate of another", "app.bsky.feed.threadgate", `{"post":"at://did:plc:b/app.bsky.feed.post/k"}`, derive.BadSubject},
		{"gate at another key", "app.bsky.feed.postgate", `{"post":"at://did:plc:a/app.bsky.feed.post/other"}`, derive.BadSubject},
		{"NUL in a column", "app.bsky.feed.post", `{"text":"a\u0000b"}`, derive.BadText},
		{"NUL in a tag", "app.bsky.feed.post", `{"text":"a","tags":["\u0000"]}`, derive.BadText},
		{"no object", "app.bsky.feed.like", `[]`, derive.BadRecord},
	} {
		_, err := derive.Parse(source(c.collection, "k", c.text))
		var why *derive.RejectError
		require.ErrorAs(t, err, &why, c.name)
		require.Equal(t, c.reason, why.Reason, c.name)
	}
}

// TestFieldNames: names of other case are other fields.
func TestFieldNames(t *testing.T) {
	t.Parallel()
	r, err := derive.Parse(source("app.bsky.feed.post", "k", `{"text":"right","TEXT":"wrong","createdAt":"2024-01-01T00:00:00Z","createdat":"2020-01-01T00:00:00Z"}`))
	require.NoError(t, err)
	require.Equal(t, "right", r.Post.Text)
	require.Equal(t, "2024-01-01T00:00:00.000Z", r.CreatedAt)
}

// FuzzDerive: whatever a record is, it has rows that a column can hold, or is
// refused with a reason.
func FuzzDerive(f *testing.F) {
	for _, text := range []string{
		`{"$type":"app.bsky.feed.post","text":"","createdAt":"2024-01-01T00:00:00Z"}`,
		`{"$type":"app.bsky.feed.post","text":"","createdAt":"2024-01-01T00:00:00Z","embed":{"$type":"app.bsky.embed.recordWithMedia","record":{"record":{"uri":"at://x/y/z","cid":"c"}},"media":{"$type":"app.bsky.embed.images","images":[]}}}`,
		`{"$type":"app.bsky.feed.post","text":"\ud800","facets":[{"features":[{"$type":"app.bsky.richtext.facet#mention","did":"did:plc:b"}]}],"createdAt":"2024-02-30T00:00:00Z"}`,
		`{"embed":{"$type":"x","images":5},"reply":{"root":{"uri":"at://a","cid":""},"parent":{"uri":"","cid":""}}}`,
		`{"avatar":{"cid":"c","mimeType":"m"},"joinedViaStarterPack":{"uri":"at://did:plc:a/b/c","cid":"c"}}`,
	} {
		f.Add("app.bsky.feed.post", "self", text)
		f.Add("app.bsky.actor.profile", "self", text)
	}
	catalog, err := lexicon.New(lexicon.Options{})
	require.NoError(f, err)
	d := derive.Deriver{Validate: catalog.Validate}
	f.Fuzz(func(t *testing.T, collection, rkey, text string) {
		for _, parse := range []func(derive.Source) (*derive.Record, error){derive.Parse, d.Derive} {
			r, err := parse(source(collection, rkey, text))
			var why *derive.RejectError
			if err != nil && !errors.As(err, &why) {
				t.Fatalf("refused without a reason: %v", err)
			}
			if err != nil || r == nil {
				continue
			}
			if strings.IndexByte(r.CreatedAt+r.IndexedAt, 0) >= 0 {
				t.Fatal("NUL in a time")
			}
			if r.CreatedAt != "" {
				if _, err := time.Parse(time.RFC3339, r.CreatedAt); err != nil {
					t.Fatalf("createdAt %q", r.CreatedAt)
				}
			}
			derive.ParseGate(text)
			derive.ParseReference(text)
		}
		if cbor, err := dagcbor.FromJSON([]byte(text)); err == nil {
			back, err := dagcbor.AppendJSON(nil, cbor)
			require.NoError(t, err)
			_, _ = derive.Parse(source(collection, rkey, string(back)))
		}
	})
}

// TestKeyTooLong: a uri that does not fit into an index is refused, whatever it
// is made of.
func TestKeyTooLong(t *testing.T) {
	t.Parallel()
	d := derive.Deriver{Validate: func(string, []byte) error { return nil }}
	long := "at://did:plc:b/app.bsky.feed.post/" + strings.Repeat("k", 2600)
	own := "at://did:plc:a/app.bsky.feed.post/" + strings.Repeat("k", 2550)
	short := "at://did:plc:b/app.bsky.feed.post/k"
	for name, c := range map[string][2]string{
		"like":   {"app.bsky.feed.like", `{"subject":{"uri":"` + long + `","cid":"c"}}`},
		"repost": {"app.bsky.feed.repost", `{"subject":{"uri":"` + long + `","cid":"c"}}`},
		"follow": {"app.bsky.graph.follow", `{"subject":"did:web:` + strings.Repeat("x", 2600) + `"}`},
		"list":   {"app.bsky.graph.listitem", `{"list":"at://did:plc:a/app.bsky.graph.list/` + strings.Repeat("x", 2560) + `","subject":"did:plc:bbbbbbbb"}`},
		"parent": {"app.bsky.feed.post", `{"text":"","reply":{"root":{"uri":"` + short + `"},"parent":{"uri":"` + long + `"}}}`},
		"root":   {"app.bsky.feed.post", `{"text":"","reply":{"root":{"uri":"` + own + `"},"parent":{"uri":"` + short + `"}}}`},
		"quote":  {"app.bsky.feed.post", `{"text":"","embed":{"$type":"app.bsky.embed.record","record":{"uri":"` + long + `","cid":"c"}}}`},
		"pack":   {"app.bsky.actor.profile", `{"joinedViaStarterPack":{"uri":"` + long + `","cid":"c"}}`},
	} {
		rkey := "r"
		if name == "pack" {
			rkey = "self"
		}
		_, err := d.Derive(source(c[0], rkey, c[1]))
		var why *derive.RejectError
		require.ErrorAs(t, err, &why, name)
		require.Equal(t, derive.KeyTooLong, why.Reason, name)
	}
	_, err := d.Derive(source("app.bsky.feed.post", "r", `{"text":"","reply":{"root":{"uri":"`+long+`"},"parent":{"uri":"`+short+`"}}}`))
	require.NoError(t, err)
}
