package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/lane"
	"sluice/services/indexer/internal/store"
)

// manyLanes of one stream; INDEXER_CONCURRENCY is 16 for all streams by default.
const manyLanes = 16

// TestTurns applies a mix on many lanes, all at once and in turns, on copies of
// one database.
//
//nolint:paralleltest // it measures
func TestTurns(t *testing.T) {
	s, history := startUsual(t)
	for _, m := range []struct {
		name    string
		changes []store.Change
	}{
		{"index_turns_live_mix", newMix(1, 5000, history).live(*n)},
		{"index_turns_backfill_mix", newMix(1, 2000, history).backfill(*n, 200)},
	} {
		rate := func(turns *lane.Turns) float64 {
			w := s.database(t, "usual")
			defer s.close(w)
			return float64(len(m.changes)) / w.applyInLanes(t, m.changes, turns).Seconds()
		}
		all := rate(nil)
		turns := lane.NewTurns(manyLanes, *size/4)
		own := rate(turns)
		t.Logf("%s: %d lanes in turns %.0f records/s (%d at once in the end), all at once %.0f, %.2f ×", m.name, manyLanes, own, turns.Limit(), all, own/all)
		if *out != "" {
			require.NoError(t, merge(*out, row{m.name, own, "records/s", all, own / all}))
		}
	}
}

// applyInLanes applies changes as the indexer does when it is behind, and the
// work that follows.
func (w *workbench) applyInLanes(t *testing.T, changes []store.Change, turns *lane.Turns) time.Duration {
	t.Helper()
	start := time.Now()
	l := lane.New(lane.Config{Lanes: manyLanes, Batch: *size, Queue: *size, Turns: turns}, func(ctx context.Context, batch []store.Change) error {
		return applyLane(ctx, w.store, batch)
	})
	g, ctx := errgroup.WithContext(t.Context())
	background, stop := context.WithCancel(ctx)
	g.Go(func() error { return w.background(background) })
	g.Go(func() error {
		defer stop()
		return l.Run(ctx)
	})
	for _, c := range changes {
		require.NoError(t, l.Submit(ctx, c.Event.DID, c))
	}
	require.NoError(t, l.Drain(ctx))
	require.NoError(t, g.Wait())
	w.finish(t)
	return time.Since(start)
}
