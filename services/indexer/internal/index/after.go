package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sluice/pkg/fault"
)

const (
	// laters is how many long steps run at once, laterQueue how many more may
	// wait, laterAgain the time until an entry comes again that found no room.
	laters     = 2
	laterQueue = 64
	laterAgain = 10 * time.Second
)

// later takes the long steps that follow the commit of a few entries off the
// lanes, so that no other entry waits for them. The entries are acknowledged
// after their step, and so survive a restart.
type later[T any] struct {
	p     *Pipeline[T]
	queue chan entry[T]
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	fatal  error
}

func newLater[T any](p *Pipeline[T]) *later[T] {
	return &later[T]{p: p, queue: make(chan entry[T], laterQueue)}
}

// takes says whether a step follows the commit of the entry, and then owns it.
func (l *later[T]) takes(e entry[T]) bool {
	if l.p.kind.after == nil || e.park != nil || l.p.kind.after(e.v) == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.p.consumer.Retry(0, e.d)
		return true
	}
	select {
	case l.queue <- e:
	default:
		l.p.consumer.Postpone(laterAgain, e.d)
	}
	return true
}

// start begins to work, until stop is called. Once ctx has ended entries are
// handed over. failed is called with an error that only a new process can help.
func (l *later[T]) start(ctx context.Context, failed context.CancelFunc) {
	for range laters {
		l.wg.Go(func() {
			for e := range l.queue {
				if err := l.do(ctx, e); err != nil {
					l.mu.Lock()
					l.fatal = errors.Join(l.fatal, err)
					l.mu.Unlock()
					failed()
				}
			}
		})
	}
}

// stop waits until every entry has left, and returns the error that stopped the
// work, if any.
func (l *later[T]) stop() error {
	l.mu.Lock()
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	l.wg.Wait()
	return l.fatal
}

func (l *later[T]) do(ctx context.Context, e entry[T]) error {
	if ctx.Err() != nil {
		l.p.consumer.Retry(0, e.d)
		return nil //nolint:nilerr // the entry comes again
	}
	err := l.p.retry(ctx, l.p.kind.after(e.v))
	switch {
	case err == nil:
		l.p.consumer.Ack(e.d)
		l.p.kind.done([]T{e.v})
		return nil
	case errors.Is(err, errHandOver):
		l.p.consumer.Retry(0, e.d)
		return nil
	case fault.ClassOf(err) == fault.Fatal:
		l.p.consumer.Retry(0, e.d)
		return fmt.Errorf("finish %s of %s: %w", e.d.ID, l.p.cfg.Name, err)
	case fault.ClassOf(err) == fault.Permanent:
		l.p.metrics.failed(err)
		return l.p.parkOrHandOver(ctx, e.d, err)
	default:
		l.p.metrics.failed(err)
		l.p.log.WarnContext(ctx, "entry put back", "id", e.d.ID, "delivery", e.d.Deliveries, slog.Any("err", err))
		l.p.consumer.Retry(l.p.cfg.PutBack, e.d)
		return nil
	}
}
