package lane_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/lane"
)

// database is a model of what applies batches: with more batches at once than
// processors each takes longer, and the more wait for each other the worse.
type database struct {
	processors float64
	worse      float64
	busy       atomic.Int64
	values     atomic.Int64
}

func (d *database) apply(n int) {
	busy := float64(d.busy.Add(1))
	defer d.busy.Add(-1)
	cost := 200.0 * max(busy/d.processors, 1) // microseconds a value
	cost *= 1 + d.worse*max(busy-d.processors, 0)/d.processors
	time.Sleep(time.Duration(cost*float64(n)) * time.Microsecond)
	d.values.Add(int64(n))
}

// TestTurnsFindWhatTheDatabaseTakes keeps many lanes full, on databases of
// different sizes.
func TestTurnsFindWhatTheDatabaseTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		processors, worse float64
		lanes, low, high  int
	}{
		{processors: 1, worse: 0.1, lanes: 8, low: 1, high: 2},
		{processors: 2, worse: 0.15, lanes: 8, low: 2, high: 3},
		{processors: 4, worse: 0.1, lanes: 8, low: 4, high: 6},
		{processors: 4, worse: 0, lanes: 16, low: 4, high: 7},
		{processors: 16, worse: 0.1, lanes: 8, low: 8, high: 8},
		{processors: 2, worse: 0.1, lanes: 1, low: 1, high: 1},
	} {
		t.Run(fmt.Sprintf("%g processors, %d lanes", c.processors, c.lanes), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := &database{processors: c.processors, worse: c.worse}
				turns := lane.NewTurns(c.lanes, 100)
				ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
				defer stop()
				var sum, looks int
				var wg sync.WaitGroup
				for range c.lanes {
					wg.Go(func() {
						for {
							done, err := turns.Take(ctx)
							if err != nil {
								return
							}
							d.apply(500)
							done(500)
						}
					})
				}
				time.Sleep(time.Minute)
				for range 200 {
					time.Sleep(time.Second)
					sum, looks = sum+turns.Limit(), looks+1
				}
				mean := float64(sum) / float64(looks)
				require.GreaterOrEqual(t, mean, float64(c.low)-0.3)
				require.LessOrEqual(t, mean, float64(c.high)+0.3)
				wg.Wait()
			})
		})
	}
}

// TestTurnsFollowAChange: a database that gets busy with something else is
// given fewer batches, and more again afterwards.
func TestTurnsFollowAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := lane.NewTurns(8, 100)
		ctx, stop := context.WithCancel(t.Context())
		var processors atomic.Int64
		var busy atomic.Int64
		processors.Store(6)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					done, err := turns.Take(ctx)
					if err != nil {
						return
					}
					queue := max(float64(busy.Add(1))/float64(processors.Load()), 1)
					time.Sleep(time.Duration(100*queue) * time.Millisecond)
					busy.Add(-1)
					done(500)
				}
			})
		}
		settle := func() (mean float64) {
			time.Sleep(2 * time.Minute)
			for range 60 {
				time.Sleep(time.Second)
				mean += float64(turns.Limit()) / 60
			}
			return mean
		}
		require.GreaterOrEqual(t, settle(), 5.5)
		processors.Store(2)
		require.Less(t, settle(), 4.5)
		processors.Store(6)
		require.GreaterOrEqual(t, settle(), 5.5)
		stop()
		wg.Wait()
	})
}

// TestTurnsBound: never more at once than the bound, first come first served,
// small batches teach nothing, and who gives up leaves its place.
func TestTurnsBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := lane.NewTurns(4, 100)
		first, err := turns.Take(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var gaveUp error
		var order []int
		var wg sync.WaitGroup
		wg.Go(func() { _, gaveUp = turns.Take(ctx) })
		synctest.Wait()
		for i := range 3 {
			wg.Go(func() {
				done, err := turns.Take(t.Context())
				if err == nil {
					order = append(order, i)
					time.Sleep(time.Second)
					done(1)
				}
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		require.ErrorIs(t, gaveUp, context.Canceled)
		require.Empty(t, order)
		first(1)
		wg.Wait()
		require.Equal(t, []int{0, 1, 2}, order)
		require.Equal(t, 1, turns.Limit(), "batches of one value")
	})
}

// TestTurnsDoNotHangOnOne: a batch in trouble does not hold up the others, and
// its end gives no turn away twice.
func TestTurnsDoNotHangOnOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := lane.NewTurns(8, 1)
		stuck, err := turns.Take(t.Context())
		require.NoError(t, err)
		start := time.Now()
		other, err := turns.Take(t.Context())
		require.NoError(t, err)
		require.Equal(t, 5*time.Second, time.Since(start))
		stuck(500)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = turns.Take(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, turns.Limit(), "nothing is learned of a batch in trouble")
		other(500)
		last, err := turns.Take(t.Context())
		require.NoError(t, err)
		last(500)
	})
}

// TestLanesTakeTurns: with turns no more lanes apply at once than they allow,
// and a batch grows while its lane waits.
func TestLanesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var busy, most, yields atomic.Int64
		var sizes sync.Map
		l := lane.New(lane.Config{
			Lanes: 4, Batch: 10, Turns: lane.NewTurns(4, 1000), Yield: func(context.Context) { yields.Add(1) },
		}, func(_ context.Context, batch []int) error {
			most.Store(max(most.Load(), busy.Add(1)))
			defer busy.Add(-1)
			sizes.Store(len(batch), true)
			time.Sleep(time.Second)
			return nil
		})
		ran := make(chan error, 1)
		go func() { ran <- l.Run(t.Context()) }()
		for i := range 200 {
			require.NoError(t, l.Submit(t.Context(), fmt.Sprint(i), i))
		}
		require.NoError(t, l.Drain(t.Context()))
		require.NoError(t, <-ran)
		require.EqualValues(t, 1, most.Load())
		require.Positive(t, yields.Load())
		_, full := sizes.Load(10)
		require.True(t, full, "batches that were full")
	})
}
