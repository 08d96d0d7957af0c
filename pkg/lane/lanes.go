package lane

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// ErrClosed is returned by Submit after Drain or after Run has returned.
var ErrClosed = errors.New("lane: closed")

// Config sizes the lanes.
type Config struct {
	// Name tells the lanes of one process apart in the metrics ("live").
	Name string
	// Lanes is how many batches are applied at once. Default 1.
	Lanes int
	// Batch is the most values of one apply. Default 500.
	Batch int
	// Wait is how long a batch that is not full waits for more. Zero applies
	// as soon as the lane has nothing more to take.
	Wait time.Duration
	// Queue is how many values wait in front of each lane. Default Batch.
	Queue int
	// Yield, if set, is called before a batch is applied: it may hold the lane
	// back while more urgent work waits.
	Yield func(ctx context.Context)
	// Turns bounds how many lanes apply at once; nil is all of them. A batch
	// that is not full grows while its lane waits for its turn.
	Turns *Turns
	// Registerer takes the metrics; nil exports none.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "default"
	}
	c.Lanes = max(c.Lanes, 1)
	if c.Batch <= 0 {
		c.Batch = 500
	}
	if c.Queue <= 0 {
		c.Queue = c.Batch
	}
	return c
}

// Lanes applies values of type T in batches, those of one key in order.
type Lanes[T any] struct {
	cfg     Config
	apply   func(ctx context.Context, batch []T) error
	seed    maphash.Seed
	queues  []chan T
	metrics *metrics

	closing chan struct{} // closed when Drain begins: nothing more is taken
	stopped chan struct{} // closed when Run has returned
	drain   sync.Once
	stop    sync.Once

	mu     sync.RWMutex // held for reading by every Submit in progress
	closed bool         // the queues are closed; nobody may send
}

// New returns lanes that call apply with one to Config.Batch values of one
// lane. Calls of one lane never overlap; apply may keep the slice, but not
// after it has returned. An error of apply ends Run.
func New[T any](cfg Config, apply func(ctx context.Context, batch []T) error) *Lanes[T] {
	cfg = cfg.withDefaults()
	l := &Lanes[T]{
		cfg: cfg, apply: apply, seed: maphash.MakeSeed(), queues: make([]chan T, cfg.Lanes),
		closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	for i := range l.queues {
		l.queues[i] = make(chan T, cfg.Queue)
	}
	l.metrics = newMetrics(cfg, l.depth)
	return l
}

// Submit puts v into the lane of key. It blocks while that lane is full, until
// ctx ends (its error) or the lanes close (ErrClosed). Nil means that v will be
// applied, unless Run ends early. Safe for concurrent use; the order of one key
// is the order in which its Submits return.
func (l *Lanes[T]) Submit(ctx context.Context, key string, v T) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case <-l.closing:
		return ErrClosed
	case <-l.stopped:
		return ErrClosed
	default:
	}
	q := l.queues[maphash.String(l.seed, key)%uint64(len(l.queues))]
	select {
	case q <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closing:
		return ErrClosed
	case <-l.stopped:
		return ErrClosed
	}
}

// Run applies until Drain has emptied the lanes (nil), apply fails (its error),
// or ctx ends (its error; what was not applied is given up). ctx is that of
// the work: it should outlive the moment when nothing more is submitted.
func (l *Lanes[T]) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, q := range l.queues {
		g.Go(func() error {
			if err := l.runLane(ctx, q); err != nil {
				return fmt.Errorf("lane %d of %s: %w", i, l.cfg.Name, err)
			}
			return nil
		})
	}
	err := g.Wait()
	l.stop.Do(func() { close(l.stopped) })
	return err
}

// Drain takes nothing more and waits until Run has applied what was submitted,
// or until ctx ends. It may be called more than once.
func (l *Lanes[T]) Drain(ctx context.Context) error {
	l.drain.Do(func() {
		close(l.closing) // ends the Submits that wait for room
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed = true
		for _, q := range l.queues {
			close(q)
		}
	})
	select {
	case <-l.stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// depth is the number of values that wait.
func (l *Lanes[T]) depth() float64 {
	n := 0
	for _, q := range l.queues {
		n += len(q)
	}
	return float64(n)
}

func (l *Lanes[T]) runLane(ctx context.Context, q <-chan T) error {
	batch := make([]T, 0, l.cfg.Batch)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v, open := <-q:
			if !open {
				return nil
			}
			batch = append(batch[:0], v)
		}
		var err error
		if batch, err = l.takeTurn(ctx, q, batch); err != nil {
			return err
		}
		clear(batch)
	}
}

// takeTurn applies a batch that begins with what is in batch.
func (l *Lanes[T]) takeTurn(ctx context.Context, q <-chan T, batch []T) ([]T, error) {
	batch = l.collect(ctx, q, batch, l.cfg.Wait)
	done := func(int, time.Duration) {}
	if l.cfg.Turns != nil {
		var err error
		if done, err = l.cfg.Turns.Take(ctx); err != nil {
			return batch, err
		}
	}
	if l.cfg.Yield != nil {
		l.cfg.Yield(ctx)
	}
	batch = l.collect(ctx, q, batch, 0)
	start := time.Now()
	if err := l.apply(ctx, batch); err != nil {
		done(0, 0)
		return batch, err
	}
	took := time.Since(start)
	done(len(batch), took)
	l.metrics.observe(len(batch), took)
	return batch, nil
}

// collect fills batch until it is full, the wait is over, the queue is closed,
// or ctx ends.
func (l *Lanes[T]) collect(ctx context.Context, q <-chan T, batch []T, wait time.Duration) []T {
	for len(batch) < l.cfg.Batch {
		select {
		case v, open := <-q:
			if !open {
				return batch
			}
			batch = append(batch, v)
			continue
		default:
		}
		if wait <= 0 {
			return batch
		}
		break
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for len(batch) < l.cfg.Batch {
		select {
		case v, open := <-q:
			if !open {
				return batch
			}
			batch = append(batch, v)
		case <-timer.C:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}
