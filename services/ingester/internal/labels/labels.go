// Package labels follows labelers: it reads subscribeLabels of any number of
// them and appends each label as an entry of its own to the label stream,
// together with the labeler's cursor.
//
// Nothing of a label is lost or rewritten. A frame that is full of labels goes
// in one append; at the stream's mark, or while Redis is away, the frames in
// hand are kept and the socket is not read.
package labels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/services/ingester/internal/feed"
	"sluice/services/ingester/internal/pressure"
)

const method = "com.atproto.label.subscribeLabels"

// What is asked of signatures.
const (
	// VerifyOff takes labels as they come.
	VerifyOff = "off"
	// VerifySigned checks the signatures that are there.
	VerifySigned = "signed"
	// VerifyRequire refuses labels without one as well.
	VerifyRequire = "require"
)

// Stream is the label stream; see repos.Stream for the contract.
type Stream interface {
	AppendSeq(ctx context.Context, key string, items []redstream.Item, upTo int64) (added int, err error)
	Append(ctx context.Context, items []redstream.Item) error
	Resume(key string)
}

// Cursors are the saved places in the labelers' sequences.
type Cursors interface {
	Cursor(ctx context.Context, key string, fallback ...string) (value string, found bool, err error)
	SetCursor(ctx context.Context, key, value string) error
}

// Gate blocks while the stream is at its mark, until ctx ends.
type Gate interface {
	Wait(ctx context.Context) error
}

// Keys knows the keys of labelers. A labeler without a key is a Permanent
// error; that it could not be found out, Transient.
type Keys interface {
	Identity(ctx context.Context, did string) (atproto.Identity, error)
	Refresh(ctx context.Context, did string) (atproto.Identity, error)
}

// Config says what is followed.
type Config struct {
	// Labelers as configured: hosts, with or without a scheme.
	Labelers []string
	// Stream names the label stream; the cursors' keys begin with it.
	Stream string
	// Verify is VerifyOff, VerifySigned or VerifyRequire.
	Verify string
	// Encoding of the entries.
	Encoding event.Encoding
	// BatchSize is how many labels one append holds at least before it goes
	// without waiting. Default 500.
	BatchSize int
	// BatchTimeout bounds how long a label waits for others. Default 1s.
	BatchTimeout time.Duration
	// Window bounds the frames read and not yet durable, of one labeler.
	// Default 256.
	Window int
	// WindowBytes bounds their size. Default 64 MiB.
	WindowBytes int64
	// DeadLetters bounds the unreadable frames kept. Default 10,000.
	DeadLetters int64
	// Grace is how long what was read may take to become durable at a stop.
	Grace time.Duration
}

// Deps are the parts a Pipeline works with.
type Deps struct {
	Stream    Stream
	Cursors   Cursors
	Gate      Gate
	Dead      feed.LetterBox
	Keys      Keys
	Subscribe feed.Subscribe
	Pressure  *pressure.Stream
	Written   *obs.Stage
	Log       *slog.Logger
	Registry  prometheus.Registerer
	// Errors is shared with other parts of the service.
	Errors prometheus.Counter
}

// Pipeline follows the labelers.
type Pipeline struct {
	cfg     Config
	deps    Deps
	hosts   []feed.Host
	log     *slog.Logger
	metrics *metrics
	dead    *feed.DeadLetters
}

// New checks the configuration. No goroutine runs before Run.
func New(cfg Config, deps Deps) (*Pipeline, error) {
	hosts, err := feed.ParseHosts(cfg.Labelers)
	if err != nil {
		return nil, fmt.Errorf("labeler: %w", err)
	}
	if cfg.BatchSize <= 0 {
		cfg.BatchSize = 500
	}
	if cfg.BatchTimeout <= 0 {
		cfg.BatchTimeout = time.Second
	}
	if cfg.Window <= 0 {
		cfg.Window = 256
	}
	if cfg.WindowBytes <= 0 {
		cfg.WindowBytes = 64 << 20
	}
	if cfg.DeadLetters <= 0 {
		cfg.DeadLetters = 10_000
	}
	m := newMetrics(deps.Registry, deps.Errors)
	return &Pipeline{
		cfg: cfg, deps: deps, hosts: hosts, metrics: m,
		log:  deps.Log.With(slog.String("component", "labels")),
		dead: feed.NewDeadLetters(deps.Dead, cfg.DeadLetters, m.parked),
	}, nil
}

// Run follows all labelers until ctx ends; then it makes durable what was
// read, within the grace time, and returns nil. Without labelers it only waits.
func (p *Pipeline) Run(ctx context.Context) error {
	if len(p.hosts) == 0 {
		<-ctx.Done()
		return nil
	}
	work, end := proc.WorkContext(ctx, p.cfg.Grace)
	defer end()
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range p.hosts {
		g.Go(func() error { return p.follow(gctx, work, h) })
	}
	if err := g.Wait(); err != nil && work.Err() == nil {
		return err
	}
	return nil
}

// follow reads one labeler, again from the saved cursor whenever Redis has
// lost its tail.
func (p *Pipeline) follow(ctx, work context.Context, h feed.Host) error {
	for {
		l := &labeler{
			p: p, host: h, frames: make(chan frame, p.cfg.Window), budget: semaphore.NewWeighted(p.cfg.WindowBytes),
		}
		err := l.run(ctx, work)
		if !errors.Is(err, redstream.ErrCursorMoved) {
			return err
		}
		p.log.WarnContext(ctx, "redis lost its tail, reading again from its cursor", slog.String("labeler", h.Name), slog.Any("err", err))
		p.deps.Stream.Resume(l.cursorKey())
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop that was asked for is no fault
		}
	}
}

// labeler is one labeler that is followed.
type labeler struct {
	p      *Pipeline
	host   feed.Host
	frames chan frame
	budget *semaphore.Weighted // bytes of unfinished frames

	// Owned by the reader.
	window feed.Window
}

// frame is what one message asks the writer to do before the cursor passes it.
type frame struct {
	seq     int64
	bytes   int64
	late    bool
	labels  []event.Label
	dead    *feed.DeadLetter
	rewound chan struct{} // set the cursor back to the start and close it
}

func (l *labeler) cursorKey() string { return l.p.cfg.Stream + ":cursor:" + l.host.Name }

func (l *labeler) run(ctx, work context.Context) error {
	if err := l.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var readers errgroup.Group
	readers.Go(func() error {
		defer close(l.frames)
		return l.p.deps.Subscribe(reading, feed.Subscription{
			Host: l.host, Method: method, Frame: l.read, Oversize: l.oversize,
			Cursor: func() (int64, bool) { return l.window.High(), true },
		})
	})
	err := l.write(work)
	stop()
	if readErr := readers.Wait(); err == nil {
		err = readErr
	}
	return err
}

// load reads the cursor. A labeler without one is read from its start: labels
// are a state, and all of it counts.
func (l *labeler) load(ctx context.Context) error {
	var (
		value string
		found bool
	)
	err := fault.Retry(ctx, l.p.patience(ctx, "read cursor"), func(ctx context.Context) (err error) {
		value, found, err = l.p.deps.Cursors.Cursor(ctx, l.cursorKey(), l.host.LegacyKeys(l.p.cfg.Stream)...)
		return err
	})
	if err != nil {
		return fmt.Errorf("read cursor of %s: %w", l.host.Name, err)
	}
	seq := int64(0)
	if found {
		if seq, err = strconv.ParseInt(value, 10, 64); err != nil || seq < 0 {
			return fmt.Errorf("cursor of %s is %q, not a sequence number", l.host.Name, value)
		}
	}
	l.window.Start(seq)
	l.p.log.InfoContext(ctx, "labeler is followed", slog.String("labeler", l.host.Name), slog.Int64("cursor", seq))
	return nil
}

func (p *Pipeline) patience(ctx context.Context, what string) fault.Backoff {
	return fault.Backoff{
		Initial: 50 * time.Millisecond, Max: 2 * time.Second,
		Notify: func(err error, attempt int, _ time.Duration) {
			if attempt == 1 {
				p.log.WarnContext(ctx, "waiting", slog.String("step", what), slog.Any("err", err))
			}
		},
	}
}
