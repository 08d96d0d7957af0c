// Package bench measures the indexer's store against COPY of the same final
// rows into the same tables, and against one statement at a time.
//
//	go test ./indexer/internal/store/bench -run TestRate -count 1 -v -args -measure -out bench.json
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/fault"
	"sluice/services/indexer/internal/store"
)

var (
	measure   = flag.Bool("measure", false, "measure; a few records are only a check that it works")
	out       = flag.String("out", "", "bench.json to merge the rows into")
	n         = flag.Int("records", 60000, "records of a mix")
	lanes     = flag.Int("lanes", runtime.NumCPU(), "appliers at once, and connections of COPY")
	rounds    = flag.Int("rounds", 3, "turns; the median ratio counts")
	size      = flag.Int("batch", 500, "changes of a batch")
	seconds   = flag.Int("seconds", 20, "how long the way by statement runs")
	memory    = flag.Int("memory", 200000, "records of TestMemory")
	likes     = flag.Int("likes", 1_000_000, "likes of the popular post of TestPopular")
	serverURL = flag.String("server", "", "a PostgreSQL that runs already, instead of one with the settings of production")
)

// result of one turn.
type result struct{ own, ceiling, byStatement float64 }

// TestRate compares the rates.
//
//nolint:paralleltest // it measures
func TestRate(t *testing.T) {
	s, history := startUsual(t)
	limit := time.Duration(*seconds) * time.Second
	if !*measure {
		limit = time.Second
	}
	for _, m := range []struct {
		name string
		make func(seed uint64) []store.Change
	}{
		{"index_live_mix", func(seed uint64) []store.Change { return newMix(seed, 5000, history).live(*n) }},
		{"index_backfill_mix", func(seed uint64) []store.Change { return newMix(seed, 2000, history).backfill(*n, 200) }},
	} {
		var own, ceilings, bases, toCeiling, toBase []float64
		for round := range *rounds {
			r := s.turn(t, m.name, m.make(uint64(round)), limit)
			own, ceilings, bases = append(own, r.own), append(ceilings, r.ceiling), append(bases, r.byStatement)
			toCeiling, toBase = append(toCeiling, r.own/r.ceiling), append(toBase, r.own/r.byStatement)
		}
		if *out != "" {
			require.NoError(t, merge(*out, row{m.name, median(own), "records/s", median(ceilings), median(toCeiling)}))
			require.NoError(t, merge(*out, row{m.name + "_by_statement", median(own), "records/s", median(bases), median(toBase)}))
		}
	}
}

// startUsual starts a server whose template is the usual history; a short one
// for a check that it works.
func startUsual(t *testing.T) (*server, base) {
	t.Helper()
	history := usual
	if !*measure {
		*n, *rounds = 2000, 1
		history = base{accounts: 200, posts: 400, hotPosts: 3, hotAccounts: 2}
	}
	s := startServer(t)
	s.template(t, "usual", history.fill()...)
	return s, history
}

// turn measures one history three ways, each on its own copy of the database.
func (s *server) turn(t *testing.T, name string, changes []store.Change, limit time.Duration) result {
	t.Helper()
	w := s.database(t, "usual")
	var xid int64
	require.NoError(t, w.pool.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text::bigint").Scan(&xid))
	before := s.cpu()
	took := w.apply(t, changes)
	ownAll, ownServer := s.cpu().since(before).perRecord(len(changes))

	dumps := w.written(t, xid)
	c := s.database(t, "usual")
	c.makeRoom(t, dumps)
	before = s.cpu()
	copied := c.copyIn(t, dumps)
	copyAll, _ := s.cpu().since(before).perRecord(len(changes))
	c.sameRows(t, w, dumps)
	s.close(c)
	require.Zero(t, w.counter(t, "sluice_store_retries_total"), "transactions were repeated")
	s.close(w)

	b := s.database(t, "usual")
	before = s.cpu()
	events, long := b.oneByOne(t, changes, limit)
	baseAll, _ := s.cpu().since(before).perRecord(events)
	s.close(b)

	r := result{float64(len(changes)) / took.Seconds(), float64(len(changes)) / copied.Seconds(), float64(events) / long.Seconds()}
	t.Logf("%s: %.0f records/s, COPY %.0f (ratio %.2f), one statement at a time %.0f (%.1f ×)", name, r.own, r.ceiling, r.own/r.ceiling, r.byStatement, r.own/r.byStatement)
	t.Logf("%s: µs of CPU a record: %.0f (%.0f of PostgreSQL), COPY %.0f (ratio %.2f), one statement at a time %.0f (%.1f ×)",
		name, ownAll, ownServer, copyAll, copyAll/ownAll, baseAll, baseAll/ownAll)
	return r
}

func (w *workbench) counter(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := w.reg.Gather()
	require.NoError(t, err)
	found := false
	for _, f := range families {
		if f.GetName() == name {
			found = true
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	require.True(t, found, name)
	return sum
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// apply applies changes in lanes, and the work that follows, and returns how
// long it took.
func (w *workbench) apply(t *testing.T, changes []store.Change) time.Duration {
	t.Helper()
	start := time.Now()
	w.applyWith(t, []*store.Store{w.store}, changes, *lanes)
	return time.Since(start)
}

// applyWith shares the accounts between some indexers with some lanes each.
func (w *workbench) applyWith(t *testing.T, stores []*store.Store, changes []store.Change, lanes int) {
	t.Helper()
	split := make([][]store.Change, lanes*len(stores))
	for _, c := range changes {
		h := fnv.New32a()
		_, _ = h.Write([]byte(c.Event.DID))
		k := int(h.Sum32()) % len(split)
		split[k] = append(split[k], c)
	}
	g, ctx := errgroup.WithContext(t.Context())
	for k, mine := range split {
		g.Go(func() error { return applyLane(ctx, stores[k%len(stores)], mine) })
	}
	background, stop := context.WithCancel(ctx)
	var bg errgroup.Group
	bg.Go(func() error { return w.background(background) })
	require.NoError(t, g.Wait())
	stop()
	require.NoError(t, bg.Wait())
	w.finish(t)
}

// finish does what is left of the work that follows the changes.
func (w *workbench) finish(t *testing.T) {
	t.Helper()
	for {
		a, err := w.store.Recheck(t.Context())
		require.NoError(t, err)
		b, err := w.store.FoldCounts(t.Context())
		require.NoError(t, err)
		if a+b == 0 {
			break
		}
	}
}

func (w *workbench) applyLane(ctx context.Context, mine []store.Change) error {
	return applyLane(ctx, w.store, mine)
}

func applyLane(ctx context.Context, st *store.Store, mine []store.Change) error {
	for batch := range slices.Chunk(mine, *size) {
		out, err := st.Apply(ctx, batch)
		if err != nil {
			return err
		}
		for _, r := range out.Results {
			if r.Result == store.Rejected {
				return r.Err
			}
		}
	}
	return nil
}

// background does what the indexer does beside applying.
func (w *workbench) background(ctx context.Context) error {
	for ctx.Err() == nil {
		if _, err := w.store.Recheck(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if _, err := w.store.FoldCounts(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		_ = fault.Sleep(ctx, 300*time.Millisecond)
	}
	return nil
}

// row is one line of bench.json.
type row struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Ceiling float64 `json:"ceiling"`
	Ratio   float64 `json:"ratio"`
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// merge replaces the row of that name in the file and leaves the others alone.
func merge(path string, r row) error {
	var rows []row
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &rows)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rows = append(slices.DeleteFunc(rows, func(x row) bool { return x.Name == r.Name }), r)
	lines := make([]string, len(rows))
	for i, x := range rows {
		line, err := json.Marshal(x)
		if err != nil {
			return fmt.Errorf("row %s: %w", x.Name, err)
		}
		lines[i] = "  " + string(bytes.TrimSpace(line))
	}
	return os.WriteFile(path, []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o644)
}
