package repos

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/pkg/crash"
	"sluice/pkg/redstream"
)

// batchBytes bounds the entries of one append, beside their number.
const batchBytes = 8 << 20

// writer appends the judged slots of one relay in the order of their sequence.
// Its cursor is the lowest unfinished slot: a slot that is not judged yet
// holds back all that follow.
type writer struct {
	p     *session
	relay *relay

	head     *slot // taken from the relay's slots, not judged when the batch before it ended
	timeKept time.Time
}

// run appends until slots is closed and everything in it is durable. ctx ends
// the attempt: what is not durable then comes again from the relay.
func (w *writer) run(ctx context.Context) error {
	for {
		b, err := w.collect(ctx)
		if err != nil || b == nil {
			return err
		}
		if err := w.flush(ctx, b); err != nil {
			return err
		}
	}
}

// batch is what one append holds.
type batch struct {
	slots  []*slot
	events int
	bytes  int64
}

func (b *batch) add(s *slot) {
	b.slots = append(b.slots, s)
	if e := s.out.entry; e != nil {
		b.events += len(e.fields)
		b.bytes += e.bytes
	}
}

// collect takes the judged slots at the head of the queue: until the batch is
// full, it has waited for the timeout, or the socket has nothing more to give.
// It returns nil when slots is closed and empty.
func (w *writer) collect(ctx context.Context) (*batch, error) {
	first, err := w.next(ctx)
	if err != nil || first == nil {
		return nil, err
	}
	select {
	case <-first.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b := &batch{}
	b.add(first)
	timeout := time.NewTimer(w.p.cfg.BatchTimeout)
	defer timeout.Stop()
	for !w.full(b) && !b.slots[len(b.slots)-1].out.rewind {
		s, more := w.take(ctx, timeout.C)
		if !more {
			return b, nil
		}
		if !w.await(ctx, s, timeout.C) {
			w.head = s
			return b, nil
		}
		b.add(s)
	}
	return b, nil
}

func (w *writer) full(b *batch) bool {
	return b.events >= w.p.cfg.BatchSize || b.bytes >= batchBytes || len(b.slots) >= 4*w.p.cfg.BatchSize
}

// next waits for a slot.
func (w *writer) next(ctx context.Context) (*slot, error) {
	if s := w.head; s != nil {
		w.head = nil
		return s, nil
	}
	select {
	case s := <-w.relay.slots:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take returns the next slot, if one comes before the socket has nothing more
// to give or the batch has to go.
func (w *writer) take(ctx context.Context, timeout <-chan time.Time) (*slot, bool) {
	for {
		select {
		case s, open := <-w.relay.slots:
			return s, open
		default:
		}
		if w.relay.idle.Load() && len(w.relay.slots) == 0 {
			return nil, false
		}
		select {
		case s, open := <-w.relay.slots:
			return s, open
		case <-w.relay.idled: // or was, before the last frames: look again
		case <-timeout:
			return nil, false
		case <-ctx.Done():
			return nil, false
		}
	}
}

// await says whether s is judged before the batch has to go. It has to go at
// once when nothing has been read after s and nothing is to come.
func (w *writer) await(ctx context.Context, s *slot, timeout <-chan time.Time) bool {
	for !s.judged() {
		if w.relay.idle.Load() && len(w.relay.slots) == 0 {
			return false
		}
		select {
		case <-s.done:
			return true
		case <-w.relay.idled:
		case <-timeout:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// flush makes a batch durable: first what has to be durable before the cursor
// passes it, then the entries with the cursor.
func (w *writer) flush(ctx context.Context, b *batch) error {
	if err := w.durable(ctx, b); err != nil {
		return err
	}
	w.relay.release(b)
	w.keepTime(ctx)
	return nil
}

func (w *writer) durable(ctx context.Context, b *batch) error {
	defer w.p.deps.Pressure.Begin()()
	if b.events > 0 {
		if err := w.p.deps.Gate.Wait(ctx); err != nil {
			return err
		}
	}
	if err := w.p.turn.take(ctx); err != nil {
		return err
	}
	defer w.p.turn.give()
	return w.append(ctx, b)
}

// states are the new ends of the repositories in the batch. They are saved in
// the same step as the entries: a state that is behind would look like a broken
// chain after a crash, one that is ahead like a commit that is there already.
func (b *batch) states() (dids, values []string) {
	latest := make(map[string]int, len(b.slots))
	for _, s := range b.slots {
		if s.out.state == "" {
			continue
		}
		if i, ok := latest[s.did]; ok {
			values[i] = s.out.state
			continue
		}
		latest[s.did] = len(dids)
		dids, values = append(dids, s.did), append(values, s.out.state)
	}
	return dids, values
}

// keepTime saves the event time of the cursor now and then: the beginning of
// the gap, should the relay forget what comes after the cursor.
func (w *writer) keepTime(ctx context.Context) {
	const every = 10 * time.Second
	at := w.relay.lastTime.Load()
	if at == 0 || time.Since(w.timeKept) < every {
		return
	}
	w.timeKept = time.Now()
	value := time.Unix(0, at).UTC().Format(time.RFC3339)
	if err := w.p.deps.Cursors.SetCursor(ctx, w.relay.timeKey(), value); err != nil {
		w.p.metrics.stateErrors.Inc()
	}
}

// append runs in the write turn, so that the check whether another relay has
// brought an entry and the append of it are one step within the process.
func (w *writer) append(ctx context.Context, b *batch) error {
	plan := w.plan(b)
	started := time.Now()
	if err := w.aside(ctx, b); err != nil {
		return err
	}
	crash.Point(crash.AfterReadBeforeAdd)
	if len(plan.late) > 0 {
		if err := w.p.deps.Stream.Append(ctx, plan.late); err != nil {
			return fmt.Errorf("append %d late entries: %w", len(plan.late), err)
		}
	}
	if plan.upTo > 0 {
		dids, states := b.states()
		if _, err := w.p.deps.Stream.AppendSeqNoting(ctx, w.relay.cursorKey(), plan.items, plan.upTo, w.p.deps.States, dids, states); err != nil {
			return fmt.Errorf("append %d entries of %s: %w", len(plan.items), w.relay.host.Name, err)
		}
		w.relay.saved.Store(plan.upTo)
		w.p.metrics.savedSeq.Set(float64(plan.upTo))
	}
	crash.Point(crash.AfterAddBeforeReply)
	for _, e := range plan.entries {
		e.written = true
		w.p.pending.remove(e)
		w.p.metrics.wrote(e)
		w.p.deps.Written.Observe(e.time)
	}
	if n := len(plan.items) + len(plan.late); n > 0 {
		w.p.metrics.streamed.Add(float64(n))
		w.p.metrics.batchEvents.Observe(float64(n))
		w.p.metrics.batchSeconds.Observe(time.Since(started).Seconds())
	}
	return w.rewind(ctx, b)
}

// plan is what of a batch goes to the stream.
type plan struct {
	entries []*entry
	items   []redstream.Item
	late    []redstream.Item
	upTo    int64
}

func (w *writer) plan(b *batch) plan {
	p := plan{items: make([]redstream.Item, 0, b.events)}
	taken := map[*entry]bool{}
	for _, s := range b.slots {
		if s.seq > p.upTo && !s.late {
			p.upTo = s.seq
		}
		e := s.out.entry
		if e == nil || e.written || taken[e] {
			continue
		}
		if e.key != "" {
			taken[e] = true
		}
		p.entries = append(p.entries, e)
		for i := range e.fields {
			item := redstream.Item{Seq: s.seq, Fields: e.fields[i : i+1]}
			if s.late {
				p.late = append(p.late, item)
			} else {
				p.items = append(p.items, item)
			}
		}
	}
	return p
}

// aside makes durable what does not go to the stream: repositories to be
// fetched, frames to be parked. Repeating it is harmless.
func (w *writer) aside(ctx context.Context, b *batch) error {
	var dids []string
	for _, s := range b.slots {
		if s.out.fatal != nil {
			return s.out.fatal
		}
		if s.out.resync {
			dids = append(dids, s.did)
		}
		if s.out.dead != nil {
			if err := w.p.dead.Park(ctx, w.relay.host.Name, s.out.dead); err != nil {
				return err
			}
		}
	}
	if len(dids) == 0 {
		return nil
	}
	over, err := w.p.resyncs.schedule(ctx, dids)
	if err != nil || over == 0 {
		return err
	}
	return w.relay.doubt(ctx)
}

// rewind sets the cursor back when the relay no longer knows it. The slot
// that asks for it is the last of its batch.
func (w *writer) rewind(ctx context.Context, b *batch) error {
	last := b.slots[len(b.slots)-1]
	if !last.out.rewind {
		return nil
	}
	w.p.log.WarnContext(ctx, "cursor set back to the start of what the relay has", slog.String("relay", w.relay.host.Name))
	err := w.p.retry(ctx, "set back cursor", func(ctx context.Context) error {
		return w.p.deps.Cursors.SetCursor(ctx, w.relay.cursorKey(), "0")
	})
	if err != nil {
		return err
	}
	w.p.deps.Stream.Resume(w.relay.cursorKey())
	w.relay.saved.Store(0)
	close(last.out.durable)
	return nil
}

// turn lets one writer at a time append.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }
