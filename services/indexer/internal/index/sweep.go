package index

import (
	"context"
	"log/slog"
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
}

// sweepBatch bounds one round.
const sweepBatch = 200

// NewSweeper makes a Sweeper for the streams, looking at them every so often.
func NewSweeper(streams []string, every time.Duration, list SweepList, floors Floors, m *Metrics, log *slog.Logger) *Sweeper {
	return &Sweeper{streams: streams, every: every, list: list, floors: floors, metrics: m, log: log.With("component", "sweep")}
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
		if more && err == nil {
			continue
		}
		_ = fault.Sleep(ctx, s.every)
	}
	return nil
}

// Round sweeps what is due, at most a batch of each stream, and says whether
// there is more.
func (s *Sweeper) Round(ctx context.Context) (more bool, err error) {
	total := 0
	for _, stream := range s.streams {
		floor, _, err := s.floors.Floor(ctx, stream)
		if err != nil {
			return false, err
		}
		due, waiting, err := s.list.DueSweeps(ctx, stream, floor, sweepBatch)
		if err != nil {
			return false, err
		}
		total += waiting
		for _, d := range due {
			if err := s.list.SweepSnapshot(ctx, d.DID, d.Rev); err != nil {
				return false, err
			}
			if err := s.list.EndSweep(ctx, d); err != nil {
				return false, err
			}
			s.metrics.sweeps.Inc()
		}
		more = more || len(due) == sweepBatch
		total -= len(due)
	}
	s.metrics.sweepsWaiting.Set(float64(total))
	return more, nil
}
