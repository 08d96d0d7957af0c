package index

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/pkg/fault"
)

const (
	// checkers is how many values are checked at once, checkQueue how many more
	// may wait.
	checkers   = 8
	checkQueue = 256
	// checkTimeout bounds one check; checkLater is the time until an entry comes
	// again that found no room.
	checkTimeout = 30 * time.Second
	checkLater   = 5 * time.Second
)

// checker asks the network about the few values that need it, off the lanes,
// so that no event waits for the network. The entries stay unacknowledged, and
// so survive a restart.
type checker[T any] struct {
	p     *Pipeline[T]
	queue chan checkTask[T]
	wg    sync.WaitGroup
}

type checkTask[T any] struct {
	e   entry[T]
	ask func(context.Context) (bool, error)
}

func newChecker[T any](p *Pipeline[T]) *checker[T] {
	return &checker[T]{p: p, queue: make(chan checkTask[T], checkQueue)}
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
	default:
		c.p.consumer.Retry(checkLater, e.d)
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
		wait := fault.Backoff{Initial: 5 * time.Second, Max: 2 * time.Minute}.Delay(int(t.e.d.Deliveries))
		c.p.log.WarnContext(ctx, "event put back until its account can be checked", "id", t.e.d.ID, "wait", wait.String(), slog.Any("err", err))
		c.p.consumer.Retry(wait, t.e.d)
	case yes:
		if err := c.p.submit(ctx, c.p.kind.key(t.e.v), t.e); err != nil {
			c.p.log.ErrorContext(ctx, "entry not submitted", "id", t.e.d.ID, slog.Any("err", err))
		}
	default:
		c.p.consumer.Ack(t.e.d)
		c.p.kind.done([]T{t.e.v})
	}
}
