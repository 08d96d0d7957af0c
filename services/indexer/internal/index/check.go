package index

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

const (
	// checkers is how many values are checked at once, checkQueue how many more
	// may wait.
	checkers   = 8
	checkQueue = 256
	// checkTimeout bounds one check, checkWait the time between two of them.
	checkTimeout = 30 * time.Second
	checkWait    = 2 * time.Minute
)

// ReasonUnreachable is the reason of entries whose account could not be checked,
// and that are not applied without.
const ReasonUnreachable = event.ReasonUnreachable

// checker asks the network about the few values that need it, off the lanes,
// so that no event waits for the network. The entries stay unacknowledged, and
// so survive a restart.
type checker[T any] struct {
	p     *Pipeline[T]
	queue chan checkTask[T]
	wg    sync.WaitGroup

	mu     sync.Mutex
	failed map[string]failedCheck // by id, what has been asked about in vain
	full   map[string]bool        // ids that found no room
}

// failedCheck is how often, and since when, an answer is missing.
type failedCheck struct {
	times int
	since time.Time
}

type checkTask[T any] struct {
	e   entry[T]
	ask func(context.Context) (bool, error)
}

func newChecker[T any](p *Pipeline[T]) *checker[T] {
	return &checker[T]{p: p, queue: make(chan checkTask[T], checkQueue), failed: map[string]failedCheck{}, full: map[string]bool{}}
}

// knows says whether an entry was put off for its check.
func (c *checker[T]) knows(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.failed[id]
	return ok || c.full[id]
}

// takes says whether the entry needs a check, and then owns it.
func (c *checker[T]) takes(e entry[T]) bool {
	if c.p.kind.check == nil {
		return false
	}
	ask := c.p.kind.check(e.v)
	if ask == nil {
		return false
	}
	select {
	case c.queue <- checkTask[T]{e: e, ask: ask}:
		c.mu.Lock()
		delete(c.full, e.d.ID)
		c.mu.Unlock()
	default:
		c.mu.Lock()
		c.full[e.d.ID] = true
		c.mu.Unlock()
		c.p.consumer.Postpone(c.p.cfg.CheckAgain, e.d)
	}
	return true
}

// start begins to check, until stop is called. Once ctx has ended entries are
// handed over.
func (c *checker[T]) start(ctx context.Context) {
	for range checkers {
		c.wg.Go(func() {
			for t := range c.queue {
				c.do(ctx, t)
			}
		})
	}
}

// stop waits until every entry has left. Nothing may be given to takes any more.
func (c *checker[T]) stop() {
	close(c.queue)
	c.wg.Wait()
}

func (c *checker[T]) do(ctx context.Context, t checkTask[T]) {
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	yes, err := t.ask(asking)
	cancel()
	switch {
	case ctx.Err() != nil:
		c.p.consumer.Retry(0, t.e.d)
	case err != nil:
		c.unanswered(ctx, t.e, err)
	case yes:
		c.forget(t.e.d.ID)
		c.submit(ctx, t.e)
	default:
		c.forget(t.e.d.ID)
		c.p.consumer.Ack(t.e.d)
		c.p.kind.done([]T{t.e.v})
	}
}

// unanswered puts an entry off, until there has been no answer for so long that
// it has to be decided without.
func (c *checker[T]) unanswered(ctx context.Context, e entry[T], cause error) {
	times, since := c.fails(e.d.ID)
	if time.Since(since) < c.p.cfg.CheckLimit {
		wait := fault.Backoff{Initial: c.p.cfg.CheckAgain, Max: checkWait}.Delay(times)
		c.p.log.DebugContext(ctx, "event put off until its account can be checked", "id", e.d.ID, "wait", wait.String(), slog.Any("err", cause))
		c.p.consumer.Postpone(wait, e.d)
		return
	}
	c.forget(e.d.ID)
	if c.p.kind.unchecked(e.v) {
		c.p.log.WarnContext(ctx, "event applied though its account could not be checked", "id", e.d.ID, slog.Any("err", cause))
		c.submit(ctx, e)
		return
	}
	if err := c.p.parkOrHandOver(ctx, e.d, event.Drop(ReasonUnreachable, cause)); err != nil {
		c.p.log.ErrorContext(ctx, "entry not parked", "id", e.d.ID, slog.Any("err", err))
	}
}

func (c *checker[T]) submit(ctx context.Context, e entry[T]) {
	key := c.p.kind.key(e.v)
	if err := c.p.submit(ctx, key, e); err != nil {
		c.p.log.ErrorContext(ctx, "entry not submitted", "id", e.d.ID, slog.Any("err", err))
	}
}

// fails counts an answer that is missing.
func (c *checker[T]) fails(id string) (times int, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.failed[id]
	if !ok {
		f.since = time.Now()
	}
	f.times++
	c.failed[id] = f
	return f.times, f.since
}

func (c *checker[T]) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failed, id)
}
