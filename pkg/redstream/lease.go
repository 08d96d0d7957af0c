package redstream

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"sluice/pkg/fault"
)

const (
	// beatEvery is the time between two heartbeats, beatLife how long one lasts.
	beatEvery = 2 * time.Second
	beatLife  = 20 * time.Second
)

// keepAlive tells Redis of entries that are still being worked on, so that
// nobody claims them. It goes on after Run, until Close. An entry that Redis
// has not heard of for the whole claim time is left alone: it may be somebody
// else's by now.
func (s *source) keepAlive(ctx context.Context) {
	idle := s.cons.cfg.ClaimIdle
	failing := false
	for fault.Sleep(ctx, idle/6) == nil {
		s.c.metrics.held.WithLabelValues(s.stream, s.group).Set(float64(s.held.size()))
		now := time.Now()
		ids := s.held.aging(now.Add(-idle/3), now.Add(-idle))
		for len(ids) > 0 {
			n := min(ackBatch, len(ids))
			err := s.refresh(ctx, ids[:n])
			if err != nil && !failing {
				s.log.WarnContext(ctx, "keep-alive interrupted", slog.Any("err", err))
			}
			failing = err != nil
			ids = ids[n:]
		}
	}
	s.c.metrics.held.WithLabelValues(s.stream, s.group).Set(0)
}

// refresh resets the idle time of entries; their delivery count stays.
func (s *source) refresh(ctx context.Context, ids []string) error {
	at := time.Now()
	ours, err := s.c.do(ctx, s.c.rc.B().Arbitrary("XCLAIM").Keys(s.key).
		Args(s.group, s.name, "0").Args(ids...).Args("JUSTID").Build()).AsStrSlice()
	if err != nil {
		return classify("keep alive in", s.key, err)
	}
	s.held.touch(ours, at)
	return nil
}

// heartbeat keeps a key alive whose value is when this consumer last got an
// answer to a read, in ms. Redis 7.0 itself does not know: the idle time of a
// consumer does not move on empty reads. It goes on when memory is full: a
// consumer that works on that must not look dead.
func (s *source) heartbeat(ctx context.Context) {
	key := s.c.keys.heartbeat(s.stream, s.group, s.name)
	failing := false
	for {
		err := s.c.script(ctx, beat, []string{key}, []string{
			strconv.FormatInt(s.asked.Load(), 10), strconv.FormatInt(beatLife.Milliseconds(), 10),
		}).Error()
		if err != nil && !failing && ctx.Err() == nil {
			s.log.WarnContext(ctx, "heartbeat interrupted", slog.Any("err", err))
		}
		failing = err != nil
		if fault.Sleep(ctx, beatEvery) != nil {
			return
		}
	}
}
