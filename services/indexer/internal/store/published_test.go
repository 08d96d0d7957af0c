package store_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// TestPublished: short histories give the rows that the published indexer makes
// of them, whatever the size of a batch and whenever posts are judged again.
func TestPublished(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/published/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, settled := range []bool{false, true} {
		for _, size := range []int{1, 50} {
			t.Run(strconv.FormatBool(settled)+" "+strconv.Itoa(size), func(t *testing.T) {
				t.Parallel()
				st, pool, schema := newStore(t)
				var all []*scenario
				for _, f := range files {
					s := unpack(t, f)
					setUp(t, pool, schema, s)
					applySettling(t, st, s, size, settled)
					lookUpHandles(t, st, s)
					all = append(all, s)
				}
				settle(t, st)
				for _, s := range all {
					requireTables(t, pool, schema, s)
				}
			})
		}
	}
}

// TestRepaired is TestPublished for made-up histories, whose accounts are the
// same.
func TestRepaired(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/repaired/*.json.gz")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		for _, settled := range []bool{false, true} {
			t.Run(filepath.Base(f)+" "+strconv.FormatBool(settled), func(t *testing.T) {
				t.Parallel()
				st, pool, schema := newStore(t)
				for _, size := range []int{1, 50} {
					s := unpack(t, f)
					clearTables(t, pool, schema)
					applySettling(t, st, s, size, settled)
					lookUpHandles(t, st, s)
					settle(t, st)
					requireTables(t, pool, schema, s)
				}
			})
		}
	}
}

// requireTables compares all tables with the rows of a history.
func requireTables(t *testing.T, pool *pgxpool.Pool, schema string, s *scenario) {
	t.Helper()
	for _, table := range s.tables(t) {
		missing, extra := diff(expectedRows(t, s, table), s.own(rowsOf(t, pool, schema, table)))
		require.Empty(t, append(missing, extra...), "%s: %s", s.name, table)
	}
}

// applySettling applies a history; settled: posts are judged again after every
// batch.
func applySettling(t *testing.T, st *store.Store, s *scenario, size int, settled bool) {
	t.Helper()
	if !settled {
		applyInOrder(t, st, s, size)
		return
	}
	whole := s.events
	for from := 0; from < len(whole); from += size {
		s.events = whole[from:min(from+size, len(whole))]
		applyInOrder(t, st, s, size)
		settle(t, st)
	}
	s.events = whole
}

// unpack makes a scenario of one file.
func unpack(t *testing.T, file string) *scenario {
	t.Helper()
	var c struct {
		Events     []json.RawMessage            `json:"events"`
		Identities json.RawMessage              `json:"identities"`
		Setup      json.RawMessage              `json:"setup"`
		Meta       json.RawMessage              `json:"meta"`
		Tables     map[string][]json.RawMessage `json:"tables"`
	}
	var whole []byte
	for _, line := range readLines(t, strings.TrimSuffix(file, ".gz")) {
		whole = append(whole, line...)
	}
	require.NoError(t, json.Unmarshal(whole, &c))
	root, name := t.TempDir(), strings.TrimSuffix(filepath.Base(file), ".json")
	lines := func(file string, rows ...json.RawMessage) {
		var text []byte
		for _, r := range rows {
			text = append(append(text, r...), '\n')
		}
		require.NoError(t, os.WriteFile(filepath.Join(root, name, file), text, 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, name, "expected"), 0o700))
	lines("events.jsonl", c.Events...)
	lines("identities.json", c.Identities)
	lines("setup.json", c.Setup)
	lines("meta.json", c.Meta)
	for table, rows := range c.Tables {
		lines(filepath.Join("expected", table+".jsonl"), rows...)
	}
	return loadScenario(t, root, name)
}

// Of two account events of one time the later one of the stream counts, in
// whatever order, and again.
func TestAccountEventsOfOneTime(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]int{"in order": {0, 1}, "reversed": {1, 0}, "repeated": {0, 1, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t)
			m := newMaker()
			post := m.post(1, nil, nil)
			require.NoError(t, applyOne(st, post))
			events := []*event.Event{
				{Type: event.Account, Seq: 99, DID: did(1), Time: "2026-08-02T00:00:00.000Z", Status: "takendown"},
				{Type: event.Account, Seq: 100, DID: did(1), Time: "2026-08-02T00:00:00.000Z", Status: "suspended"},
			}
			for _, i := range order {
				require.NoError(t, applyOne(st, events[i]))
			}
			require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.actor WHERE "upstreamStatus" = 'suspended'`))
		})
	}
}

// The first version of a profile says with whom its account joined, whichever
// version comes first.
func TestJoinedByTheFirstVersion(t *testing.T) {
	t.Parallel()
	pack := func(n int) string {
		return `,"joinedViaStarterPack":{"uri":"at://` + did(n) + `/app.bsky.graph.starterpack/a","cid":"` + newMaker().post(1, nil, nil).CID + `"}`
	}
	for name, c := range map[string]struct {
		create, update string
		seen           []int
		want           int // the account that is told; 0: none
	}{
		"in order":                 {create: pack(5), update: pack(6), seen: []int{0, 1}, want: 5},
		"update first":             {create: pack(5), update: pack(6), seen: []int{1, 0}, want: 5},
		"update first, then none":  {create: `,"description":"x"`, update: pack(6), seen: []int{1, 0}},
		"in order, none at first":  {create: `,"description":"x"`, update: pack(6), seen: []int{0, 1}},
		"the creation never comes": {update: pack(6), seen: []int{1}, want: 6},
		"update, then a fetch":     {create: pack(5), update: pack(6), seen: []int{1, 2}},
		"a fetch, then the update": {create: pack(5), update: pack(6), seen: []int{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t)
			m := newMaker()
			events := []*event.Event{m.create(1, "app.bsky.actor.profile", "self", c.create), m.create(1, "app.bsky.actor.profile", "self", c.update)}
			events[1].Type = event.Update
			fetched := *events[0]
			fetched.Seq = event.SeqBackfill
			events = append(events, &fetched)
			for _, i := range c.seen {
				_, err := st.Apply(context.Background(), []store.Change{{Event: events[i], Live: i < 2}})
				require.NoError(t, err)
			}
			n := 0
			if c.want != 0 {
				n = 1
			}
			require.Equal(t, n, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE reason = 'starterpack-joined'`))
			require.Equal(t, n, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1`, did(c.want)))
		})
	}
}

// What a commit makes in the place of what it deletes is there; what it deletes
// after it has made it is not. Both stay so when they come again.
func TestDeletedAndMadeInOneCommit(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"deleted, then made": true, "made, then deleted": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 10} {
				st, pool, schema := newStore(t)
				m := newMaker()
				root := m.post(1, nil, nil)
				old := m.like(2, root)
				gone := m.delete(old)
				again := *old
				again.Rev, again.Time, again.Seq = gone.Rev, gone.Time, gone.Seq
				events := []*event.Event{root, old, gone, &again, gone, &again}
				if !made {
					events = []*event.Event{root, &again, gone, &again, gone}
				}
				applyParallel(t, []*store.Store{st}, size, events)
				settle(t, st)
				want := 0
				if made {
					want = 1
				}
				require.Equal(t, want, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`))
				require.Equal(t, want, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, root.URI()))
			}
		})
	}
}
