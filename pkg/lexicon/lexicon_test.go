package lexicon_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/pkg/lexicon"
)

func newCatalog(tb testing.TB, opts lexicon.Options) *lexicon.Catalog {
	tb.Helper()
	c, err := lexicon.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

type verdict struct {
	Collection string          `json:"collection"`
	OK         bool            `json:"ok"`
	Why        string          `json:"why"`
	Record     json.RawMessage `json:"record"`
}

func verdicts(tb testing.TB, name string) []verdict {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var out []verdict
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v verdict
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			tb.Fatal(err)
		}
		out = append(out, v)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return out
}

// The published validator has said of each record in testdata whether it is
// valid.
func TestAgreesWithPublishedValidator(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	good, bad := 0, 0
	for _, v := range verdicts(t, filepath.Join("testdata", "verdicts.jsonl.gz")) {
		err := c.Validate(v.Collection, v.Record)
		if (err == nil) != v.OK {
			t.Errorf("%s %.400s\n  want ok %v (%s), got %v", v.Collection, v.Record, v.OK, v.Why, err)
		}
		if v.OK {
			good++
		} else {
			bad++
		}
	}
	if good < 500 || bad < 500 {
		t.Errorf("%d valid and %d invalid records are too few to prove anything", good, bad)
	}
}

func TestUnknownCollection(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	if err := c.Validate("fm.teal.alpha.feed.play", []byte(`{}`)); !errors.Is(err, lexicon.ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if c.Has("fm.teal.alpha.feed.play") || !c.Has("app.bsky.feed.post") {
		t.Error("Has is wrong")
	}
}

func TestChatDeclarationIsNotChecked(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	const collection = "chat.bsky.actor.declaration"
	if err := c.Validate(collection, []byte(`{"allowIncoming":5,"$type":"x"}`)); err != nil {
		t.Error(err)
	}
	if err := c.Validate(collection, []byte(`[]`)); err == nil {
		t.Error("an array is a record")
	}
}

const legacy = `{"$type":"app.bsky.actor.profile","avatar":{"cid":"bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku","mimeType":"image/png"}}`

func TestLegacyBlobs(t *testing.T) {
	t.Parallel()
	if err := newCatalog(t, lexicon.Options{}).Validate("app.bsky.actor.profile", []byte(legacy)); err == nil {
		t.Error("a legacy blob passes the strict check")
	}
	if err := newCatalog(t, lexicon.Options{LegacyBlobs: true}).Validate("app.bsky.actor.profile", []byte(legacy)); err != nil {
		t.Error(err)
	}
}

func TestErrorSaysWhere(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	err := c.Validate("app.bsky.feed.post", []byte(`{"$type":"app.bsky.feed.post","text":"","createdAt":"2024-01-01T00:00:00Z","langs":["en","x y"]}`))
	var e *lexicon.Error
	if !errors.As(err, &e) || e.Path != "$.langs[1]" || e.Error() != "invalid language at $.langs[1]" {
		t.Errorf("got %v", err)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	const post = `"$type":"app.bsky.feed.post","text":"","createdAt":"2024-01-01T00:00:00Z"`
	deep := strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)
	for name, text := range map[string]string{
		"empty": "", "null": "null", "array": "[]", "open object": "{", "trailing": "{" + post + "} x",
		"trailing comma": "{" + post + ",}", "no colon": `{"a" 1}`, "bare word": "{" + post + `,"a":nul}`,
		"leading zero": "{" + post + `,"a":01}`, "control character": "{" + post + ",\"a\":\"\x01\"}",
		"bad escape": "{" + post + `,"a":"\x"}`, "bad UTF-8": "{" + post + ",\"a\":\"\xff\"}",
		"deep": "{" + post + `,"a":` + deep + "}", "deep open": strings.Repeat(`[`, 1_000_000),
	} {
		if err := c.Validate("app.bsky.feed.post", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, text := range map[string]string{
		"plain": "{" + post + "}", "spaces": " { " + post + " , \"a\" : [ 1 , 2 ] } \n", "floats": "{" + post + `,"a":[1.5,-2e+3,0.1]}`,
		"escapes": "{" + post + `,"a":"\u00e9\ud83d\ude00\ud800\n\"\\\/"}`, "twice, the last counts": `{"text":5,` + post + "}",
	} {
		if err := c.Validate("app.bsky.feed.post", []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateValue(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	record := map[string]any{"$type": "app.bsky.graph.follow", "subject": "did:plc:abc", "createdAt": "2024-02-30T00:00:00Z"}
	if err := c.ValidateValue("app.bsky.graph.follow", record); err != nil {
		t.Error(err)
	}
	record["subject"] = "someone.test"
	if err := c.ValidateValue("app.bsky.graph.follow", record); err == nil {
		t.Error("a handle passes as a DID")
	}
	if err := c.ValidateValue("x.y.z", record); !errors.Is(err, lexicon.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

// The embedded set is closed: refreshing from itself keeps it.
func TestClosure(t *testing.T) {
	t.Parallel()
	docs, err := lexicon.ReadDocuments(os.DirFS("lexicons"))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := lexicon.Closure(docs, lexicon.Collections())
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != len(docs) {
		t.Errorf("%d documents are needed, %d are embedded", len(ids), len(docs))
	}
	delete(docs, "com.atproto.repo.strongRef")
	if _, err := lexicon.Closure(docs, lexicon.Collections()); err == nil {
		t.Error("a missing document is not noticed")
	}
}

func BenchmarkValidate(b *testing.B) {
	c := newCatalog(b, lexicon.Options{})
	var all []verdict
	for _, v := range verdicts(b, filepath.Join("testdata", "verdicts.jsonl.gz")) {
		if v.OK {
			all = append(all, v)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v := all[i%len(all)]
		if err := c.Validate(v.Collection, v.Record); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzValidate(f *testing.F) {
	c := newCatalog(f, lexicon.Options{})
	f.Add([]byte(legacy))
	for i, v := range verdicts(f, filepath.Join("testdata", "verdicts.jsonl.gz")) {
		if i%40 == 0 {
			f.Add([]byte(v.Record))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, collection := range lexicon.Collections() {
			if err := c.Validate(collection, text); err == nil && !json.Valid(text) {
				t.Errorf("%s takes %q, which is not JSON", collection, text)
			}
		}
	})
}
