package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
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

// applyShuffled splits the deliveries over one to four appliers at once.
func applyShuffled(t *testing.T, st *store.Store, r *rand.Rand, list []delivery) {
	t.Helper()
	n := 1 + r.IntN(4)
	var wg sync.WaitGroup
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
}

type dump map[string][]map[string]any

func TestPermutationsRaw(t *testing.T) {
	t.Parallel()
	all := loadAll(t, func(s *scenario) bool { return s.kind != "quirk" && len(s.events) < 1000 })
	ref := dump{}
	{
		st, pool, schema := newStore(t)
		for _, s := range all {
			setUp(t, pool, schema, s)
			applyInOrder(t, st, s, 500)
			lookUpHandles(t, st, s)
		}
		settle(t, st)
		for _, table := range all[0].tables(t) {
			ref[table] = rowsOf(t, pool, schema, table)
		}
	}
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 1))
		st, pool, schema := newStore(t)
		for _, s := range all {
			setUp(t, pool, schema, s)
		}
		applyShuffled(t, st, r, shuffled(r, all))
		for _, s := range all {
			lookUpHandles(t, st, s)
		}
		settle(t, st)
		tables := all[0].tables(t)
		sort.Strings(tables)
		for _, table := range tables {
			missing, extra := diff(ref[table], rowsOf(t, pool, schema, table))
			if len(missing)+len(extra) > 0 {
				t.Errorf("seed %d: %s: %d rows missing, %d too many\n- %s\n+ %s", seed, table, len(missing), len(extra),
					strings.Join(missing, "\n- "), strings.Join(extra, "\n+ "))
			}
		}
	}
	require.NotEmpty(t, ref)
	_ = fmt.Sprint
}
