package index

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"sluice/pkg/fault"
	"sluice/services/indexer/internal/store"
)

// SweepList is the list of snapshots that wait for what precedes them.
type SweepList interface {
	// DueSweeps returns at most limit snapshots of the stream whose entry is
	// below floor, the oldest first, and how many wait in all.
	DueSweeps(ctx context.Context, stream, floor string, limit int) (due []store.Sweep, waiting int, err error)
	// SweepSnapshot deletes what a snapshot at rev did not have. Idempotent.
	SweepSnapshot(ctx context.Context, did, rev string) error
	// EndSweep takes a snapshot off the list.
	EndSweep(ctx context.Context, w store.Sweep) error
}

// Floors knows how far a stream is finished.
type Floors interface {
	// Floor is the lowest id of the stream that some group still needs.
	Floor(ctx context.Context, stream string) (id, holder string, err error)
}

// Sweeper deletes what fetched repositories no longer have, once everything
// that precedes the end of the fetch in its stream is finished.
type Sweeper struct {
	streams []string
	every   time.Duration
	list    SweepList
	floors  Floors
	metrics *Metrics
	log     *slog.Logger

	// Owned by Round.
	later map[store.Sweep]putOff
}

// putOff is when a sweep that failed is tried again.
type putOff struct {
	failures int
	until    time.Time
}

const (
	// sweepBatch bounds one round.
	sweepBatch = 200
	// sweepFailures in a row are not the fault of one repository: the round ends.
	sweepFailures = 3
)

// sweepAgain spaces the attempts of a sweep that fails.
var sweepAgain = fault.Backoff{Initial: 10 * time.Second, Max: 5 * time.Minute}

// NewSweeper makes a Sweeper for the streams, looking at them every so often.
func NewSweeper(streams []string, every time.Duration, list SweepList, floors Floors, m *Metrics, log *slog.Logger) *Sweeper {
	return &Sweeper{streams: streams, every: every, list: list, floors: floors, metrics: m, log: log.With("component", "sweep"), later: map[store.Sweep]putOff{}}
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		more, err := s.Round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the stop was asked for
		case err != nil && fault.ClassOf(err) == fault.Fatal:
			return err
		case err != nil && !failing:
			s.log.WarnContext(ctx, "sweep put off", slog.Any("err", err))
		}
		failing = err != nil
		if more {
			continue
		}
		_ = fault.Sleep(ctx, s.every)
	}
	return nil
}

// Round sweeps what is due, at most a batch of each stream, and says whether
// there is more. A sweep that fails is put off, and the others go on; the error
// is that of the last one.
func (s *Sweeper) Round(ctx context.Context) (more bool, err error) {
	// What another process has swept meanwhile is not met again.
	maps.DeleteFunc(s.later, func(_ store.Sweep, p putOff) bool { return time.Since(p.until) > time.Hour })
	total := 0
	for _, stream := range s.streams {
		floor, _, ferr := s.floors.Floor(ctx, stream)
		if ferr != nil {
			return false, ferr
		}
		// Those that are put off must not take the places of the others.
		limit := sweepBatch + len(s.later)
		due, waiting, lerr := s.list.DueSweeps(ctx, stream, floor, limit)
		if lerr != nil {
			return false, lerr
		}
		done, serr := s.sweep(ctx, due)
		if serr != nil {
			err = serr
		}
		if ctx.Err() != nil || serr != nil && fault.ClassOf(serr) == fault.Fatal {
			return false, serr
		}
		total += waiting - done
		more = more || len(due) == limit && done > 0
	}
	s.metrics.sweepsWaiting.Set(float64(total))
	return more, err
}

// sweep goes through what is due. It ends early when the fault is not that of
// one repository.
func (s *Sweeper) sweep(ctx context.Context, due []store.Sweep) (done int, last error) {
	inRow := 0
	for _, d := range due {
		was := s.later[d]
		if time.Now().Before(was.until) {
			continue
		}
		err := s.one(ctx, d)
		switch {
		case err == nil:
			delete(s.later, d)
			s.metrics.sweeps.Inc()
			done++
			inRow = 0
			continue
		case ctx.Err() != nil, fault.ClassOf(err) == fault.Fatal:
			return done, err
		}
		last = err
		was.failures++
		was.until = time.Now().Add(sweepAgain.Delay(was.failures))
		s.later[d] = was
		s.log.DebugContext(ctx, "sweep of a repository put off", "did", d.DID, "failures", was.failures, slog.Any("err", err))
		if inRow++; inRow == sweepFailures {
			return done, last
		}
	}
	return done, last
}

func (s *Sweeper) one(ctx context.Context, d store.Sweep) error {
	if err := s.list.SweepSnapshot(ctx, d.DID, d.Rev); err != nil {
		return err
	}
	return s.list.EndSweep(ctx, d)
}
