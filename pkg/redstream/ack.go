package redstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

const (
	// ackBatch is the most ids of one XACK, ackPipeline the most of them sent
	// together, ackLinger how long the first id waits for company.
	ackBatch    = 500
	ackPipeline = 8
	ackLinger   = 3 * time.Millisecond
)

// ackQueue holds the ids that are to be acknowledged. It is bounded by the
// window: an id stays in the ledger until its ack is done.
type ackQueue struct {
	mu    sync.Mutex
	ids   []string
	first chan struct{} // a token when the queue is no longer empty
	full  chan struct{} // a token when a batch is complete
}

func newAckQueue() *ackQueue {
	return &ackQueue{first: make(chan struct{}, 1), full: make(chan struct{}, 1)}
}

func (q *ackQueue) add(ds []Delivery) {
	q.mu.Lock()
	for i := range ds {
		q.ids = append(q.ids, ds[i].ID)
	}
	n := len(q.ids)
	q.mu.Unlock()
	signal(q.first)
	if n >= ackBatch {
		signal(q.full)
	}
}

// take removes at most n ids.
func (q *ackQueue) take(n int) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.ids))
	taken := q.ids[:n:n]
	if q.ids = q.ids[n:]; len(q.ids) == 0 {
		q.ids = nil
	}
	return taken
}

// putBack returns ids that were not acknowledged.
func (q *ackQueue) putBack(ids []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ids = append(ids, q.ids...)
}

// acker sends acknowledgements in batches until ctx ends. What it could not
// send is then in the queue again.
func (s *source) acker(ctx context.Context) {
	linger := time.NewTimer(time.Hour)
	defer linger.Stop()
	for {
		select {
		case <-s.acks.first:
		case <-ctx.Done():
			return
		}
		linger.Reset(ackLinger)
		select {
		case <-s.acks.full:
		case <-linger.C:
		case <-ctx.Done():
			return
		}
		if s.flush(ctx) != nil && ctx.Err() != nil {
			return
		}
	}
}

// flush sends what is queued. A batch that fails is repeated until the claim
// time has passed: from then on others may take the entries, and their work,
// which changes nothing, ends with the ack.
func (s *source) flush(ctx context.Context) error {
	for {
		ids := s.acks.take(ackBatch * ackPipeline)
		if len(ids) == 0 {
			return nil
		}
		limit, cancel := context.WithTimeout(ctx, s.cons.cfg.ClaimIdle)
		say := once(func(err error) {
			s.log.WarnContext(ctx, "ack repeated", slog.Int("entries", len(ids)), slog.Any("err", err))
		})
		err := persist(limit, func(err error) {
			s.c.metrics.ackRetries.WithLabelValues(s.stream, s.group).Inc()
			say(err)
		}, func(ctx context.Context) error { return s.ack(ctx, ids) })
		cancel()
		if err != nil && ctx.Err() != nil {
			s.acks.putBack(ids)
			return err
		}
		if err != nil {
			s.c.metrics.ackLost.WithLabelValues(s.stream, s.group).Add(float64(len(ids)))
			s.log.ErrorContext(ctx, "acks given up, the entries come again", slog.Int("entries", len(ids)), slog.Any("err", err))
		}
		s.held.release(ids...)
	}
}

// ack sends ids in calls of at most ackBatch.
func (s *source) ack(ctx context.Context, ids []string) error {
	cmds := make(rueidis.Commands, 0, len(ids)/ackBatch+1)
	for rest := ids; len(rest) > 0; {
		n := min(ackBatch, len(rest))
		cmds = append(cmds, s.c.rc.B().Xack().Key(s.key).Group(s.group).Id(rest[:n]...).Build())
		rest = rest[n:]
	}
	once, cancel := attempt(ctx)
	defer cancel()
	var errs []error
	done := int64(0)
	for _, r := range s.c.rc.DoMulti(once, cmds...) {
		n, err := r.AsInt64()
		done += n
		errs = append(errs, err)
	}
	s.c.metrics.acked.WithLabelValues(s.stream, s.group).Add(float64(done))
	if err := errors.Join(errs...); err != nil {
		return firstClass("ack", s.key, errs)
	}
	return nil
}

// firstClass returns the errors of a pipeline as one; the first decides the class.
func firstClass(op, key string, errs []error) error {
	for _, err := range errs {
		if err != nil {
			err = classify(op, key, err)
			return fault.As(fault.ClassOf(err), err)
		}
	}
	return nil
}
