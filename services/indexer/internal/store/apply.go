package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/services/indexer/internal/derive"
)

// Apply applies a batch of changes as if they came one after the other. When it
// returns without an error everything is committed. Transient errors are
// retried as configured; a change that PostgreSQL refuses is found by halving
// and reported as Rejected, and the rest of the batch is applied. It may be
// called at any time from any number of goroutines and processes, and applying
// the same again changes nothing.
func (s *Store) Apply(ctx context.Context, batch []Change) (Outcome, error) {
	start := time.Now()
	items := make([]*item, len(batch))
	for i, c := range batch {
		items[i] = s.prepare(c)
	}
	out := Outcome{Results: make([]ChangeResult, len(batch))}
	if err := s.applyItems(ctx, items, &out); err != nil {
		return Outcome{}, fmt.Errorf("apply %d changes: %w", len(batch), err)
	}
	for i, it := range items {
		out.Results[i] = ChangeResult{Result: it.result, Err: it.err}
		s.metrics.changes.WithLabelValues(it.result.String()).Inc()
	}
	s.metrics.batch.Observe(float64(len(batch)))
	s.metrics.commit.Observe(time.Since(start).Seconds())
	s.metrics.rowsWritten.Add(float64(out.Rows))
	return out, nil
}

// prepare checks and derives one change.
func (s *Store) prepare(c Change) *item {
	e := c.Event
	it := &item{ev: e, rev: e.Rev, at: derive.Datetime(e.Time), notify: c.Live || s.cfg.NotifyBackfill}
	if !touchesTables(e.Type) {
		return it
	}
	it.kind, it.uri = derive.KindOf(e.Collection), e.URI()
	if it.kind == derive.Unknown || e.Type == event.Delete {
		return it
	}
	if e.Backfilled() {
		it.rev += markFetched
	}
	text, err := e.RecordJSON()
	if err == nil {
		it.rec, err = s.derive.Derive(derive.Source{
			DID: e.DID, Collection: e.Collection, RKey: e.RKey, CID: e.CID, Time: e.Time, JSON: text,
		})
	}
	it.err = refusal(err)
	return it
}

// refusal makes a RejectError of anything that is wrong with a record.
func refusal(err error) error {
	var refused *derive.RejectError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &derive.RejectError{Reason: derive.BadRecord, Err: err}
}

// applyItems applies items in one transaction, or in two halves when PostgreSQL
// refuses one of them.
func (s *Store) applyItems(ctx context.Context, items []*item, out *Outcome) error {
	if len(items) == 0 {
		return nil
	}
	retry := s.cfg.Retry
	notify := retry.Notify
	retry.Notify = func(err error, attempt int, wait time.Duration) {
		s.metrics.retries.Inc()
		if notify != nil {
			notify(err, attempt, wait)
		}
	}
	err := fault.Retry(ctx, retry, func(ctx context.Context) error {
		sm, rows, err := s.attempt(ctx, items)
		if err != nil {
			return pg.Classify(err)
		}
		out.Rows += int(rows)
		for _, c := range sm.checks {
			out.Seen = append(out.Seen, c)
		}
		return nil
	})
	if err == nil || fault.ClassOf(err) != fault.Permanent || ctx.Err() != nil {
		return err
	}
	if len(items) > 1 {
		s.metrics.halved.Inc()
		half := len(items) / 2
		if err := s.applyItems(ctx, items[:half], out); err != nil {
			return err
		}
		return s.applyItems(ctx, items[half:], out)
	}
	return s.refuse(ctx, items[0], err, out)
}

// refuse applies what remains of a change that PostgreSQL does not take: its
// account was seen.
func (s *Store) refuse(ctx context.Context, it *item, cause error, out *Outcome) error {
	if it.err != nil || !touchesTables(it.ev.Type) {
		return cause
	}
	it.rec, it.err = nil, &derive.RejectError{Reason: derive.BadValue, Err: cause}
	err := s.applyItems(ctx, []*item{it}, out)
	if fault.ClassOf(err) == fault.Permanent {
		it.result = Rejected // not even the account can be stored
		return nil
	}
	return err
}

// maxRounds bounds how often a transaction reads before it writes: what is read
// last depends on what was read before, five steps up a thread at most.
const maxRounds = 16

// uniqueViolation is the SQLSTATE of a row that is there already.
const uniqueViolation = "23505"

// attempt runs one transaction.
func (s *Store) attempt(ctx context.Context, items []*item) (*sim, int64, error) {
	l := newLocks(s.cfg.Schema)
	for _, it := range items {
		l.of(it)
	}
	t := task{locks: l, size: len(items), work: func(sm *sim) { sm.run(items); sm.expect(items) }}
	sm, rows, err := s.transact(ctx, t)
	if pg.State(err) == uniqueViolation {
		t.tolerant = true
		return s.transact(ctx, t)
	}
	return sm, rows, err
}

// task is one transaction. The locks are taken first; then open, which may read
// and lock more; then work is called, several times, each time with an empty sim
// on what has been read by then; in the end extra writes go with the others.
type task struct {
	locks *locks
	// size is about how many records it writes: the maps get room for them.
	size  int
	open  func(ctx context.Context, conn batcher) (*locks, error)
	work  func(*sim)
	extra func(*statements)
	// tolerant: see statements.
	tolerant bool
}

// settings hold until the end of a transaction. Every statement of ours looks
// rows up by their keys, whatever the planner knows of the tables.
const settings = `SELECT set_config('statement_timeout', $1, true), set_config('enable_seqscan', 'off', true),
set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)`

// transact runs one transaction: lock, then read and work out until nothing is
// missing any more, then write.
func (s *Store) transact(ctx context.Context, t task) (*sim, int64, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("take a connection: %w", err)
	}
	defer conn.Release()
	useTextArray(conn.Conn())
	sm, rows, err := s.transactOn(ctx, conn, t)
	if err != nil {
		// The connection goes back to the pool, so nothing may be left open.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, rerr := conn.Exec(end, "ROLLBACK"); rerr != nil {
			_ = conn.Conn().Close(end)
		}
		return nil, 0, err
	}
	return sm, rows, nil
}

func (s *Store) transactOn(ctx context.Context, conn *pgxpool.Conn, t task) (*sim, int64, error) {
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.Queue(settings, strconv.FormatInt(s.cfg.StatementTimeout.Milliseconds(), 10))
	if t.locks != nil {
		t.locks.queue(b)
		b.Queue(claimID)
	}
	if t.open != nil {
		if err := read(ctx, conn, b); err != nil {
			return nil, 0, fmt.Errorf("begin: %w", err)
		}
		more, err := t.open(ctx, conn)
		if err != nil {
			return nil, 0, err
		}
		b = &pgx.Batch{}
		more.queue(b)
	}
	sm, b, err := s.workOut(ctx, conn, b, t)
	if err != nil {
		return nil, 0, err
	}
	crash.Point(crash.InsideTx)
	st := &statements{b: b, tolerant: t.tolerant}
	sm.flush(s.q.writes, st)
	if t.extra != nil {
		t.extra(st)
	}
	b.Queue("COMMIT")
	if err := sendAll(ctx, conn, b); err != nil {
		return nil, 0, fmt.Errorf("write: %w", err)
	}
	return sm, st.rows, nil
}

// workOut repeats the work until it has found everything that it reads. The
// batch that it returns is empty.
func (s *Store) workOut(ctx context.Context, conn *pgxpool.Conn, b *pgx.Batch, t task) (*sim, *pgx.Batch, error) {
	c := newCache(t.size)
	sm := newSim(c, t.size)
	sm.queueHandles = s.cfg.QueueHandles
	for round := 0; ; round++ {
		sm.reset()
		t.work(sm)
		if c.missing() == 0 && b.Len() == 0 {
			return sm, b, nil
		}
		if round == maxRounds {
			return nil, nil, fault.As(fault.Fatal, errors.New("reads do not come to an end"))
		}
		c.load(&s.q, b)
		if err := sendAll(ctx, conn, b); err != nil {
			return nil, nil, fmt.Errorf("read: %w", err)
		}
		s.metrics.readRounds.Inc()
		b = &pgx.Batch{}
	}
}
