package backfill

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/pkg/crash"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
)

// Reasons with which a job goes to the dead letters.
const (
	parkUnreadable = "unreadable"
	parkExhausted  = "retries_exhausted"
)

// RetryConfig says when a job that failed is tried again.
type RetryConfig struct {
	// Max is how many more attempts a job gets after the first. Default 3.
	Max int
	// Initial and MaxBackoff bound the delay, doubled with each attempt.
	// Defaults 1s and 30s.
	Initial, MaxBackoff time.Duration
}

// settler ends jobs: each is acked, put off or moved to the dead letters, and
// only after the state of its repository is recorded. All steps are repeated
// until they succeed or ctx ends; then the job stays pending and comes again.
type settler struct {
	cfg RetryConfig
	// wait is how long a job waits that cannot be settled, doubt takes the error
	// that stops the process.
	wait   time.Duration
	doubt  func(error)
	states *states
	tally  *tally
	lag    *obs.Stage
	m      *metrics
	log    *slog.Logger
}

// done ends the job of a repository that was emitted to its last record.
func (s *settler) done(ctx context.Context, t *task, rev string) {
	if !s.record(ctx, t, Record{State: StateDone, Rev: rev}) {
		return
	}
	crash.Point(crash.AfterRepoBeforeAck)
	t.from.consumer.Ack(t.delivery)
	s.lag.Observe(t.queued())
	s.m.processed.Inc()
	s.m.attempts.WithLabelValues(endDone).Inc()
	s.m.settled.WithLabelValues(endDone).Inc()
	s.tally.add("repos", 1)
	s.tally.repo(t.pds, "done")
}

// skip acks a job that has nothing to bring.
func (s *settler) skip(t *task, end string) {
	t.from.consumer.Ack(t.delivery)
	s.m.settled.WithLabelValues(end).Inc()
	if end == endSkipped {
		s.tally.add("skipped", 1)
	}
}

// failed ends an attempt that went wrong, by the rule of its reason.
func (s *settler) failed(ctx context.Context, t *task, f *RepoError) {
	switch f.rule().act {
	case actGone:
		s.gone(ctx, t, f)
	case actDead:
		s.dead(ctx, t, string(f.Reason), f)
	default:
		s.retry(ctx, t, f, time.Time{})
	}
}

func (s *settler) gone(ctx context.Context, t *task, f *RepoError) {
	if !s.record(ctx, t, Record{State: StateGone, Rev: t.known.Rev, Reason: string(f.Reason)}) {
		return
	}
	crash.Point(crash.AfterStateBeforeSettle)
	t.from.consumer.Ack(t.delivery)
	s.m.settled.WithLabelValues(endGone).Inc()
	s.tally.add("gone", 1)
	s.tally.repo(t.pds, "gone")
}

// retry charges the job an attempt and puts it off, not before the given time,
// or gives it up.
func (s *settler) retry(ctx context.Context, t *task, f *RepoError, notBefore time.Time) {
	if t.attempts >= s.cfg.Max {
		s.dead(ctx, t, parkExhausted, f)
		return
	}
	if !s.record(ctx, t, Record{State: StateWaiting, Rev: t.known.Rev, Reason: string(f.Reason)}) {
		return
	}
	crash.Point(crash.AfterStateBeforeSettle)
	wait := fault.Backoff{Initial: s.cfg.Initial, Max: s.cfg.MaxBackoff}.Delay(t.attempts + 1)
	at := time.Now().Add(max(wait, f.RetryAfter))
	if notBefore.After(at) {
		at = notBefore
	}
	if s.later(ctx, t, t.attempts+1, at) {
		s.m.retried.Inc()
		s.m.settled.WithLabelValues(endRetry).Inc()
		s.tally.add("retried", 1)
		s.tally.repo(t.pds, "retried")
	}
}

// deferred sends a job away to make room, at no charge.
func (s *settler) deferred(ctx context.Context, t *task, due time.Time) {
	if s.later(ctx, t, t.attempts, due) {
		s.m.settled.WithLabelValues(endDeferred).Inc()
	}
}

func (s *settler) later(ctx context.Context, t *task, attempts int, at time.Time) bool {
	return s.persist(ctx, t, "put off job", func(ctx context.Context) error {
		return t.from.delayed.AddAndAck(ctx, t.delivery, t.from.group, withAttempts(t.delivery.Entry, attempts), at)
	})
}

func (s *settler) dead(ctx context.Context, t *task, reason string, f *RepoError) {
	if !s.record(ctx, t, Record{State: StateFailed, Rev: t.known.Rev, Reason: string(f.Reason)}) {
		return
	}
	crash.Point(crash.AfterStateBeforeSettle)
	if !s.park(ctx, t, reason, f) {
		return
	}
	s.tally.add("failed", 1)
	s.tally.repo(t.pds, "failed")
	s.log.WarnContext(ctx, "job moved to the dead letters", "did", t.job.DID, "host", t.pds, "reason", reason,
		"attempts", t.attempts+1, slog.Any("err", f))
}

// park gives a job up. The dead letter has the job as it came first, so that
// it starts afresh when it is redriven, and the attempts that were made.
func (s *settler) park(ctx context.Context, t *task, reason string, cause error) bool {
	d := t.delivery
	d.Fields, d.Deliveries = withAttempts(d.Entry, 0), int64(t.attempts+1)
	ok := s.persist(ctx, t, "park job", func(ctx context.Context) error {
		return t.from.consumer.Park(ctx, d, reason, cause)
	})
	if ok {
		s.m.deadLettered.Inc()
		s.m.settled.WithLabelValues(endDead).Inc()
	}
	return ok
}

// record writes the state of the repository.
func (s *settler) record(ctx context.Context, t *task, r Record) bool {
	return s.persist(ctx, t, "record state", func(ctx context.Context) error {
		return s.states.write(ctx, t.job.DID, r)
	})
}

// persist repeats step while Redis is away. False: it did not succeed, and the
// job waits for another delivery, at no charge: the trouble is ours. Doubt
// about our own state stops the process.
func (s *settler) persist(ctx context.Context, t *task, what string, step func(context.Context) error) bool {
	told := false
	err := fault.Retry(ctx, fault.Backoff{Initial: 50 * time.Millisecond, Max: 2 * time.Second, Notify: func(err error, _ int, _ time.Duration) {
		if !told {
			told = true
			s.log.WarnContext(ctx, "settling waits for Redis", "step", what, slog.Any("err", err))
		}
	}}, step)
	if err == nil {
		return true
	}
	if ctx.Err() != nil {
		t.from.consumer.Postpone(0, t.delivery)
		return false
	}
	s.log.ErrorContext(ctx, "settling gave up", "step", what, "did", t.did(), slog.Any("err", err))
	if fault.ClassOf(err) == fault.Fatal {
		s.doubt(fmt.Errorf("%s of %s: %w", what, t.did(), err))
	}
	t.from.consumer.Postpone(s.wait, t.delivery)
	return false
}
