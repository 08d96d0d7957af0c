// Package index takes entries from the streams to the store: it reads them as a
// member of a consumer group, decodes them, applies them in batches, those of
// one repository in order, and acknowledges them after the commit that holds
// their effect.
//
// Every stream has a pipeline of its own, with its own reader, lanes and share
// of the connections, so a long backfill cannot hold up live events.
package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/lane"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
)

// Config describes the pipeline of one stream.
type Config struct {
	// Name tells the pipelines apart in metrics and logs: the stream.
	Name string
	// Stage is the name of the event-time lag: live, backfill or label.
	Stage string
	// Consumer describes the member of the group. Streams is set from Name.
	Consumer redstream.ConsumerConfig
	// Lanes is how many batches are applied at once. It must not exceed the
	// connections that the applier may use at once. Default 8.
	Lanes int
	// Batch is the most entries of one transaction. Default 500.
	Batch int
	// Wait is how long a batch that is not full waits for more. Zero applies
	// what is there.
	Wait time.Duration
	// Grace is the time for work in hand after a stop.
	Grace time.Duration
	// Attempts is how often a batch is tried, with a database that answers,
	// before it is split to find the entry that fails. Default 4.
	Attempts int
	// PutBack is the time until an entry that failed alone is tried again.
	// Default 10s.
	PutBack time.Duration
	// CheckAgain is the time until an account that could not be checked is
	// checked again, at first. Default 5s. CheckLimit is how long that goes on
	// before it is decided without. Default 10m.
	CheckAgain, CheckLimit time.Duration
	// Ping says whether the database answers.
	Ping func(context.Context) error
	// Elsewhere, if set, says that a transient error has nothing to do with what
	// was to be applied. It is waited out, however long it takes.
	Elsewhere func(error) bool
	// Ordered applies in the order of the stream while the pipeline keeps up.
	Ordered bool
	// Yield, if set, holds a batch back while more urgent work waits.
	Yield func(context.Context)
}

func (c Config) withDefaults() Config {
	if c.Lanes <= 0 {
		c.Lanes = 8
	}
	if c.Batch <= 0 {
		c.Batch = 500
	}
	if c.Attempts <= 0 {
		c.Attempts = 4
	}
	if c.PutBack <= 0 {
		c.PutBack = 10 * time.Second
	}
	if c.CheckAgain <= 0 {
		c.CheckAgain = 5 * time.Second
	}
	if c.CheckLimit <= 0 {
		c.CheckLimit = 10 * time.Minute
	}
	c.Consumer.Streams = []string{c.Name}
	c.Consumer.Batch = c.Batch
	if c.Consumer.Window <= 0 {
		// So much that the lanes that wait for their turn find full batches.
		c.Consumer.Window = 2*c.Batch + c.Lanes*c.Batch
	}
	return c
}

// kind says how the entries of a pipeline are read and applied.
type kind[T any] struct {
	// decode reads an entry. With an error the entry is parked; if a value
	// comes with the error, that is applied before.
	decode func(redstream.Delivery) (v T, ok bool, err error)
	// key chooses the lane; values of one key are applied in order.
	key func(T) string
	// apply makes the values durable, all or none. refused, if there is any,
	// says for each value why the database does not take it, nil if it does:
	// what is refused is parked.
	apply func(ctx context.Context, values []T) (refused []error, err error)
	// after, if set, returns the long step that follows the commit of a value
	// before its entry is acknowledged; nil for a value that has none. It runs
	// off the lanes, in no order, and must bear to be repeated.
	after func(T) func(context.Context) error
	// check, if set, is asked before a value is applied, off the lanes: whether
	// it is to be applied at all. nil for a value that needs no check. A
	// Transient error means that it is to be asked again later.
	check func(T) func(context.Context) (bool, error)
	// unchecked says whether a value is applied that could not be checked for
	// long; else it is parked.
	unchecked func(T) bool
	// time is the event time of a value, zero if it has none.
	time func(T) time.Time
	// done is told of what has been applied.
	done func([]T)
}

// entry is one entry on its way.
type entry[T any] struct {
	d redstream.Delivery
	v T
	// park, if set, sends the entry to the dead letters once v is applied.
	park error
}

// Pipeline moves the entries of one stream.
type Pipeline[T any] struct {
	cfg      Config
	kind     kind[T]
	consumer *redstream.Consumer
	lanes    *lane.Lanes[entry[T]]
	checks   *checker[T]
	later    *later[T]
	order    order
	breaker  *breaker
	metrics  *stageMetrics
	log      *slog.Logger
}

func newPipeline[T any](c *redstream.Client, cfg Config, k kind[T], m *Metrics, log *slog.Logger) (*Pipeline[T], error) {
	cfg = cfg.withDefaults()
	consumer, err := c.NewConsumer(cfg.Consumer)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", cfg.Name, err)
	}
	p := &Pipeline[T]{
		cfg: cfg, kind: k, consumer: consumer, metrics: m.stage(cfg.Stage, consumer.Held, consumer.AckFailures),
		log: log.With("component", "index", "stream", cfg.Name),
	}
	p.breaker = &breaker{switched: consumer.Unhealthy, ping: cfg.Ping}
	p.checks, p.later = newChecker(p), newLater(p)
	return p, nil
}

// Run works until ctx ends, then applies what was read within the grace time
// and hands over the rest. It returns early with an error that only a new
// process can help.
func (p *Pipeline[T]) Run(ctx context.Context) error {
	work, end := proc.WorkContext(ctx, p.cfg.Grace)
	defer end()
	// The lanes outlive the grace time, since each entry in them is to be
	// handed over.
	p.lanes = lane.New(lane.Config{
		Name: p.cfg.Name, Lanes: p.cfg.Lanes, Batch: p.cfg.Batch, Wait: p.cfg.Wait, Queue: p.cfg.Batch,
		Yield: p.yield(work), Turns: lane.NewTurns(p.cfg.Lanes, p.cfg.Batch/4), Registerer: p.metrics.reg,
	}, func(_ context.Context, batch []entry[T]) error { return p.applyBatch(work, batch) })
	forever := context.WithoutCancel(ctx)
	g, reading := errgroup.WithContext(ctx)
	reading, stop := context.WithCancel(reading)
	defer stop()
	g.Go(func() error { return p.lanes.Run(forever) })
	g.Go(func() error {
		p.checks.start(reading)
		p.later.start(work, stop)
		err := p.consumer.Run(reading, p.handle)
		p.checks.stop()
		err = errors.Join(err, p.lanes.Drain(forever))
		return errors.Join(err, p.later.stop())
	})
	err := g.Wait()
	closing, cancel := context.WithTimeout(forever, closeTimeout)
	defer cancel()
	if closeErr := p.consumer.Close(closing); closeErr != nil {
		p.log.WarnContext(ctx, "consumer not closed in order", slog.Any("err", closeErr))
	}
	if ctx.Err() != nil && fault.ClassOf(err) != fault.Fatal {
		return nil // the stop was asked for; what is not acknowledged comes back
	}
	return err
}

// yield lets more urgent work go first, until there is no time left.
func (p *Pipeline[T]) yield(work context.Context) func(context.Context) {
	if p.cfg.Yield == nil {
		return nil
	}
	return func(context.Context) { p.cfg.Yield(work) }
}

// Busy says whether entries wait for a lane in numbers: this pipeline is behind.
func (p *Pipeline[T]) Busy() bool { return p.consumer.Held() >= p.cfg.Batch }

// closeTimeout bounds the last acknowledgements and the hand-over.
const closeTimeout = 5 * time.Second

// handle takes what the consumer has read. It blocks while a lane is full, and
// so stops the reading.
func (p *Pipeline[T]) handle(ctx context.Context, batch []redstream.Delivery) error {
	// What was put off says nothing about the stream.
	if !p.checks.knows(batch[0].ID) {
		if err := p.order.next(ctx, batch, p.cfg.Batch); err != nil {
			p.consumer.Retry(0, batch...)
			return nil //nolint:nilerr // the stop was asked for
		}
	}
	for i, d := range batch {
		v, ok, err := p.kind.decode(d)
		if err != nil && !ok {
			if err := p.parkUntil(ctx, d, err); err != nil {
				p.consumer.Retry(0, batch[i:]...)
				return err
			}
			continue
		}
		e := entry[T]{d: d, v: v, park: err}
		if p.checks.takes(e) {
			continue
		}
		key := p.kind.key(v)
		if p.cfg.Ordered {
			key = p.order.lane(key)
		}
		if err := p.submit(ctx, key, e); err != nil {
			p.consumer.Retry(0, batch[i+1:]...)
			return err
		}
		if ctx.Err() != nil {
			p.consumer.Retry(0, batch[i+1:]...)
			break
		}
	}
	return nil
}

// submit gives an entry to the lane of key, or hands it over if there is a
// stop. It is safe for concurrent use.
func (p *Pipeline[T]) submit(ctx context.Context, key string, e entry[T]) error {
	p.order.inLanes.Add(1)
	err := p.lanes.Submit(ctx, key, e)
	if err == nil {
		return nil
	}
	p.order.settled(1)
	p.consumer.Retry(0, e.d)
	if ctx.Err() != nil || errors.Is(err, lane.ErrClosed) {
		return nil //nolint:nilerr // the stop was asked for
	}
	return err
}

// parkUntil parks d however often it takes. An error means that ctx ended or
// that the process must stop.
func (p *Pipeline[T]) parkUntil(ctx context.Context, d redstream.Delivery, cause error) error {
	reason := reasonOf(cause)
	err := fault.Retry(ctx, fault.Backoff{Max: 5 * time.Second}, func(ctx context.Context) error {
		return p.consumer.Park(ctx, d, string(reason), cause)
	})
	if err != nil {
		return fmt.Errorf("park %s of %s: %w", d.ID, p.cfg.Name, err)
	}
	p.metrics.parked(reason)
	p.log.WarnContext(ctx, "entry parked", "id", d.ID, "reason", string(reason), slog.Any("err", cause))
	return nil
}

// parkOrHandOver parks d, or leaves it to be delivered again if there is no
// time left.
func (p *Pipeline[T]) parkOrHandOver(ctx context.Context, d redstream.Delivery, cause error) error {
	err := p.parkUntil(ctx, d, cause)
	if err != nil {
		p.consumer.Retry(0, d)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the entry comes again
	}
	return err
}

func reasonOf(err error) event.Reason {
	if drop, ok := errors.AsType[*event.DropError](err); ok {
		return drop.Reason
	}
	return event.ReasonRejected
}

// applyBatch is called by a lane. Every entry has left it acknowledged, parked
// or handed over; an error stops the process.
func (p *Pipeline[T]) applyBatch(ctx context.Context, batch []entry[T]) error {
	crash.Point(crash.AfterReadBeforeApply)
	defer p.order.settled(len(batch))
	p.metrics.active(1)
	defer p.metrics.active(-1)
	return p.attempt(ctx, batch)
}

// attempt applies the batch as a whole. If it cannot be, though the database
// answers, its halves are tried, down to the entry that is at fault.
func (p *Pipeline[T]) attempt(ctx context.Context, batch []entry[T]) error {
	values := make([]T, len(batch))
	for i, w := range batch {
		values[i] = w.v
	}
	start := time.Now()
	var refused []error
	err := p.retry(ctx, func(ctx context.Context) (err error) {
		refused, err = p.kind.apply(ctx, values)
		return err
	})
	switch {
	case err == nil:
		p.metrics.applied(len(batch), time.Since(start))
		for i, cause := range refused {
			batch[i].park = cmp.Or(batch[i].park, cause)
		}
		return p.finish(ctx, batch, values)
	case errors.Is(err, errHandOver):
		p.consumer.Retry(0, deliveries(batch)...)
		return nil
	case fault.ClassOf(err) == fault.Fatal:
		p.consumer.Retry(0, deliveries(batch)...)
		return fmt.Errorf("apply %d entries of %s: %w", len(batch), p.cfg.Name, err)
	case len(batch) > 1:
		p.metrics.split()
		if err := p.attempt(ctx, batch[:len(batch)/2]); err != nil {
			p.consumer.Retry(0, deliveries(batch[len(batch)/2:])...)
			return err
		}
		return p.attempt(ctx, batch[len(batch)/2:])
	case fault.ClassOf(err) == fault.Permanent:
		p.metrics.failed(err)
		return p.parkOrHandOver(ctx, batch[0].d, err)
	default:
		// The consumer parks it when it has been tried often enough.
		p.metrics.failed(err)
		p.log.WarnContext(ctx, "entry put back", "id", batch[0].d.ID, "delivery", batch[0].d.Deliveries, slog.Any("err", err))
		p.consumer.Retry(p.cfg.PutBack, batch[0].d)
		return nil
	}
}

// errHandOver says that the grace time is over.
var errHandOver = errors.New("no time left to apply")

// retry repeats a step until it is durable, the attempts are used up, or no
// time is left. While the database does not answer, or is in trouble that no
// entry can be the cause of, attempts do not count.
func (p *Pipeline[T]) retry(ctx context.Context, step func(context.Context) error) error {
	backoff := fault.Backoff{Initial: 50 * time.Millisecond, Max: 5 * time.Second}
	for attempt, counted := 1, 0; ; attempt++ {
		err := step(ctx)
		if err == nil {
			p.breaker.good()
			return nil
		}
		if ctx.Err() != nil {
			return errHandOver
		}
		if fault.ClassOf(err) != fault.Transient {
			return err
		}
		p.metrics.retried()
		if p.breaker.answers(ctx) && !p.elsewhere(err) {
			if counted++; counted >= p.cfg.Attempts {
				return err
			}
		} else if attempt == 1 {
			p.log.WarnContext(ctx, "waiting for the database", slog.Any("err", err))
		}
		if fault.Sleep(ctx, backoff.Delay(attempt)) != nil {
			return errHandOver
		}
	}
}

func (p *Pipeline[T]) elsewhere(err error) bool {
	return p.cfg.Elsewhere != nil && p.cfg.Elsewhere(err)
}

// finish acknowledges what is durable.
func (p *Pipeline[T]) finish(ctx context.Context, batch []entry[T], values []T) error {
	crash.Point(crash.AfterCommitBeforeAck)
	acks := make([]redstream.Delivery, 0, len(batch))
	done := make([]T, 0, len(batch))
	for _, w := range batch {
		if p.later.takes(w) {
			continue
		}
		done = append(done, w.v)
		if w.park == nil {
			acks = append(acks, w.d)
			continue
		}
		if err := p.parkOrHandOver(ctx, w.d, w.park); err != nil {
			return err
		}
	}
	p.consumer.Ack(acks...)
	crash.Point(crash.AfterAckBeforeTrim)
	last := time.Time{}
	for _, v := range values {
		if t := p.kind.time(v); t.After(last) {
			last = t
		}
	}
	p.metrics.lag.Observe(last)
	p.kind.done(done)
	return nil
}

func deliveries[T any](batch []entry[T]) []redstream.Delivery {
	out := make([]redstream.Delivery, len(batch))
	for i, w := range batch {
		out[i] = w.d
	}
	return out
}
