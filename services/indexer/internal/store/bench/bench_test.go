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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/fault"
	"sluice/pkg/lexicon"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

var (
	measure = flag.Bool("measure", false, "measure; a few records are only a check that it works")
	out     = flag.String("out", "", "bench.json to merge the rows into")
	n       = flag.Int("records", 60000, "records of a mix")
	lanes   = flag.Int("lanes", 4, "appliers at once, and connections of COPY")
	rounds  = flag.Int("rounds", 3, "turns; the median ratio counts")
	size    = flag.Int("batch", 500, "changes of a batch")
)

// TestRate compares the rates.
//
//nolint:paralleltest // it measures
func TestRate(t *testing.T) {
	if !*measure {
		*n, *rounds = 2000, 1
	}
	for _, m := range []struct {
		name string
		make func(seed uint64) []store.Change
	}{
		{"index_live_mix", func(seed uint64) []store.Change { return newMix(seed, 5000).live(*n) }},
		{"index_backfill_mix", func(seed uint64) []store.Change { return newMix(seed, 2000).backfill(*n, 200) }},
	} {
		var ratios, own, top, bases []float64
		for round := range *rounds {
			w := newWorkbench(t)
			changes := m.make(uint64(round))
			o := w.apply(t, changes)
			c := w.copyBack(t, len(changes))
			b := w.oneByOne(t, changes[:min(len(changes), 1500)])
			t.Logf("%s: %.0f records/s, COPY %.0f (ratio %.2f), one statement at a time %.0f (%.1f ×)", m.name, o, c, o/c, b, o/b)
			ratios, own, top, bases = append(ratios, o/c), append(own, o), append(top, c), append(bases, b)
		}
		if *out != "" {
			require.NoError(t, merge(*out, row{m.name, median(own), "records/s", median(top), median(ratios)}))
			require.NoError(t, merge(*out, row{m.name + "_by_statement", median(own), "records/s", median(bases), median(own) / median(bases)}))
		}
	}
}

func (w *workbench) apply(t *testing.T, changes []store.Change) float64 {
	t.Helper()
	split := make([][]store.Change, *lanes)
	for _, c := range changes {
		h := fnv.New32a()
		_, _ = h.Write([]byte(c.Event.DID))
		k := int(h.Sum32()) % *lanes
		split[k] = append(split[k], c)
	}
	start := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	for _, mine := range split {
		g.Go(func() error {
			for batch := range slices.Chunk(mine, *size) {
				out, err := w.store.Apply(ctx, batch)
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
		})
	}
	background, stop := context.WithCancel(ctx)
	var bg errgroup.Group
	bg.Go(func() error { return w.background(background) })
	require.NoError(t, g.Wait())
	stop()
	require.NoError(t, bg.Wait())
	for {
		a, err := w.store.Recheck(t.Context())
		require.NoError(t, err)
		b, err := w.store.FoldCounts(t.Context())
		require.NoError(t, err)
		if a+b == 0 {
			break
		}
	}
	return float64(len(changes)) / time.Since(start).Seconds()
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

func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	url, schema := testkit.Postgres(t)
	pool := openPool(t, url)
	require.NoError(t, store.Migrate(t.Context(), pool, schema))
	lex, err := lexicon.New(lexicon.Options{})
	require.NoError(t, err)
	st, err := store.New(pool, store.Config{Schema: schema, Validate: lex.Validate})
	require.NoError(t, err)
	return &workbench{pool: pool, schema: schema, store: st}
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
