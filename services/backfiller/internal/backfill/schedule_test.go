package backfill

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

func testTask(n int, host string, cl class) *task {
	return &task{job: &event.RepoJob{DID: fmt.Sprintf("did:plc:%s%d", host, n)}, pds: host, class: cl}
}

// take picks what may start now, up to most.
func take(s *scheduler, most int) []*task {
	var out []*task
	for len(out) < most {
		t, _ := s.pick()
		if t == nil {
			break
		}
		out = append(out, t)
	}
	return out
}

func countByHost(ts []*task) map[string]int {
	m := map[string]int{}
	for _, t := range ts {
		m[t.pds]++
	}
	return m
}

func TestSchedulerIsFairBetweenHosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 4, Rate: 1000}, 10_000)
		for i := range 500 {
			require.True(t, s.add(testTask(i, "giant", bulk)).accepted)
		}
		for i := range 3 {
			s.add(testTask(i, "small", bulk))
			s.add(testTask(i, "tiny", bulk))
		}
		got := countByHost(take(s, 9))
		require.Equal(t, map[string]int{"giant": 3, "small": 3, "tiny": 3}, got)
		require.Equal(t, map[string]int{"giant": 1}, countByHost(take(s, 9)), "the giant is bounded by its own concurrency")
	})
}

func TestSchedulerUrgentFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 100, Rate: 1000}, 10_000)
		for i := range 20 {
			s.add(testTask(i, "a", bulk))
		}
		for i := range 20 {
			s.add(testTask(100+i, "a", urgent))
		}
		got := take(s, 16)
		n := 0
		for _, x := range got {
			if x.class == urgent {
				n++
			}
		}
		require.Equal(t, 14, n, "urgent first, but one start in %d is for bulk", bulkShare)
	})
}

func TestSchedulerParksTheHostAndNotTheWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 8, Rate: 1000, ParkInitial: time.Second, ParkMax: time.Minute}, 1000)
		for i := range 5 {
			s.add(testTask(i, "bad", bulk))
			s.add(testTask(i, "good", bulk))
		}
		first := take(s, 1)[0]
		require.Equal(t, "bad", first.pds)
		s.done(first, result{trouble: true, ask: 30 * time.Second, requeue: true})
		require.Equal(t, map[string]int{"good": 5}, countByHost(take(s, 10)))

		// The parked host comes back by itself, with one probe.
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		next, err := s.next(ctx)
		require.NoError(t, err)
		require.Same(t, first, next, "the job that was refused is first again")
		require.Equal(t, 30*time.Second, time.Since(start).Round(time.Second))
		require.Empty(t, take(s, 10), "one probe at a time")
		s.done(next, result{answered: true})
		require.Len(t, take(s, 10), 4)
	})
}

func TestSchedulerOneTroubleIsOneFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 8, Rate: 1000, ParkInitial: time.Second, ParkMax: time.Hour}, 1000)
		for i := range 8 {
			s.add(testTask(i, "bad", bulk))
		}
		for _, x := range take(s, 8) {
			s.done(x, result{trouble: true})
		}
		require.Equal(t, 1, s.hosts["bad"].fails)
		require.Equal(t, time.Second, time.Until(s.hosts["bad"].parked))
	})
}

func TestSchedulerRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 5, Rate: 10}, 1000)
		for i := range 50 {
			s.add(testTask(i, "h", bulk))
		}
		start := time.Now()
		for range 50 {
			x, err := s.next(t.Context())
			require.NoError(t, err)
			s.done(x, result{answered: true})
		}
		took := time.Since(start)
		require.InDelta(t, 4.5, took.Seconds(), 0.3, "50 starts at 10/s after a burst of 5")
	})
}

func TestSchedulerSendsAwayWhatCrowds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 2, Rate: 10, DeferMax: time.Minute}, 100)
		var due []time.Time
		for i := range 300 {
			if v := s.add(testTask(i, "giant", bulk)); !v.accepted {
				due = append(due, v.due)
			}
		}
		require.Len(t, due, 250, "half the window is for one host at most")
		for i := 1; i < len(due); i++ {
			require.True(t, due[i].After(due[i-1]), "each comes back later than the one before")
		}
		require.InDelta(t, 25, due[249].Sub(due[0]).Seconds(), 1, "at the pace of the host")
		require.True(t, s.add(testTask(0, "other", bulk)).accepted)
		for i := range 5000 {
			v := s.add(testTask(1000+i, "giant", bulk))
			require.False(t, v.accepted)
			require.LessOrEqual(t, time.Until(v.due), 90*time.Second, "nothing is sent away for long")
		}
	})
}

func TestSchedulerDeadHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 2, Rate: 10, ParkInitial: time.Second, ParkMax: time.Minute, DeadAfter: 10 * time.Minute}, 100)
		for i := range 5 {
			s.add(testTask(i, "dead", bulk))
		}
		var drained []*task
		for len(drained) == 0 {
			x, err := s.next(t.Context())
			require.NoError(t, err)
			_, drained = s.done(x, result{trouble: true, requeue: true})
		}
		require.Len(t, drained, 5)
		v := s.add(testTask(9, "dead", bulk))
		require.True(t, v.dead)
		w, r, _ := s.counts()
		require.Zero(t, w+r)

		// After the park a probe is let through again, and success ends it.
		synctest.Wait()
		tick := time.NewTimer(2 * time.Minute)
		<-tick.C
		require.True(t, s.add(testTask(10, "dead", bulk)).accepted)
		x, err := s.next(t.Context())
		require.NoError(t, err)
		s.done(x, result{answered: true})
		require.True(t, s.add(testTask(11, "dead", bulk)).accepted)
	})
}

func TestSchedulerOneFetchOfARepoAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{}, 100)
		a, b := testTask(1, "h", bulk), testTask(1, "h", urgent)
		s.add(a)
		require.Len(t, take(s, 1), 1)
		require.True(t, s.add(b).accepted)
		require.Empty(t, take(s, 1))
		same, _ := s.done(a, result{answered: true})
		require.Equal(t, []*task{b}, same)
		require.True(t, s.add(b).accepted)
		require.Len(t, take(s, 1), 1)
	})
}

func TestSchedulerForgetsHosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{}, 1000)
		for i := range maxHosts + 1000 {
			x := testTask(i, fmt.Sprintf("h%d", i), bulk)
			s.add(x)
			got := take(s, 1)
			require.Len(t, got, 1)
			s.done(got[0], result{trouble: i%2 == 0})
		}
		require.LessOrEqual(t, len(s.hosts), maxHosts)
		require.Empty(t, s.ring)
		require.Empty(t, s.held)
	})
}

func TestSchedulerMoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(HostConfig{Concurrency: 1}, 100)
		a := testTask(1, "old", bulk)
		s.add(a)
		take(s, 1)
		s.moved(a, "new")
		require.Zero(t, s.hosts["old"].running)
		require.Equal(t, 1, s.hosts["new"].running)
		s.done(a, result{answered: true})
		require.Zero(t, s.hosts["new"].running)
	})
}
