package lexicon_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/pkg/lexicon"
	"sluice/pkg/testkit"
)

type rejection struct {
	Seq  int64  `json:"seq"`
	Step string `json:"step"`
	URI  string `json:"uri"`
	Why  string `json:"why"`
}

type fixtureEvent struct {
	Type       string          `json:"type"`
	Seq        int64           `json:"seq"`
	DID        string          `json:"did"`
	Collection string          `json:"collection"`
	RKey       string          `json:"rkey"`
	Record     json.RawMessage `json:"record"`
}

// Exactly the records that the published indexer refused for their lexicon are
// refused here.
func TestFixtureHistories(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, lexicon.Options{})
	metas, err := filepath.Glob(filepath.Join(testkit.Shared(t, "fixtures/appview"), "*", "*", "meta.json"))
	if err != nil || len(metas) == 0 {
		t.Fatalf("no histories: %v", err)
	}
	checked, refused := 0, 0
	for _, meta := range metas {
		n, r := checkHistory(t, c, filepath.Dir(meta))
		checked, refused = checked+n, refused+r
	}
	if checked < 10_000 || refused < 50 {
		t.Errorf("%d records checked, %d refused", checked, refused)
	}
}

func checkHistory(t *testing.T, c *lexicon.Catalog, dir string) (checked, refused int) {
	t.Helper()
	bad := rejections(t, dir)
	lines := bufio.NewScanner(openPlain(t, filepath.Join(dir, "events.jsonl")))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e fixtureEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != "create" && e.Type != "update" || !c.Has(e.Collection) {
			continue
		}
		key := rejection{Seq: e.Seq, URI: "at://" + e.DID + "/" + e.Collection + "/" + e.RKey}
		err := c.Validate(e.Collection, e.Record)
		if (err != nil) != bad[key] {
			t.Errorf("%s: %s: refused there %v, here: %v\n%.300s", filepath.Base(dir), key.URI, bad[key], err, e.Record)
		}
		checked++
		if err != nil {
			refused++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return checked, refused
}

func rejections(t *testing.T, dir string) map[rejection]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	var meta struct {
		Rejected []rejection `json:"rejected"`
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		t.Fatal(err)
	}
	bad := map[rejection]bool{}
	for _, r := range meta.Rejected {
		if r.Step == "record" && strings.HasPrefix(r.Why, "LexValidationError") {
			bad[rejection{Seq: r.Seq, URI: r.URI}] = true
		}
	}
	return bad
}

// openPlain opens name, or name.gz unpacked.
func openPlain(t *testing.T, name string) io.Reader {
	t.Helper()
	if f, err := os.Open(name); err == nil {
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	f, err := os.Open(name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return z
}
