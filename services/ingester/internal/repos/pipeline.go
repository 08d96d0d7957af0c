package repos

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/services/ingester/internal/feed"
	"sluice/services/ingester/internal/pressure"
)

// Where a relay without a cursor begins, beside a sequence number.
const (
	StartLive   = "live"
	StartOldest = "oldest"
)

// Config says what is followed, and within which bounds.
type Config struct {
	// Relays as configured: hosts, with or without a scheme. Not read where
	// there is a Roster.
	Relays []string
	// Stream names the live stream; the cursors' keys begin with it.
	Stream string
	// Start is StartLive, StartOldest or a sequence number.
	Start string
	// Keep says which collections are kept.
	Keep *Collections
	// Level is how much of a commit is verified.
	Level atproto.Level
	// Encoding of the entries.
	Encoding event.Encoding
	// Identity says what happens while identities cannot be had.
	Identity IdentityPolicy
	// BatchSize is how many entries one append holds at least before it goes
	// without waiting. Default 500.
	BatchSize int
	// BatchTimeout bounds how long a judged frame waits for others. Default 1s.
	BatchTimeout time.Duration
	// Workers judge frames; most of them wait for identities at a cold start.
	// Default 64.
	Workers int
	// Window bounds the unfinished frames of one relay. Default 4096.
	Window int
	// WindowBytes bounds their size. Default 64 MiB.
	WindowBytes int64
	// Memory bounds the repositories whose state is kept in the process.
	// Default 500,000, about 100 MB.
	Memory int
	// ResyncInterval is the least time between two fetches of a repository.
	// Default 5m.
	ResyncInterval time.Duration
	// Resyncs bounds the fetches that wait. Default 100,000.
	Resyncs int64
	// DeadLetters bounds the unreadable frames kept. Default 10,000.
	DeadLetters int64
	// Overlap is how long a relay that is new is followed beside those before
	// it until it may take their place. It has to be longer than one relay may
	// be behind another. Default 1m.
	Overlap time.Duration
	// Lost is the time without a connection after which those before it are
	// not waited for: what may be missing between is fetched. Default 10m.
	Lost time.Duration
	// Grace is how long what was read may take to become durable at a stop.
	Grace time.Duration
}

func (c *Config) defaults() {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.BatchSize, 500)
	set(&c.Workers, 64)
	set(&c.Window, 4096)
	set(&c.Memory, 500_000)
	setTime(&c.BatchTimeout, time.Second)
	setTime(&c.ResyncInterval, 5*time.Minute)
	setTime(&c.Overlap, time.Minute)
	setTime(&c.Lost, 10*time.Minute)
	setTime(&c.Identity.WebPatience, 10*time.Second)
	patience := 10 * time.Minute
	if c.Identity.Pass {
		patience = 10 * time.Second
	}
	setTime(&c.Identity.Patience, patience)
	if c.WindowBytes <= 0 {
		c.WindowBytes = 64 << 20
	}
	if c.Resyncs <= 0 {
		c.Resyncs = 100_000
	}
	if c.DeadLetters <= 0 {
		c.DeadLetters = 10_000
	}
}

// Stream is the live stream. AppendSeqNoting adds the items above the cursor at
// key, moves it to upTo and stores values in a table, in one atomic step and
// once however often it is repeated; Append adds all items, perhaps twice if an answer is lost. Both
// return when the entries are durable, and block while Redis does not take
// them. redstream.ErrCursorMoved: Redis has lost its tail; after Resume the
// work goes on from the cursor that is there.
type Stream interface {
	AppendSeqNoting(ctx context.Context, key string, items []redstream.Item, upTo int64, t *redstream.Table, names, values []string) (added int, err error)
	Append(ctx context.Context, items []redstream.Item) error
	Resume(key string)
}

// Cursors are the saved places in the relays' sequences. An error is an error,
// never "no cursor".
type Cursors interface {
	Cursor(ctx context.Context, key string, fallback ...string) (value string, found bool, err error)
	SetCursor(ctx context.Context, key, value string) error
}

// Gate blocks while the stream is at its mark, until ctx ends.
type Gate interface {
	Wait(ctx context.Context) error
}

// Gaps takes note, durably, that frames of a relay since a time are missing.
type Gaps interface {
	Note(ctx context.Context, relay string, since time.Time) error
	// Doubt says that frames came, and what was seen of them is not to be
	// trusted.
	Doubt(ctx context.Context, relay string, since time.Time) error
	// Move makes what was noted of one relay, and is not filled, a note of
	// another.
	Move(ctx context.Context, from, to string) error
}

// Deps are the parts a Pipeline works with.
type Deps struct {
	Roster    Roster // nil: the relays of the Config
	Stream    Stream
	Cursors   Cursors
	Gate      Gate
	Schedule  Schedule
	Dead      feed.LetterBox
	States    *redstream.Table // of the live stream; nil: known only as long as the process lives
	Gaps      Gaps             // nil: gaps are only counted
	Directory Directory        // nil: nothing is refreshed
	Verifier  Verifier
	Subscribe feed.Subscribe
	Pressure  *pressure.Stream
	// Written is the lag of what is durable.
	Written  *obs.Stage
	Log      *slog.Logger
	Registry prometheus.Registerer
	// Errors is shared with other parts of the service.
	Errors prometheus.Counter
}

// Pipeline follows the relays.
type Pipeline struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	// changed: the relays of this process are not those that it began with.
	// Owned by Run.
	changed bool
}

// New checks the configuration. No goroutine runs before Run.
func New(cfg Config, deps Deps) (*Pipeline, error) {
	cfg.defaults()
	p := &Pipeline{
		cfg: cfg, deps: deps, log: deps.Log.With(slog.String("component", "repos")),
		metrics: newMetrics(deps.Registry, deps.Errors),
	}
	if p.deps.Roster == nil {
		p.deps.Roster = fixed(cfg.Relays)
	}
	relays, _ := p.deps.Roster.Relays()
	if _, err := feed.ParseHosts(relays); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if len(relays) == 0 {
		return nil, errors.New("no relay is configured")
	}
	return p, nil
}

// Run follows all relays until ctx ends; then it makes durable what was read,
// within the grace time, and returns nil.
func (p *Pipeline) Run(ctx context.Context) error {
	resume := map[string]int64{}
	for ctx.Err() == nil {
		m, err := p.members(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // a stop that was asked for is no fault
			}
			return err
		}
		s := p.newSession(m, resume)
		err = s.until(ctx, p)
		switch {
		case errors.Is(err, redstream.ErrCursorMoved):
			// What this process knew may be ahead of what Redis still has: all of
			// it is forgotten, and the relays send again from the saved cursors.
			p.log.WarnContext(ctx, "redis lost its tail, reading again from its cursors", slog.Any("err", err))
		case err != nil:
			return err
		default:
			p.changed = true
		}
		for _, r := range s.relays {
			p.deps.Stream.Resume(r.cursorKey())
			resume[r.host.Name] = r.saved.Load()
		}
	}
	return nil
}

// session is the work between two losses of what the process knows, or two
// changes of the relays.
type session struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	resume  map[string]int64
	members *members

	relays     []*relay
	judge      *judge
	dispatcher *dispatcher
	pending    *pending
	resyncs    *resyncs
	dead       *feed.DeadLetters
	turn       turn
}

func (p *Pipeline) newSession(m *members, resume map[string]int64) *session {
	p.metrics.inMemory.Set(0) // what the session before held is forgotten
	s := &session{
		cfg: p.cfg, deps: p.deps, log: p.log, metrics: p.metrics, resume: resume, members: m,
		pending: newPending(), turn: newTurn(),
		resyncs: newResyncs(p.deps.Schedule, p.cfg.Encoding, p.cfg.ResyncInterval, p.cfg.Resyncs, p.metrics),
		dead:    feed.NewDeadLetters(p.deps.Dead, p.cfg.DeadLetters, p.metrics.parked),
	}
	s.judge = &judge{
		states:    newStates(p.table(), p.cfg.Memory, len(m.all)),
		pending:   s.pending,
		convert:   &converter{keep: p.cfg.Keep, enc: p.cfg.Encoding, metrics: p.metrics},
		verifier:  p.deps.Verifier,
		level:     p.cfg.Level,
		refresher: newRefresher(p.deps.Directory),
		policy:    p.cfg.Identity,
		away:      newUnresolvable(maxUnresolvable),
		metrics:   p.metrics,
		log:       p.log,
		seed:      maphash.MakeSeed(),
	}
	s.dispatcher = newDispatcher(p.cfg.Workers, s.judge.slot)
	for i := range m.all {
		s.relays = append(s.relays, newRelay(s, i, p.changed))
	}
	return s
}

// table is nil where States is.
func (p *Pipeline) table() Table {
	if p.deps.States == nil {
		return nil
	}
	return p.deps.States
}

// until works until ctx ends or the relays change.
func (s *session) until(ctx context.Context, p *Pipeline) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	var watch errgroup.Group
	watch.Go(func() error {
		defer end()
		return s.watch(ctx, p)
	})
	err := s.run(ctx)
	end()
	return errors.Join(err, watch.Wait())
}

// run reads until ctx ends and writes until what was read is durable or the
// grace time is over.
func (s *session) run(ctx context.Context) error {
	work, end := proc.WorkContext(ctx, s.cfg.Grace)
	defer end()
	writers, wctx := errgroup.WithContext(work)
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	readers, rctx := errgroup.WithContext(reading)
	for _, r := range s.relays {
		readers.Go(func() error {
			defer close(r.slots)
			return r.follow(rctx)
		})
		writers.Go(func() error {
			w := &writer{p: s, relay: r}
			err := w.run(wctx)
			if err != nil {
				stopReading()
			}
			return err
		})
	}
	judging, stopJudging := context.WithCancel(wctx)
	defer stopJudging()
	judges, jctx := errgroup.WithContext(judging)
	judges.Go(func() error { return s.dispatcher.run(jctx) })
	judges.Go(func() error { return s.judge.refresher.run(jctx) })
	writeErr := writers.Wait()
	stopReading()
	stopJudging()
	readErr := readers.Wait()
	judgeErr := judges.Wait()
	if ctx.Err() != nil && work.Err() != nil {
		s.log.WarnContext(ctx, "grace time is over, what was not durable comes again from the relays")
		return nil
	}
	return errors.Join(writeErr, readErr, judgeErr)
}

// retry repeats a step that concerns Redis until it succeeds, and logs the
// first failure.
func (p *Pipeline) retry(ctx context.Context, what string, step func(context.Context) error) error {
	return retry(ctx, p.log, what, step)
}

func (s *session) retry(ctx context.Context, what string, step func(context.Context) error) error {
	return retry(ctx, s.log, what, step)
}

func retry(ctx context.Context, log *slog.Logger, what string, step func(context.Context) error) error {
	return fault.Retry(ctx, fault.Backoff{
		Initial: 50 * time.Millisecond, Max: 2 * time.Second,
		Notify: func(err error, attempt int, _ time.Duration) {
			if attempt == 1 {
				log.WarnContext(ctx, "redis does not answer, waiting", slog.String("step", what), slog.Any("err", err))
			}
		},
	}, step)
}
