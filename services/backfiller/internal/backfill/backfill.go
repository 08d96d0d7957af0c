// Package backfill fetches repositories from their hosts and writes their
// records to the output stream.
//
// A job goes: reader (job stream → what is known of it) → resolver (DID → its
// PDS) → scheduler (whose turn is it) → one goroutine per repository (getRepo →
// walk → chunks → closing event) → settler (state, then ack). Nothing is acked
// before its effect is in the output stream, in the delayed set or in the dead
// letters; a crash anywhere before leads to another fetch, which changes
// nothing in the end.
package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
)

// Config is what one backfiller does.
type Config struct {
	// Jobs is the stream of jobs, Output the stream that gets the events.
	Jobs, Output string
	// DeadLetters is the stream of jobs that were given up.
	DeadLetters string
	// Group is the consumer group of enumerated jobs; Group + "_urgent" is
	// that of manual and resync jobs.
	Group string
	// Consumer names this process.
	Consumer string
	// Concurrency is the number of repositories in flight. Default 50.
	Concurrency int
	// Window is how many jobs of each class are held in memory. Default
	// 40 × Concurrency, at least 1000.
	Window int
	// Resolvers is how many DIDs of each class are resolved at a time.
	// Default 16.
	Resolvers int
	// ClaimIdle is how long a job of a dead process waits for another one.
	// Default 60s.
	ClaimIdle time.Duration
	// HighWater closes the gate. Default 500000.
	HighWater int64
	// SkipSignatures leaves the signature of the commit unchecked.
	SkipSignatures bool
	Collections    []string
	Encoding       event.Encoding
	// MemoryLimit is what all repositories in flight together may hold of their
	// blocks; the rest goes to temporary files. Default 256 MiB.
	MemoryLimit int64
	// TempDir holds what does not fit in memory of repositories in flight.
	TempDir string
	// TroubleWait is how long a job waits when we could not do our part.
	// Default 15s.
	TroubleWait time.Duration
	// Grace bounds the work after the stop signal.
	Grace time.Duration
	Fetch FetchConfig
	Host  HostConfig
	Retry RetryConfig
}

func (c Config) withDefaults() Config {
	if c.Concurrency <= 0 {
		c.Concurrency = 50
	}
	if c.Window <= 0 {
		c.Window = max(40*c.Concurrency, 1000)
	}
	if c.Resolvers <= 0 {
		c.Resolvers = 16
	}
	if c.ClaimIdle <= 0 {
		c.ClaimIdle = time.Minute
	}
	if c.HighWater <= 0 {
		c.HighWater = 500_000
	}
	if c.MemoryLimit <= 0 {
		c.MemoryLimit = 256 << 20
	}
	if c.TroubleWait <= 0 {
		c.TroubleWait = 15 * time.Second
	}
	c.Fetch = c.Fetch.withDefaults()
	c.Host = c.Host.withDefaults()
	return c
}

// repoMemory is what one repository in flight may hold of its blocks.
func (c Config) repoMemory() int64 {
	return max(c.MemoryLimit/int64(c.Concurrency), minRepoMemory)
}

const minRepoMemory = 256 << 10

// maxDeliveries counts restarts too, which hand over a window of jobs that were
// not begun: more than a few deploys in a row must not make poison of them.
const maxDeliveries = 10

// urgentSuffix makes the name of the group of urgent jobs.
const urgentSuffix = "_urgent"

// Groups are the consumer groups of the job stream, for whoever trims or
// watches it.
func Groups(group string) []string { return []string{group, group + urgentSuffix} }

// Directory resolves DIDs. Errors follow the classes of fault.
type Directory interface {
	Identity(ctx context.Context, did string) (atproto.Identity, error)
	// Refresh resolves again, past every cache.
	Refresh(ctx context.Context, did string) (atproto.Identity, error)
}

// Deps is what a Backfiller works with.
type Deps struct {
	Redis     *redstream.Client
	Directory Directory
	// HTTP is used for getRepo. It must refuse addresses that the network may
	// not name, and bound redirects.
	HTTP *http.Client
	// Lag takes the age of each job when it is done; may be nil.
	Lag      *obs.Stage
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// writers is how many connections append to the output; one repository always
// uses the same one.
const writers = 4

// Backfiller is one process of the backfill.
type Backfiller struct {
	cfg Config
	dir Directory
	// verifier checks signatures with the keys of dir.
	verifier atproto.Verifier
	fetch    *fetcher
	filter   *Filter
	readers  [classes]*reader
	sched    *scheduler
	settle   *settler
	states   *states
	tally    *tally
	hold     *holder
	watch    *progress
	writers  []*redstream.Writer
	gate     *redstream.Gate
	trim     *redstream.Trimmer
	monitor  *redstream.Monitor
	delayed  *redstream.Delayed
	m        *metrics
	log      *slog.Logger
	plc      plcPark
	// fatal takes the first error that stops the process.
	fatal chan error
}

// New builds a Backfiller; nothing runs before Run.
func New(cfg Config, d Deps) (*Backfiller, error) {
	cfg = cfg.withDefaults()
	filter, err := NewFilter(cfg.Collections)
	if err != nil {
		return nil, err
	}
	b := &Backfiller{
		cfg: cfg, dir: d.Directory, verifier: atproto.Verifier{Keys: d.Directory}, filter: filter, tally: newTally(),
		log:   d.Log.With("component", "backfill"),
		fetch: &fetcher{client: d.HTTP, cfg: cfg.Fetch},
		sched: newScheduler(cfg.Host, cfg.Window), fatal: make(chan error, 1),
	}
	b.m = newMetrics(d.Registry, b.sched.counts)
	b.states = &states{ledger: d.Redis.NewRegister(cfg.Jobs, stateKey, stateShards)}
	b.settle = &settler{cfg: cfg.Retry, wait: cfg.TroubleWait, doubt: b.doubt, states: b.states, tally: b.tally, lag: d.Lag, m: b.m, log: b.log}
	b.delayed = d.Redis.NewDelayed(cfg.Jobs+delayedKey, cfg.Jobs)
	for cl, group := range map[class]string{bulk: cfg.Group, urgent: cfg.Group + urgentSuffix} {
		if b.readers[cl], err = b.newReader(d.Redis, cl, group); err != nil {
			return nil, err
		}
	}
	for range writers {
		w, err := d.Redis.NewWriter(redstream.WriterConfig{Stream: cfg.Output})
		if err != nil {
			b.closeWriters()
			return nil, fmt.Errorf("writer of %s: %w", cfg.Output, err)
		}
		b.writers = append(b.writers, w)
	}
	b.hold = &holder{redis: d.Redis, stream: cfg.Jobs, log: b.log, m: b.m}
	b.gate = d.Redis.NewGate(redstream.GateConfig{Stream: cfg.Output, High: cfg.HighWater, Fresh: time.Nanosecond, OnChange: b.hold.gateChanged})
	b.hold.gate = b.gate
	groups := map[string][]string{cfg.Jobs: Groups(cfg.Group)}
	b.trim = d.Redis.NewTrimmer(redstream.TrimConfig{Streams: groups})
	b.monitor = d.Redis.NewMonitor(redstream.MonitorConfig{
		Streams: groups, DeadLetters: map[string]string{cfg.Jobs: cfg.DeadLetters}, Every: 5 * time.Second,
	})
	b.watch = &progress{
		redis: d.Redis, stream: cfg.Jobs, group: cfg.Group, output: cfg.Output, monitor: b.monitor, delayed: b.delayed,
		states: b.states, sched: b.sched, tally: b.tally, m: b.m, log: b.log,
	}
	return b, nil
}

func (b *Backfiller) newReader(redis *redstream.Client, cl class, group string) (*reader, error) {
	c, err := redis.NewConsumer(redstream.ConsumerConfig{
		Group: group, Consumer: b.cfg.Consumer, Streams: []string{b.cfg.Jobs},
		Batch: min(500, b.cfg.Window), Window: b.cfg.Window, ClaimIdle: b.cfg.ClaimIdle,
		MaxDeliveries: maxDeliveries,
		DeadLetters:   map[string]string{b.cfg.Jobs: b.cfg.DeadLetters},
	})
	if err != nil {
		return nil, fmt.Errorf("consumer of %s: %w", group, err)
	}
	return &reader{
		class: cl, group: group, consumer: c, delayed: b.delayed, queue: make(chan *task, b.cfg.Resolvers),
		states: b.states, settle: b.settle, m: b.m, log: b.log,
	}, nil
}

func (b *Backfiller) closeWriters() {
	for _, w := range b.writers {
		w.Close()
	}
}

// Progress returns the latest measured progress.
func (b *Backfiller) Progress() Progress { return b.watch.now() }

// Run works until ctx ends, finishes what it can within the grace time and
// hands over the rest.
func (b *Backfiller) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work, end := proc.WorkContext(ctx, b.cfg.Grace)
	defer end()
	defer b.closeWriters()

	// What the repositories in flight lean on outlives the stop.
	base := proc.NewGroup(work)
	defer func() { _ = base.Wait() }()
	lean := func(name string, f func(context.Context) error) {
		base.Go(name, func(ctx context.Context) error { defer stop(); return f(ctx) })
	}
	lean("gate", b.gate.Run)
	lean("pause", b.hold.run)
	lean("monitor", b.monitor.Run)
	lean("progress", b.watch.run)

	g := proc.NewGroup(ctx)
	member := func(name string, f func(context.Context) error) {
		g.Go(name, func(ctx context.Context) error { defer stop(); return f(ctx) })
	}
	member("delayed", b.delayed.Run)
	member("trim", b.trim.Run)
	for _, r := range b.readers {
		member("read "+r.group, func(ctx context.Context) error { return r.consumer.Run(ctx, r.handle) })
		member("resolve "+r.group, func(ctx context.Context) error { return b.resolveAll(ctx, work, r.queue) })
	}
	member("repositories", b.failFatal)
	member("dispatch", func(ctx context.Context) error { return b.dispatch(ctx, work) })
	err := g.Wait()
	err = errors.Join(err, b.close(ctx))
	end()
	return errors.Join(err, base.Wait())
}

// close hands over what is held.
func (b *Backfiller) close(ctx context.Context) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	for _, r := range b.readers {
		if err := r.consumer.Close(end); err != nil {
			errs = append(errs, fmt.Errorf("close consumer of %s: %w", r.group, err))
		}
	}
	return errors.Join(errs...)
}

// doubt takes the first error after which the process must not go on.
func (b *Backfiller) doubt(err error) {
	select {
	case b.fatal <- err:
	default:
	}
}

// failFatal stops the process with the first error of a repository that no
// retry can help, whatever else is being waited for.
func (b *Backfiller) failFatal(ctx context.Context) error {
	select {
	case err := <-b.fatal:
		return err
	case <-ctx.Done():
		return nil
	}
}

// dispatch starts repositories while there is a free place, and waits for
// them at the end.
func (b *Backfiller) dispatch(ctx, work context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, b.cfg.Concurrency)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		if err := b.hold.wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("gate: %w", err)
		}
		t, err := b.sched.next(ctx)
		if err != nil {
			return nil
		}
		running.Go(func() {
			defer func() { <-places }()
			b.repo(ctx, work, t)
		})
	}
}
