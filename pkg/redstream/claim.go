package redstream

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"
)

const (
	// claimPage bounds the entries looked at in one call.
	claimPage = 100
	// maxClaimEvery bounds the time until entries handed over are noticed.
	maxClaimEvery = 10 * time.Second
	// neverIdle is a min-idle time that no entry reaches: XAUTOCLAIM then only
	// removes phantoms.
	neverIdle = "9000000000000000"
	// sweeper is the consumer name of a sweep that belongs to no consumer.
	sweeper = "sluice-sweeper"
)

// claim takes over entries that were idle for too long, and every now and then
// forgets phantoms and removes dead consumers. It starts when the own history
// is read.
func (s *source) claim(ctx context.Context) {
	select {
	case <-s.caughtUp:
	case <-ctx.Done():
		return
	}
	every := min(s.cons.cfg.ClaimIdle/2, maxClaimEvery)
	var swept time.Time
	failing := false
	for {
		err := s.claimIdle(ctx)
		if err == nil && time.Since(swept) > max(s.cons.cfg.ClaimIdle, every) {
			swept = time.Now()
			err = s.tidy(ctx)
		}
		if err != nil && !failing {
			s.log.WarnContext(ctx, "claiming interrupted", slog.Any("err", err))
		}
		failing = err != nil
		jitter := time.Duration(rand.Int64N(int64(every)/4 + 1))
		if pause(ctx, every-every/8+jitter) {
			return
		}
	}
}

// claimWindow is how many entries may be held when others are claimed. It is a
// quarter more than what reading fills, so that a window full of new entries
// does not keep those of the dead waiting.
func (cfg ConsumerConfig) claimWindow() int { return cfg.Window + max(cfg.Window/4, 1) }

// claimIdle walks over the idle entries of the group once.
func (s *source) claimIdle(ctx context.Context) error {
	from := "-"
	for !s.cons.bad.Load() && ctx.Err() == nil {
		s.intake.Lock()
		list, err := s.pending(ctx, pendingQuery{idle: s.cons.cfg.ClaimIdle, from: from, to: "+", count: claimPage})
		if err == nil && len(list) > 0 {
			err = s.take(ctx, list, s.cons.cfg.ClaimIdle)
		}
		s.intake.Unlock()
		if err != nil || len(list) < claimPage || s.cons.cfg.claimWindow() <= s.held.size() {
			return err
		}
		from = "(" + list[len(list)-1].id
	}
	return nil
}

// take claims the pending entries that this process does not hold, as far as
// claimWindow has room, if they are still idle. The caller holds intake.
func (s *source) take(ctx context.Context, list []pendingEntry, idle time.Duration) error {
	room := s.cons.cfg.claimWindow() - s.held.size()
	ids, counts, others := make([]string, 0, len(list)), make(map[string]int64, len(list)), 0
	for _, p := range list {
		if len(ids) >= room {
			break
		}
		if s.held.holds(p.id) {
			continue
		}
		ids = append(ids, p.id)
		counts[p.id] = p.deliveries
		if p.consumer != s.name {
			others++
		}
	}
	if len(ids) == 0 {
		return nil
	}
	cmd := s.c.rc.B().Arbitrary("XCLAIM").Keys(s.key).
		Args(s.group, s.name, strconv.FormatInt(idle.Milliseconds(), 10)).Args(ids...).Build()
	entries, err := s.c.do(ctx, cmd).ToArray()
	if err != nil {
		return classify("claim", s.key, err)
	}
	ds, _, err := deliveriesOf(s.stream, s.cons, entries)
	if err != nil {
		return classify("claim", s.key, err)
	}
	for i := range ds {
		ds[i].Deliveries, ds[i].Claimed = counts[ds[i].ID]+1, true
	}
	s.c.metrics.claimed.WithLabelValues(s.stream, s.group).Add(float64(min(others, len(ds))))
	return s.redeliver(ctx, ds)
}

// tidy forgets phantoms and removes consumers that are gone.
func (s *source) tidy(ctx context.Context) error {
	n, err := s.c.sweep(ctx, s.stream, s.group, s.name)
	if n > 0 {
		s.log.WarnContext(ctx, "phantoms forgotten", slog.Int("count", n))
	}
	if err != nil {
		return err
	}
	removed, err := s.c.RemoveDead(ctx, s.stream, s.group, 2*s.cons.cfg.ClaimIdle)
	for _, name := range removed {
		s.log.InfoContext(ctx, "dead consumer removed", slog.String("removed", name))
	}
	return err
}

// SweepPhantoms forgets the pending ids of a group whose entry does not exist
// any more, and returns how many there were. It takes nothing from anybody.
func (c *Client) SweepPhantoms(ctx context.Context, stream, group string) (int, error) {
	n, err := c.sweep(ctx, stream, group, sweeper)
	if err != nil {
		return n, err
	}
	_, err = c.removeConsumer(ctx, stream, group, sweeper, 0)
	return n, err
}

// sweep walks over the pending list as the given consumer.
func (c *Client) sweep(ctx context.Context, stream, group, as string) (int, error) {
	key, from, total := c.keys.stream(stream), "0-0", 0
	for {
		cmd := c.rc.B().Arbitrary("XAUTOCLAIM").Keys(key).
			Args(group, as, neverIdle, from, "COUNT", strconv.Itoa(claimPage), "JUSTID").Build()
		reply, err := c.do(ctx, cmd).ToArray()
		if err != nil {
			return total, classify("sweep", key, err)
		}
		next, gone := "0-0", []string(nil)
		if len(reply) >= 3 {
			next, _ = reply[0].ToString()
			gone, _ = reply[2].AsStrSlice()
		}
		total += len(gone)
		c.metrics.phantoms.WithLabelValues(stream, group).Add(float64(len(gone)))
		if next == "0-0" || ended(ctx) {
			return total, nil
		}
		from = next
	}
}
