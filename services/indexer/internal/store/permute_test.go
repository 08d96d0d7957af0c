package store_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/store"
)

// delivery is one event as one of the appliers gets it.
type delivery struct {
	e    *event.Event
	s    *scenario
	live bool
}

// shuffled delivers every event once on the live stream, up to two times more
// on either stream, in any order.
func shuffled(r *rand.Rand, all []*scenario) []delivery {
	var out []delivery
	for _, s := range all {
		for _, e := range s.events {
			out = append(out, delivery{e, s, true})
			for range r.IntN(3) {
				again := delivery{e, s, true}
				if e.Type == event.Create && r.IntN(2) == 0 {
					fetched := *e
					fetched.Seq = event.SeqBackfill
					again.e, again.live = &fetched, false
				}
				out = append(out, again)
			}
		}
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// applyShuffled splits the deliveries over one to four appliers at once, while
// two workers do what follows from what is there already.
func applyShuffled(t *testing.T, st *store.Store, r *rand.Rand, list []delivery) {
	t.Helper()
	n := 1 + r.IntN(4)
	var wg sync.WaitGroup
	var background errgroup.Group
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for range 2 {
		background.Go(func() error { return keepSettling(ctx, st) })
	}
	for k := range n {
		var mine []delivery
		for i := k; i < len(list); i += n {
			mine = append(mine, list[i])
		}
		size := []int{1, 7, 50, 500}[r.IntN(4)]
		if len(mine) > 2000 {
			size = max(size, 50)
		}
		wg.Go(func() {
			for len(mine) > 0 {
				part := mine[:min(size, len(mine))]
				mine = mine[len(part):]
				batch := make([]store.Change, len(part))
				for i, d := range part {
					batch[i] = store.Change{Event: d.e, Live: d.live}
				}
				if _, err := st.Apply(context.Background(), batch); err != nil {
					t.Error(err)
					return
				}
				for _, d := range part {
					deleteAccounts(t, st, d.s, []*event.Event{d.e})
				}
			}
		})
	}
	wg.Wait()
	stop()
	require.NoError(t, background.Wait())
}

// keepSettling judges again and folds, as an indexer does beside applying.
func keepSettling(ctx context.Context, st *store.Store) error {
	for ctx.Err() == nil {
		if _, err := st.Recheck(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if _, err := st.FoldCounts(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		_ = fault.Sleep(ctx, time.Millisecond) // ends with ctx
	}
	return nil
}

// TestAnyOrder: shuffled, repeated, split between appliers and between live and
// fetched, a history ends in the rows of stream order, except for what is judged
// by what is gone.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	seeds, long := uint64(10), 1000
	if soak() {
		seeds, long = 200, 5000
	}
	all := loadAll(t, func(s *scenario) bool { return len(s.events) < long && !openQuirks[s.name] })
	counts := logCounts(t)
	st, pool, schema := newStore(t)
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 1))
		some := pickScenarios(r, all, seed)
		clearTables(t, pool, schema)
		for _, s := range some {
			setUp(t, pool, schema, s)
		}
		applyShuffled(t, st, r, shuffled(r, some))
		for _, s := range some {
			lookUpHandles(t, st, s)
		}
		settle(t, st)
		g := goneOf(t, some, counts)
		for _, table := range some[0].tables(t) {
			var want []map[string]any
			have := rowsOf(t, pool, schema, table)
			for _, s := range some {
				want = append(want, s.ignore(table, expectedRows(t, s, table))...)
				have = s.ignore(table, have)
			}
			g.compare(t, seed, table, want, have)
		}
	}
}

// openQuirks are histories without one right outcome, or whose right outcome is
// given in words; TestQuirks looks at them.
var openQuirks = map[string]bool{
	"account-deletion-leftovers": true, "update-into-conflict": true, "post-recreated-under-replies": true,
}

// pickScenarios takes one long history and some of the short ones.
func pickScenarios(r *rand.Rand, all []*scenario, seed uint64) []*scenario {
	var long, some []*scenario
	for _, s := range all {
		switch {
		case s.kind == "random":
			long = append(long, s)
		case r.IntN(4) == 0:
			some = append(some, s)
		}
	}
	return append(some, long[seed%uint64(len(long))])
}
