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
	processors atomic.Int64
	worse      float64 // how much longer, for each batch too many on a processor
	cost       atomic.Int64
	busy       atomic.Int64
	values     atomic.Int64
	stop       context.CancelFunc
	wg         sync.WaitGroup
}

func newDatabase(processors int64, worse float64) *database {
	d := &database{worse: worse}
	d.processors.Store(processors)
	d.cost.Store(200)
	return d
}

// apply takes as long as n values take.
func (d *database) apply(n int) (took time.Duration) {
	busy, processors := float64(d.busy.Add(1)), float64(d.processors.Load())
	defer d.busy.Add(-1)
	micros := float64(d.cost.Load()) * max(busy/processors, 1) * (1 + d.worse*max(busy-processors, 0)/processors)
	took = time.Duration(micros*float64(n)) * time.Microsecond
	time.Sleep(took)
	d.values.Add(int64(n))
	return took
}

// load keeps so many lanes full, in turns.
func (d *database) load(t *testing.T, turns *lane.Turns, lanes int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stopAll := d.stop
	d.stop = func() {
		stop()
		if stopAll != nil {
			stopAll()
		}
	}
	for range lanes {
		d.wg.Go(func() {
			for {
				done, err := turns.Take(ctx)
				if err != nil {
					return
				}
				done(500, d.apply(500))
			}
		})
	}
}

func (d *database) end() {
	d.stop()
	d.wg.Wait()
}

// settle lets time go by and returns the mean of what limit says after it.
func settle(limit func() int) (mean float64) {
	time.Sleep(2 * time.Minute)
	const looks = 120
	for range looks {
		time.Sleep(time.Second)
		mean += float64(limit()) / looks
	}
	return mean
}

// TestTurnsFindWhatTheDatabaseTakes keeps many lanes full, on databases of
// different sizes: the bound is near the number of processors, and the rate near
// what they can do.
func TestTurnsFindWhatTheDatabaseTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		processors int64
		worse      float64
		lanes      int
		low, high  float64
	}{
		{processors: 1, worse: 0.1, lanes: 8, low: 1, high: 2},
		{processors: 2, worse: 0.15, lanes: 8, low: 2, high: 3},
		{processors: 4, worse: 0.1, lanes: 8, low: 4, high: 6},
		{processors: 4, worse: 0, lanes: 16, low: 4, high: 7},
		{processors: 16, worse: 0.1, lanes: 8, low: 8, high: 8},
		{processors: 2, worse: 0.1, lanes: 1, low: 1, high: 1},
	} {
		t.Run(fmt.Sprintf("%d processors, %d lanes", c.processors, c.lanes), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDatabase(c.processors, c.worse)
				turns := lane.NewTurns(c.lanes, 100)
				d.load(t, turns, c.lanes)
				defer d.end()
				time.Sleep(time.Minute)
				before, start := d.values.Load(), time.Now()
				mean := settle(turns.Limit)
				rate := float64(d.values.Load()-before) / time.Since(start).Seconds()
				require.GreaterOrEqual(t, mean, c.low-0.3)
				require.LessOrEqual(t, mean, c.high+0.3)
				best := 5000 * float64(min(c.processors, int64(c.lanes)))
				require.Greater(t, rate, 0.75*best, "of %.0f values a second", best)
			})
		})
	}
}

// TestTurnsFollowAChange: a database that gets busy with something else, or so
// slow that each batch takes longer than a turn counts, is given fewer batches,
// and more again afterwards.
func TestTurnsFollowAChange(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin, end func(*database)
		fewer      float64
	}{
		"fewer processors":   {func(d *database) { d.processors.Store(2) }, func(d *database) { d.processors.Store(8) }, 4.5},
		"20 seconds a batch": {func(d *database) { d.cost.Store(40_000) }, func(d *database) { d.cost.Store(200) }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDatabase(8, 0)
				turns := lane.NewTurns(8, 100)
				d.load(t, turns, 8)
				defer d.end()
				require.GreaterOrEqual(t, settle(turns.Limit), 7.0)
				c.begin(d)
				require.Less(t, settle(turns.Limit), c.fewer)
				c.end(d)
				require.GreaterOrEqual(t, settle(turns.Limit), 7.0)
			})
		})
	}
}

// TestTurnsOfSeveralProcesses: each has turns of its own on one database. They
// take more in all than one would, and far fewer than all their lanes.
func TestTurnsOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDatabase(4, 0.1)
		all := make([]*lane.Turns, 4)
		for i := range all {
			all[i] = lane.NewTurns(16, 100)
			d.load(t, all[i], 16)
		}
		defer d.end()
		mean := settle(func() (sum int) {
			for _, turns := range all {
				sum += turns.Limit()
			}
			return sum
		})
		t.Logf("%.1f turns in all, of 64 lanes, on 4 processors", mean)
		require.Greater(t, mean, 3.5)
		require.Less(t, mean, 24.0)
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
					done(1, time.Second)
				}
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		require.ErrorIs(t, gaveUp, context.Canceled)
		require.Empty(t, order)
		first(1, time.Second)
		wg.Wait()
		require.Equal(t, []int{0, 1, 2}, order)
		require.Equal(t, 1, turns.Limit(), "batches of one value")
	})
}

// TestTurnsAreNotLost: who gives up in the moment in which its turn comes
// passes it on.
func TestTurnsAreNotLost(t *testing.T) {
	t.Parallel()
	turns := lane.NewTurns(1, 1)
	for range 2000 {
		done, err := turns.Take(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if done, err := turns.Take(ctx); err == nil {
					done(0, 0)
				}
			})
		}
		wg.Go(cancel)
		wg.Go(func() { done(0, 0) })
		wg.Wait()
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done, err := turns.Take(ctx)
	require.NoError(t, err, "the turn is free")
	done(0, 0)
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
		stuck(500, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = turns.Take(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, turns.Limit(), "nothing is learned of a batch in trouble")
		other(500, time.Second)
		last, err := turns.Take(t.Context())
		require.NoError(t, err)
		last(500, time.Second)
	})
}

// TestLanesTakeTurns: with turns no more lanes apply at once than they allow,
// and a batch grows while its lane waits, for more values or for its turn.
func TestLanesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var busy, most, yields atomic.Int64
		var sizes sync.Map
		l := lane.New(lane.Config{
			Lanes: 4, Batch: 10, Wait: 20 * time.Second, Turns: lane.NewTurns(4, 1000), Yield: func(context.Context) { yields.Add(1) },
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
