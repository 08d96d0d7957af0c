package store_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

// scenario is one history of the AppView fixtures.
type scenario struct {
	dir, name, kind string
	events          []*event.Event
	identities      identities
	setup           map[string][]map[string]any
	meta            scenarioMeta
}

type scenarioMeta struct {
	Decision string `json:"decision"`
	Ignore   []struct {
		Table   string         `json:"table"`
		Key     map[string]any `json:"key"`
		Columns []string       `json:"columns"`
	} `json:"ignore"`
	Rejected []struct {
		Seq  int64  `json:"seq"`
		Step string `json:"step"`
		URI  string `json:"uri"`
	} `json:"rejected"`
}

type identity struct {
	Handle   *string `json:"handle"`
	PDS      *string `json:"pds"`
	Resolves bool    `json:"resolves"`
	Hosted   any     `json:"hosted"`
	Gone     bool    `json:"gone"`
}

type identities struct {
	Identities map[string]identity `json:"identities"`
	Changes    []json.RawMessage   `json:"changes"`
}

func readLines(t *testing.T, path string) []json.RawMessage {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if data, err = os.ReadFile(path + ".gz"); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		require.NoError(t, err)
		z, err := gzip.NewReader(bytes.NewReader(data))
		require.NoError(t, err)
		data, err = io.ReadAll(z)
		require.NoError(t, err)
	}
	require.NoError(t, err)
	out := []json.RawMessage{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<26)
	for sc.Scan() {
		if len(sc.Bytes()) > 0 {
			out = append(out, bytes.Clone(sc.Bytes()))
		}
	}
	require.NoError(t, sc.Err())
	return out
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, into))
}

func loadScenario(t *testing.T, root, dir string) *scenario {
	t.Helper()
	s := &scenario{dir: filepath.Join(root, dir), name: filepath.Base(dir), kind: filepath.Dir(dir)}
	for _, line := range readLines(t, filepath.Join(s.dir, "events.jsonl")) {
		e, err := event.DecodeEvent(func(name string) (string, bool) { return string(line), name == "event" })
		require.NoError(t, err)
		s.events = append(s.events, e)
	}
	readJSON(t, filepath.Join(s.dir, "identities.json"), &s.identities)
	readJSON(t, filepath.Join(s.dir, "setup.json"), &s.setup)
	readJSON(t, filepath.Join(s.dir, "meta.json"), &s.meta)
	return s
}

func scenarios(t *testing.T) []string {
	t.Helper()
	root := testkit.Shared(t, "fixtures/appview")
	var index []struct {
		Dir string `json:"dir"`
	}
	readJSON(t, filepath.Join(root, "index.json"), &index)
	out := make([]string, len(index))
	for i, e := range index {
		out[i] = e.Dir
	}
	return out
}

// world is the identity resolution of a scenario as of a sequence number.
type world struct {
	now  map[string]identity
	left []json.RawMessage
}

func newWorld(t *testing.T, ids identities) *world {
	t.Helper()
	w := &world{now: map[string]identity{}, left: ids.Changes}
	maps.Copy(w.now, ids.Identities)
	return w
}

func (w *world) advance(t *testing.T, seq int64) {
	t.Helper()
	for len(w.left) > 0 {
		var head struct {
			Seq int64  `json:"seq"`
			DID string `json:"did"`
		}
		require.NoError(t, json.Unmarshal(w.left[0], &head))
		if head.Seq > seq {
			return
		}
		id := w.now[head.DID]
		require.NoError(t, json.Unmarshal(w.left[0], &id))
		w.now[head.DID] = id
		w.left = w.left[1:]
	}
}

// resolve answers as identity resolution would: ok is false when the DID or its
// handle cannot be resolved at all.
func (w *world) resolve(did string) (handle *string, ok bool) {
	id, known := w.now[did]
	if !known || id.Gone || id.Handle == nil || id.PDS == nil {
		return nil, false
	}
	if !id.Resolves {
		return nil, true
	}
	h := strings.ToLower(*id.Handle)
	return &h, true
}

// seenActor is what the driver knows of an actor row.
type seenActor struct {
	at     string
	handle *string
}

// lookUpHandles does what the identity worker does, in the order of the events
// and at the time of each, after the rows are in.
func lookUpHandles(t *testing.T, st *store.Store, s *scenario) {
	t.Helper()
	ctx := context.Background()
	w := newWorld(t, s.identities)
	actors := map[string]*seenActor{}
	for _, e := range s.events {
		w.advance(t, e.Seq)
		if e.Type == event.Account {
			if !e.Active && e.Status == "deleted" && w.now[e.DID].Hosted == false {
				delete(actors, e.DID)
				_ = st
			}
			continue
		}
		a := actors[e.DID]
		if a != nil && e.Type != event.Identity && !store.HandleIsOld(a.handle, a.at, e.Time) {
			continue
		}
		handle, ok := w.resolve(e.DID)
		if !ok {
			if a == nil {
				require.NoError(t, st.ForgetActor(ctx, e.DID))
			}
			continue
		}
		if handle != nil {
			for _, other := range actors {
				if other.handle != nil && *other.handle == *handle {
					other.handle = nil
				}
			}
		}
		actors[e.DID] = &seenActor{at: e.Time, handle: handle}
		require.NoError(t, st.SetHandle(ctx, e.DID, handle, e.Time))
	}
}

// hosted answers for the current PDS of an account at the time of an event.
func (s *scenario) hosted(t *testing.T, e *event.Event) bool {
	t.Helper()
	w := newWorld(t, s.identities)
	w.advance(t, e.Seq)
	id, known := w.now[e.DID]
	return known && !id.Gone && id.PDS != nil && id.Hosted != false
}

// setUp stores the rows that exist before the first event.
func setUp(t *testing.T, pool *pgxpool.Pool, schema string, s *scenario) {
	t.Helper()
	for table, rows := range s.setup {
		require.Equal(t, "thread_mute", table)
		for _, row := range rows {
			_, err := pool.Exec(context.Background(), `INSERT INTO `+schema+`.thread_mute ("rootUri", "mutedByDid", "createdAt") VALUES ($1, $2, $3)`,
				row["rootUri"], row["mutedByDid"], row["createdAt"])
			require.NoError(t, err)
		}
	}
}

// applyInOrder applies the history in batches and does what the app does with
// deleted accounts.
func applyInOrder(t *testing.T, st *store.Store, s *scenario, size int) []store.ChangeResult {
	t.Helper()
	ctx := context.Background()
	var results []store.ChangeResult
	for from := 0; from < len(s.events); from += size {
		events := s.events[from:min(from+size, len(s.events))]
		batch := make([]store.Change, len(events))
		for i, e := range events {
			batch[i] = store.Change{Event: e, Live: true}
		}
		out, err := st.Apply(ctx, batch)
		require.NoError(t, err)
		results = append(results, out.Results...)
		deleteAccounts(t, st, s, events)
	}
	return results
}

// deletes says whether an event deletes its account.
func deletes(t *testing.T, s *scenario, e *event.Event) bool {
	t.Helper()
	return e.Type == event.Account && !e.Active && e.Status == "deleted" && !s.hosted(t, e)
}

func deleteAccounts(t *testing.T, st *store.Store, s *scenario, events []*event.Event) {
	t.Helper()
	for _, e := range events {
		if deletes(t, s, e) {
			require.NoError(t, st.DeleteAccount(context.Background(), e.DID, e.Time))
		}
	}
}

// settle runs the background work until nothing is left.
func settle(t *testing.T, st *store.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		n, err := st.Recheck(ctx)
		require.NoError(t, err)
		m, err := st.FoldCounts(ctx)
		require.NoError(t, err)
		if n == 0 && m == 0 {
			p, err := st.Pending(ctx)
			require.NoError(t, err)
			if !p.Deltas && !p.Rechecks {
				return
			}
			// Transactions of other tests may still run beside the rows.
			require.NoError(t, fault.Sleep(ctx, 5*time.Millisecond), "background work does not come to an end")
		}
	}
}

// jsonColumns hold JSON as text: their values are compared, not their text.
var jsonColumns = map[string]bool{"record.json": true, "list.descriptionFacets": true, "feed_generator.descriptionFacets": true}

// rowsOf reads a table in the form of the fixtures.
func rowsOf(t *testing.T, pool *pgxpool.Pool, schema, table string) []map[string]any {
	t.Helper()
	rows, err := pool.Query(context.Background(), fmt.Sprintf("SELECT to_jsonb(t) FROM %s.%s t", pgx.Identifier{schema}.Sanitize(), pgx.Identifier{table}.Sanitize()))
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (map[string]any, error) {
		var m map[string]any
		err := row.Scan(&m)
		return normalRow(table, m), err
	})
	require.NoError(t, err)
	return out
}

func normalRow(table string, m map[string]any) map[string]any {
	delete(m, "rev")
	if table == "notification" {
		delete(m, "id")
	}
	for k, v := range m {
		text, ok := v.(string)
		if ok && jsonColumns[table+"."+k] {
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			var value any
			if d.Decode(&value) == nil {
				m[k] = value
			}
		}
	}
	return m
}

func expectedRows(t *testing.T, s *scenario, table string) []map[string]any {
	t.Helper()
	var lines []json.RawMessage
	if s.meta.Decision == "improve" {
		lines = readLines(t, filepath.Join(s.dir, "expected_improved", table+".jsonl"))
	}
	if lines == nil {
		lines = readLines(t, filepath.Join(s.dir, "expected", table+".jsonl"))
	}
	out := make([]map[string]any, len(lines))
	for i, line := range lines {
		require.NoError(t, json.Unmarshal(line, &out[i]))
		out[i] = normalRow(table, out[i])
	}
	return out
}

func (s *scenario) tables(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "expected", "*"))
	require.NoError(t, err)
	var out []string
	for _, n := range names {
		out = append(out, strings.TrimSuffix(strings.TrimSuffix(filepath.Base(n), ".gz"), ".jsonl"))
	}
	return out
}

// ignore applies the ignore list of a scenario to rows.
func (s *scenario) ignore(table string, rows []map[string]any) []map[string]any {
	var out []map[string]any
	for _, row := range rows {
		drop := false
		for _, ig := range s.meta.Ignore {
			if ig.Table != table || !matches(row, ig.Key) {
				continue
			}
			drop = drop || len(ig.Columns) == 0
			for _, c := range ig.Columns {
				delete(row, c)
			}
		}
		if !drop {
			out = append(out, row)
		}
	}
	return out
}

func matches(row, key map[string]any) bool {
	for k, v := range key {
		if row[k] != v {
			return false
		}
	}
	return true
}

// diff compares two multisets of rows.
func diff(want, have []map[string]any) (missing, extra []string) {
	count := map[string]int{}
	for _, r := range want {
		count[canonical(r)]++
	}
	for _, r := range have {
		count[canonical(r)]--
	}
	for k, n := range count {
		for ; n > 0; n-- {
			missing = append(missing, k)
		}
		for ; n < 0; n++ {
			extra = append(extra, k)
		}
	}
	sort.Strings(missing)
	sort.Strings(extra)
	return missing, extra
}

func canonical(r map[string]any) string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(text)
}
