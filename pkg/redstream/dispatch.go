package redstream

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// deliver passes entries to dispatch. It waits while the handler is busy; when
// ctx ends they stay in the ledger and are handed over by Close.
func (s *source) deliver(ctx context.Context, ds []Delivery) error {
	if len(ds) == 0 {
		return nil
	}
	select {
	case s.in <- ds:
	case <-ctx.Done():
	}
	return nil
}

// redeliver admits entries that were delivered before. Those that were
// delivered too often are parked.
func (s *source) redeliver(ctx context.Context, ds []Delivery) error {
	ds = s.held.admit(ds)
	s.c.metrics.redelivered.WithLabelValues(s.stream, s.group).Add(float64(len(ds)))
	ds = s.sound(ctx, ds)
	if !s.cons.bad.Load() {
		ds = s.suspend(ctx, ds)
	}
	return s.deliver(ctx, ds)
}

// sound parks what was delivered too often and returns the rest. While
// everything fails no entry is to blame. What cannot be parked is put off, and
// holds back nothing else.
func (s *source) sound(ctx context.Context, ds []Delivery) []Delivery {
	if s.cons.bad.Load() {
		return ds
	}
	good := ds[:0:0]
	var stuck []Delivery
	var failed error
	for _, d := range ds {
		if d.Deliveries <= s.cons.cfg.MaxDeliveries {
			good = append(good, d)
			continue
		}
		if failed == nil {
			failed = s.poison(ctx, d)
		}
		if failed != nil {
			d.Deliveries-- // it was not handed out
			stuck = append(stuck, d)
		}
	}
	if failed != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "poison cannot be parked and is put off",
			slog.Int("entries", len(stuck)), slog.Any("err", failed))
	}
	s.held.later(time.Now().Add(s.cons.cfg.ClaimIdle/2), stuck)
	return good
}

// poison parks one entry that was delivered too often.
func (s *source) poison(ctx context.Context, d Delivery) error {
	cause := fmt.Errorf("delivered %d times without an end", d.Deliveries-1)
	if err := s.cons.Park(ctx, d, ReasonPoison, cause); err != nil {
		return err
	}
	s.log.WarnContext(ctx, "entry parked after too many deliveries",
		slog.String("id", d.ID), slog.Int64("deliveries", d.Deliveries))
	return nil
}

// dispatch calls the handler with what was read, and again with what Retry put
// off when its time has come.
func (s *source) dispatch(ctx context.Context, h Handler) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		ds, wait := s.held.due(time.Now(), s.cons.cfg.Batch)
		if len(ds) > 0 {
			ds = s.again(ctx, ds)
		} else if ds = s.suspect(ctx); len(ds) == 0 {
			if wait < 0 {
				wait = time.Hour
			}
			timer.Reset(wait)
			select {
			case ds = <-s.in:
			case <-timer.C:
			case <-s.held.woken:
			case <-ctx.Done():
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if len(ds) == 0 {
			continue
		}
		if err := h(ctx, ds); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("handle %d entries of %s: %w", len(ds), s.key, err)
		}
	}
}

// again prepares entries for another delivery by this consumer. The new count
// goes to Redis, so that it survives a crash; entries that somebody else has
// finished meanwhile are dropped. When Redis cannot be asked they are handed
// out all the same.
func (s *source) again(ctx context.Context, ds []Delivery) []Delivery {
	s.c.metrics.redelivered.WithLabelValues(s.stream, s.group).Add(float64(len(ds)))
	if s.cons.bad.Load() {
		return ds
	}
	for i := range ds {
		ds[i].Deliveries++
	}
	gone := s.recount(ctx, ds)
	kept := ds[:0]
	for _, d := range ds {
		if gone[d.ID] {
			s.held.release(d.ID)
			continue
		}
		kept = append(kept, d)
	}
	return s.sound(ctx, kept)
}
