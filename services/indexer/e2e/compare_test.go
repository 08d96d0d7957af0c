package e2e_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type row map[string]any

// rowsOf decodes the rows of a table, one JSON text each.
func rowsOf(t *testing.T, texts []string) []row {
	t.Helper()
	out := make([]row, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal([]byte(text), &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// expectedTables reads the rows of a fixture, by table.
func expectedTables(t *testing.T, dir string) map[string][]row {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	out := map[string][]row{}
	for _, f := range files {
		plain := strings.TrimSuffix(f, ".gz")
		out[strings.TrimSuffix(filepath.Base(plain), ".jsonl")] = readRows(t, plain)
	}
	return out
}

func readRows(t *testing.T, name string) []row {
	t.Helper()
	out := []row{}
	if _, err := os.Stat(name); err != nil {
		if _, err := os.Stat(name + ".gz"); err != nil {
			return out
		}
	}
	lines := bufio.NewScanner(openPlain(t, name))
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// normal brings a row of ours or of a fixture to the form that is compared, ok
// is false for a row that reads like none.
func normal(table string, r row) (row, bool) {
	r = maps.Clone(r)
	delete(r, "rev")
	switch table {
	case "post_agg", "profile_agg":
		delete(r, "bookmarkCount")
		zero := true
		for k, v := range r {
			if k != "uri" && k != "did" && v != float64(0) {
				zero = false
			}
		}
		if zero {
			return nil, false
		}
	case "actor":
		for _, c := range []string{
			"takedownRef", "trustedVerifier", "ageAssuranceStatus", "ageAssuranceLastInitiatedAt",
			"ageAssuranceAccess", "ageAssuranceCountryCode", "ageAssuranceRegionCode",
		} {
			delete(r, c)
		}
	case "record":
		delete(r, "takedownRef")
		delete(r, "tags")
		unpack(r, "json")
	case "list", "feed_generator":
		unpack(r, "descriptionFacets")
	case "post":
		for _, c := range []string{"invalidReplyRoot", "violatesThreadGate"} {
			if r[c] == false {
				r[c] = nil
			}
		}
	case "notification":
		delete(r, "id")
	}
	return r, true
}

// unpack replaces a JSON text by its value.
func unpack(r row, column string) {
	text, ok := r[column].(string)
	if !ok {
		return
	}
	var v any
	if json.Unmarshal([]byte(text), &v) == nil {
		r[column] = v
	}
}

// difference is a row that one side has and the other has not.
type difference struct {
	table string
	sign  string // "+" is a row that only we have, "-" one that only the fixture has
	row   row
}

func (d difference) String() string {
	text, _ := json.Marshal(d.row)
	return d.sign + " " + d.table + " " + string(text)
}

// compare lists what differs. In want, "*" stands for any value but null.
func compare(want, got map[string][]row) []difference {
	var out []difference
	for _, table := range slices.Sorted(maps.Keys(want)) {
		out = append(out, compareTable(table, want[table], got[table])...)
	}
	return out
}

func compareTable(table string, want, got []row) []difference {
	wild := map[string]bool{}
	for _, r := range want {
		for c, v := range r {
			if v == "*" {
				wild[c] = true
			}
		}
	}
	left := map[string][]row{}
	for _, r := range got {
		if n, ok := normal(table, r); ok {
			k := fingerprint(n, wild)
			left[k] = append(left[k], n)
		}
	}
	var out []difference
	for _, r := range want {
		n, ok := normal(table, r)
		if !ok {
			continue
		}
		k := fingerprint(n, wild)
		i := slices.IndexFunc(left[k], func(have row) bool { return matches(n, have, wild) })
		if i < 0 {
			out = append(out, difference{table: table, sign: "-", row: n})
			continue
		}
		left[k] = slices.Delete(left[k], i, i+1)
	}
	for _, k := range slices.Sorted(maps.Keys(left)) {
		for _, r := range left[k] {
			out = append(out, difference{table: table, sign: "+", row: r})
		}
	}
	return out
}

// fingerprint is the row without the columns that may hold a wild card.
func fingerprint(r row, wild map[string]bool) string {
	r = maps.Clone(r)
	maps.DeleteFunc(r, func(c string, _ any) bool { return wild[c] })
	text, _ := json.Marshal(r)
	return string(text)
}

func matches(want, have row, wild map[string]bool) bool {
	for c := range wild {
		w, h := want[c], have[c]
		if w == "*" && h != nil {
			continue
		}
		if w != h {
			return false
		}
	}
	return true
}
