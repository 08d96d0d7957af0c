package redstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// Close flushes acks, hands over what is held and removes the consumer when
// nothing is pending. It is called after Run has returned and after the
// handler's own work has ended or was given up. ctx bounds it; what is left
// undone then is done by the claim time.
func (cons *Consumer) Close(ctx context.Context) error {
	cons.mu.Lock()
	was := cons.state
	cons.state = over
	cons.mu.Unlock()
	if was != running {
		return nil
	}
	var errs []error
	select {
	case <-cons.stopped:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("close %s: %w", cons.cfg.Consumer, ctx.Err()))
	}
	cons.stop() // also when time is up: what nobody works on must not be kept alive
	<-cons.done
	for _, s := range cons.streams {
		errs = append(errs, s.leave(ctx))
	}
	return errors.Join(errs...)
}

// leave ends the membership in one group.
func (s *source) leave(ctx context.Context) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	left, err := s.handOver(ctx)
	if errors.Is(err, ErrNoGroup) || errors.Is(err, ErrWrongType) {
		err = nil // nothing can be pending there
	}
	if err != nil {
		return err
	}
	if left > 0 {
		s.log.InfoContext(ctx, "entries handed over", slog.Int("count", left))
	}
	key := s.c.keys.heartbeat(s.stream, s.group, s.name)
	if err := s.c.do(ctx, s.c.rc.B().Del().Key(key).Build()).Error(); err != nil {
		return classify("end heartbeat", key, err)
	}
	_, err = s.c.removeConsumer(ctx, s.stream, s.group, s.name, 0)
	return err
}

// handOver makes everything that is still pending here look idle for longer
// than the claim time, so that others take it at their next round. The
// delivery counts stay.
func (s *source) handOver(ctx context.Context) (int, error) {
	from, total := "-", 0
	idle := strconv.FormatInt((2 * s.cons.cfg.ClaimIdle).Milliseconds(), 10)
	for ctx.Err() == nil {
		list, err := s.pending(ctx, pendingQuery{from: from, to: "+", count: ackBatch, consumer: s.name})
		if err != nil || len(list) == 0 {
			return total, err
		}
		ids := make([]string, len(list))
		for i, p := range list {
			ids[i] = p.id
		}
		err = s.c.do(ctx, s.c.rc.B().Arbitrary("XCLAIM").Keys(s.key).Args(s.group, s.name, "0").Args(ids...).
			Args("IDLE", idle, "JUSTID").Build()).Error()
		if err != nil {
			return total, classify("hand over", s.key, err)
		}
		total += len(ids)
		s.held.release(ids...)
		from = "(" + ids[len(ids)-1]
	}
	return total, ctx.Err()
}

// RemoveConsumer removes a consumer that has nothing pending, checked and done
// in one step. It returns false if the consumer stays.
func (c *Client) RemoveConsumer(ctx context.Context, stream, group, consumer string) (bool, error) {
	return c.removeConsumer(ctx, stream, group, consumer, 0)
}

func (c *Client) removeConsumer(ctx context.Context, stream, group, consumer string, deadFor time.Duration) (bool, error) {
	onlyDead := "0"
	if deadFor > 0 {
		onlyDead = "1"
	}
	keys := []string{c.keys.stream(stream), c.keys.heartbeat(stream, group, consumer)}
	args := []string{group, consumer, onlyDead, strconv.FormatInt(deadFor.Milliseconds(), 10)}
	n, err := c.script(ctx, leaveGroup, keys, args).AsInt64()
	return n == 1, classify("remove consumer from", keys[0], err)
}

// RemoveDead removes the consumers of a group that have no heartbeat, nothing
// pending and were idle for at least deadFor, and returns their names. A
// consumer with pending entries is never removed: its entries would be lost.
func (c *Client) RemoveDead(ctx context.Context, stream, group string, deadFor time.Duration) ([]string, error) {
	consumers, err := c.consumers(ctx, stream, group)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, m := range consumers {
		if m.Pending > 0 || m.Idle < deadFor {
			continue
		}
		gone, err := c.removeConsumer(ctx, stream, group, m.Name, max(deadFor, time.Millisecond))
		if err != nil {
			return removed, err
		}
		if gone {
			c.metrics.janitors.WithLabelValues(stream, group).Inc()
			removed = append(removed, m.Name)
		}
	}
	return removed, nil
}
