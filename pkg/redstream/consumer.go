package redstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/fault"
)

// ConsumerConfig describes one consumer of one group.
type ConsumerConfig struct {
	// Group is created at 0 where it does not exist. Consumer is unique in the
	// group and the same after a restart: the host name.
	Group, Consumer string
	// Streams are read side by side, each by goroutines and a connection of
	// its own.
	Streams []string
	// Batch is the COUNT of a read. Default 500.
	Batch int
	// Window is the most entries of one stream held unacknowledged before
	// reading stops; entries of dead consumers may be a quarter more. Default
	// 4 × Batch, never below Batch.
	Window int
	// Block is the wait of one blocking read, and so bounds the time that a
	// stop takes. Default and at most 1s.
	Block time.Duration
	// ClaimIdle is the idle time after which others may take an entry. Entries
	// held are kept alive three times as often. Default 60s.
	ClaimIdle time.Duration
	// MaxDeliveries bounds how often an entry is handed out; then it is parked
	// with the reason "poison". Default 5.
	MaxDeliveries int64
	// DeadLetters names the stream of dead letters of a stream. Default: the
	// name of the stream + "_dlq".
	DeadLetters map[string]string
}

func (cfg ConsumerConfig) withDefaults() ConsumerConfig {
	if cfg.Batch <= 0 {
		cfg.Batch = 500
	}
	if cfg.Window <= 0 {
		cfg.Window = 4 * cfg.Batch
	}
	cfg.Window = max(cfg.Window, cfg.Batch)
	if cfg.Block <= 0 || cfg.Block > time.Second {
		cfg.Block = time.Second
	}
	if cfg.ClaimIdle <= 0 {
		cfg.ClaimIdle = time.Minute
	}
	if cfg.MaxDeliveries <= 0 {
		cfg.MaxDeliveries = 5
	}
	return cfg
}

func (cfg ConsumerConfig) validate() error {
	var errs []error
	if cfg.Group == "" {
		errs = append(errs, errors.New("group is empty"))
	}
	if cfg.Consumer == "" {
		errs = append(errs, errors.New("consumer is empty"))
	}
	if len(cfg.Streams) == 0 {
		errs = append(errs, errors.New("no stream"))
	}
	seen := make(map[string]bool)
	for _, s := range cfg.Streams {
		if s == "" || seen[s] {
			errs = append(errs, fmt.Errorf("stream %q is empty or named twice", s))
		}
		seen[s] = true
	}
	return fault.As(fault.Fatal, errors.Join(errs...))
}

// Handler takes entries. Blocking is back-pressure. Every delivery must in the
// end be given to exactly one of Ack, Retry or Park. An error stops the
// consumer. For one stream one call runs at a time, in the order of the stream;
// calls for several streams run at the same time.
type Handler func(ctx context.Context, batch []Delivery) error

// Consumer is one member of a consumer group.
type Consumer struct {
	c       *Client
	cfg     ConsumerConfig
	log     *slog.Logger
	streams []*source
	bad     atomic.Bool

	mu      sync.Mutex
	state   state
	stop    context.CancelFunc // ends the goroutines that outlive Run
	done    chan struct{}      // closed when they have ended
	stopped chan struct{}      // closed when Run has returned
}

type state uint8

const (
	fresh state = iota
	running
	over
)

// NewConsumer checks the configuration. Nothing runs before Run.
func (c *Client) NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	cons := &Consumer{
		c: c, cfg: cfg, done: make(chan struct{}), stopped: make(chan struct{}),
		log: c.log.With(slog.String("group", cfg.Group), slog.String("consumer", cfg.Consumer)),
	}
	for _, name := range cfg.Streams {
		s, err := newSource(cons, name)
		if err != nil {
			return nil, err
		}
		cons.streams = append(cons.streams, s)
	}
	return cons, nil
}

// Run reads until ctx ends (take no more); then it returns with nothing lost:
// what was handed out stays with the handler, Close finishes it. It returns
// early only with an error of the handler, or when no stream can be read.
// A Consumer runs once.
func (cons *Consumer) Run(ctx context.Context, h Handler) error {
	if err := cons.start(ctx); err != nil {
		return err
	}
	defer close(cons.stopped)
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range cons.streams {
		g.Go(func() error {
			if err := s.read(ctx); err != nil {
				return fmt.Errorf("read %s: %w", s.key, err)
			}
			return nil
		})
		g.Go(func() error { return s.dispatch(ctx, h) })
		g.Go(func() error {
			s.claim(ctx)
			return nil
		})
	}
	return g.Wait()
}

// start begins the duties that go on until Close: acks, keep-alive, heartbeat.
func (cons *Consumer) start(ctx context.Context) error {
	cons.mu.Lock()
	defer cons.mu.Unlock()
	if cons.state != fresh {
		return fmt.Errorf("run %s: %w", cons.cfg.Consumer, ErrClosed)
	}
	cons.state = running
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	cons.stop = stop
	var wg sync.WaitGroup
	for _, s := range cons.streams {
		wg.Go(func() { s.acker(behind) })
		wg.Go(func() { s.keepAlive(behind) })
		wg.Go(func() { s.heartbeat(behind) })
	}
	go func() {
		wg.Wait()
		close(cons.done)
	}()
	return nil
}

// source returns the state of the stream that d came from.
func (cons *Consumer) source(name string) *source {
	i := slices.IndexFunc(cons.streams, func(s *source) bool { return s.stream == name })
	if i < 0 {
		return nil
	}
	return cons.streams[i]
}

// runs calls f with each stretch of ds that belongs to one stream.
func (cons *Consumer) runs(ds []Delivery, f func(*source, []Delivery)) {
	for len(ds) > 0 {
		n := 1
		for n < len(ds) && strings.Compare(ds[n].Stream, ds[0].Stream) == 0 {
			n++
		}
		if s := cons.source(ds[0].Stream); s != nil {
			f(s, ds[:n])
		}
		ds = ds[n:]
	}
}

// Unhealthy opens (true) or closes the circuit breaker: while it is open
// nothing is claimed, counted or parked as poison.
func (cons *Consumer) Unhealthy(bad bool) {
	if cons.bad.Swap(bad) == bad {
		return
	}
	v := 0.0
	if bad {
		v = 1
	}
	for _, s := range cons.streams {
		cons.c.metrics.breaker.WithLabelValues(s.stream, cons.cfg.Group).Set(v)
	}
}

// Ack queues acknowledgements; failed acks are retried. Safe for concurrent use.
func (cons *Consumer) Ack(ds ...Delivery) {
	cons.runs(ds, func(s *source, ds []Delivery) { s.acks.add(ds) })
}

// Retry gives entries up for now: they stay pending and are delivered again
// after d. This consumer keeps them alive meanwhile and hands them out again
// itself; if it dies, another one claims them.
func (cons *Consumer) Retry(d time.Duration, ds ...Delivery) {
	due := time.Now().Add(d)
	cons.runs(ds, func(s *source, ds []Delivery) { s.held.later(due, ds) })
}

// Held is the number of entries handed out or waiting, over all streams.
func (cons *Consumer) Held() int {
	n := 0
	for _, s := range cons.streams {
		n += s.held.size()
	}
	return n
}
