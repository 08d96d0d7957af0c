package lane_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/lane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type item struct {
	key string
	n   int
}

// TestEachKeyKeepsItsOrder submits from several goroutines, with random sizes
// of lanes, queues and batches, and checks order, bounds and completeness.
func TestEachKeyKeepsItsOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := lane.Config{Lanes: 1 + r.IntN(5), Batch: 1 + r.IntN(20), Queue: 1 + r.IntN(10)}
		if r.IntN(2) == 0 {
			cfg.Wait = time.Millisecond
		}
		var mu sync.Mutex
		last, total := map[string]int{}, 0
		var busy atomic.Int64
		l := lane.New(cfg, func(_ context.Context, batch []item) error {
			if n := busy.Add(1); int(n) > cfg.Lanes {
				return fmt.Errorf("%d applies at once with %d lanes", n, cfg.Lanes)
			}
			defer busy.Add(-1)
			if len(batch) == 0 || len(batch) > cfg.Batch {
				return fmt.Errorf("batch of %d with a bound of %d", len(batch), cfg.Batch)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, v := range batch {
				if v.n != last[v.key]+1 {
					return fmt.Errorf("key %s: %d after %d", v.key, v.n, last[v.key])
				}
				last[v.key], total = v.n, total+1
			}
			return nil
		})
		ran := make(chan error, 1)
		go func() { ran <- l.Run(t.Context()) }()
		var producers sync.WaitGroup
		for p := range 4 {
			producers.Go(func() {
				for n := range 100 {
					for k := range 3 {
						if err := l.Submit(t.Context(), fmt.Sprintf("%d-%d", p, k), item{fmt.Sprintf("%d-%d", p, k), n + 1}); err != nil {
							t.Errorf("seed %d: %v", seed, err)
							return
						}
					}
				}
			})
		}
		producers.Wait()
		require.NoError(t, l.Drain(t.Context()), "seed %d", seed)
		require.NoError(t, <-ran, "seed %d", seed)
		require.Equal(t, 1200, total, "seed %d", seed)
		require.ErrorIs(t, l.Submit(t.Context(), "k", item{}), lane.ErrClosed)
	}
}

func TestFullLaneBlocksAndCtxEndsTheWait(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := lane.New(lane.Config{Lanes: 1, Batch: 1, Queue: 2}, func(context.Context, []int) error { <-release; return nil })
	ran := make(chan error, 1)
	go func() { ran <- l.Run(t.Context()) }()
	taken := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := l.Submit(ctx, "k", taken)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		taken++
		require.LessOrEqual(t, taken, 3, "one applied and two queued")
	}
	blocked := make(chan error, 1)
	go func() { blocked <- l.Submit(t.Context(), "k", 9) }()
	drained := make(chan error, 1)
	go func() { drained <- l.Drain(t.Context()) }()
	require.ErrorIs(t, <-blocked, lane.ErrClosed, "a drain ends the Submits that wait")
	close(release)
	require.NoError(t, <-drained)
	require.NoError(t, <-ran)
}

func TestErrorOfApplyEndsRunAndSubmit(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	l := lane.New(lane.Config{Lanes: 3, Queue: 1}, func(context.Context, []int) error { return boom })
	ran := make(chan error, 1)
	go func() { ran <- l.Run(t.Context()) }()
	var err error
	for i := 0; err == nil; i++ {
		err = l.Submit(t.Context(), fmt.Sprint(i), i)
	}
	require.ErrorIs(t, err, lane.ErrClosed)
	require.ErrorIs(t, <-ran, boom)
	require.NoError(t, l.Drain(t.Context()), "nothing is left to wait for")
}

func TestBatchWaitsForMoreOnlyAsLongAsSaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sizes := make(chan int, 10)
		l := lane.New(lane.Config{Batch: 3, Wait: time.Second}, func(_ context.Context, b []int) error { sizes <- len(b); return nil })
		ran := make(chan error, 1)
		go func() { ran <- l.Run(t.Context()) }()
		start := time.Now()
		for i := range 4 {
			require.NoError(t, l.Submit(t.Context(), "k", i))
		}
		require.Equal(t, 3, <-sizes)
		require.Zero(t, time.Since(start), "a full batch does not wait")
		require.Equal(t, 1, <-sizes)
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, l.Drain(t.Context()))
		require.NoError(t, <-ran)
	})
}

func TestEndOfTheWorkContextEndsRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	l := lane.New(lane.Config{Lanes: 2}, func(ctx context.Context, _ []int) error { <-ctx.Done(); return ctx.Err() })
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	require.NoError(t, l.Submit(t.Context(), "k", 1))
	cancel()
	require.ErrorIs(t, <-ran, context.Canceled)
}

func TestMetricsOfTwoLanesLiveSideBySide(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"live", "backfill"} {
		lane.New(lane.Config{Name: name, Registerer: reg}, func(context.Context, []int) error { return nil })
	}
	got, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Len(t, got[0].GetMetric(), 2)
}

// TestLowIsBelowEveryOpenSequence opens and finishes in random order and
// compares with the definition after every step.
func TestLowIsBelowEveryOpenSequence(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		f, open, highest := lane.NewFrontier(10), map[int64]int{}, int64(10)
		for step := range 300 {
			if r.IntN(2) == 0 {
				s := int64(11 + step/2 + r.IntN(5))
				f.Open(s)
				open[s]++
				highest = max(highest, s)
			} else {
				s := int64(11 + r.IntN(step+5))
				f.Done(s)
				if open[s]--; open[s] <= 0 {
					delete(open, s)
				}
			}
			want := highest
			for s := range open {
				want = min(want, s-1)
			}
			if low := f.Low(); low != want {
				t.Fatalf("seed %d step %d: low %d, want %d", seed, step, low, want)
			}
			if f.Pending() != len(open) {
				t.Fatalf("seed %d step %d: %d pending, want %d", seed, step, f.Pending(), len(open))
			}
		}
	}
}

func BenchmarkSubmit(b *testing.B) {
	l := lane.New(lane.Config{Lanes: 16}, func(context.Context, []int) error { return nil })
	ran := make(chan error, 1)
	go func() { ran <- l.Run(b.Context()) }()
	for i := 0; b.Loop(); i++ {
		if err := l.Submit(b.Context(), "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", i); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Drain(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := <-ran; err != nil {
		b.Fatal(err)
	}
}
