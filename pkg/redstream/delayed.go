package redstream

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"sluice/pkg/fault"
)

const (
	// releasePage bounds the entries released in one step.
	releasePage = 100
	// maxDelayedLook bounds the time between two looks: another process may
	// have scheduled something earlier.
	maxDelayedLook = time.Second
)

// Delayed is a sorted set of entries to be appended to a stream later; it
// survives restarts. Any number of replicas may run it.
type Delayed struct {
	c           *Client
	stream, key string
	target      string
	log         *slog.Logger
}

// NewDelayed returns the schedule kept at key for entries of stream.
func (c *Client) NewDelayed(key, stream string) *Delayed {
	c.metrics.initStream(stream)
	return &Delayed{
		c: c, stream: stream, key: c.keys.under(stream, key), target: c.keys.stream(stream),
		log: c.log.With(slog.String("stream", stream)),
	}
}

// AddAndAck schedules fields for the stream at time at and acks d in group, in
// one step; durable on return. An entry that is not pending any more schedules
// nothing: a repeat, or somebody else has finished it.
func (q *Delayed) AddAndAck(ctx context.Context, d Delivery, group string, fields []Field, at time.Time) error {
	if err := checkWidth([]Item{{Fields: fields}}); err != nil {
		return err
	}
	from := q.c.keys.stream(d.Stream)
	if q.c.keys.cluster && tag(from) != tag(q.key) {
		return fault.Fatalf("delay: %w: %s and %s", ErrSlot, from, q.key)
	}
	args := []string{group, d.ID, strconv.FormatInt(at.UnixMilli(), 10)}
	for _, f := range fields {
		args = append(args, f.Name, f.Value)
	}
	err := persist(ctx, once(func(err error) {
		q.log.WarnContext(ctx, "delay repeated", slog.String("id", d.ID), slog.Any("err", err))
	}), func(ctx context.Context) error {
		code, err := q.c.script(ctx, delayEntry, []string{from, q.key}, args).AsInt64()
		if err != nil {
			return classify("delay in", q.key, err)
		}
		if code < 0 {
			return fault.Fatalf("delay in %s: %w", q.key, ErrWrongType)
		}
		q.c.metrics.delayed.WithLabelValues(q.stream).Add(float64(code))
		return nil
	})
	if err == nil && d.owner != nil {
		if s := d.owner.source(d.Stream); s != nil {
			s.held.release(d.ID)
		}
	}
	return err
}

// Add schedules fields for the stream at time at. name makes the entry unique
// in the schedule: the same fields under the same name are there once.
func (q *Delayed) Add(ctx context.Context, name string, fields []Field, at time.Time) error {
	if err := checkWidth([]Item{{Fields: fields}}); err != nil {
		return err
	}
	args := []string{strconv.FormatInt(at.UnixMilli(), 10), name}
	for _, f := range fields {
		args = append(args, f.Name, f.Value)
	}
	return classify("delay in", q.key, q.c.script(ctx, scheduleEntry, []string{q.key}, args).Error())
}

// Len is the number of entries that wait.
func (q *Delayed) Len(ctx context.Context) (int64, error) {
	n, err := q.c.do(ctx, q.c.rc.B().Zcard().Key(q.key).Build()).AsInt64()
	return n, classify("count", q.key, err)
}

// Run moves what is due to the stream, until ctx ends.
func (q *Delayed) Run(ctx context.Context) error {
	failing := false
	for {
		wait, err := q.release(ctx)
		if err != nil {
			wait = maxDelayedLook
			if !failing {
				q.log.WarnContext(ctx, "releasing delayed entries interrupted", slog.Any("err", err))
			}
		}
		failing = err != nil
		if pause(ctx, wait) {
			return nil
		}
	}
}

// release moves one page of due entries and returns when to look again.
func (q *Delayed) release(ctx context.Context) (time.Duration, error) {
	reply, err := q.c.script(ctx, releaseDue, []string{q.key, q.target}, []string{strconv.Itoa(releasePage)}).AsIntSlice()
	if err != nil {
		return 0, classify("release from", q.key, err)
	}
	if len(reply) != 2 {
		return 0, fmt.Errorf("release from %s: script returned %d values", q.key, len(reply))
	}
	q.c.metrics.appended.WithLabelValues(q.stream).Add(float64(reply[0]))
	if reply[1] < 0 {
		return maxDelayedLook, nil
	}
	return min(time.Duration(reply[1])*time.Millisecond, maxDelayedLook), nil
}
