package enumerate

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/services/ingester/internal/pressure"
)

const (
	// doneMark is the cursor of a listing that was read to its end.
	doneMark = "!ingester-done"
	// maxHosts bounds how many hosts one relay may name.
	maxHosts = 200_000
	// maxHostRepos bounds how many rows one PDS may list in one pass.
	maxHostRepos = 10_000_000
	// maxPages bounds the pages of one visit, or of one list of hosts.
	maxPages = 1_000_000
	// maxIdlePages bounds the pages in a row that bring nothing new.
	maxIdlePages = 100
)

// Modes of enumeration.
const (
	// ByRelay reads listRepos of the relays.
	ByRelay = "relay"
	// ByHosts reads listHosts of the relays and listRepos of every host.
	ByHosts = "hosts"
)

// Jobs is the stream of repository jobs. Append adds the items and moves the
// cursor of the listing from expect to next, both or neither; a repeat adds
// nothing. It blocks while Redis is away and is safe for concurrent use.
// redstream.ErrCursorMoved: another process reads the same listing.
type Jobs interface {
	AppendCAS(ctx context.Context, key, expect, next string, items []redstream.Item) (added int, err error)
}

// Cursors are the saved places in the listings. An error is an error, never
// "no cursor".
type Cursors interface {
	Cursor(ctx context.Context, key string, fallback ...string) (value string, found bool, err error)
	SetCursor(ctx context.Context, key, value string) error
}

// Gate blocks while the stream is at its mark, until ctx ends.
type Gate interface {
	Wait(ctx context.Context) error
}

// Revs remembers, for a bounded number of DIDs, the rev of the last job. It
// may forget. Nil: every row becomes a job.
type Revs interface {
	Get(ctx context.Context, dids []string) (revs []string, err error)
	Put(ctx context.Context, dids, revs []string) error
}

// Encode gives the stream field of a job.
type Encode func(j *event.RepoJob) (field, value string, err error)

// Config says what is enumerated.
type Config struct {
	// Relays as configured: a host, with or without a scheme.
	Relays []string
	// Current, if set, tells the relays instead, and what closes when they
	// change. One that is no host is left out.
	Current func() (relays []string, changed <-chan struct{})
	// Mode is ByRelay or ByHosts.
	Mode string
	// Stream names the job stream; the cursors' keys begin with it.
	Stream string
	// PageSize is the limit of a page. Default and most 1000.
	PageSize int
	// Concurrency is how many hosts are listed at the same time. Default 8.
	Concurrency int
	// Every is the time from the end of a pass to the next one. Default 24h.
	Every time.Duration
	// RetryHosts is the time after which failed hosts are asked again. Default 15m.
	RetryHosts time.Duration
	// Attempts bounds how often a page of a host that the relay named is
	// tried in a row. Default 6. Relays are tried without end.
	Attempts int
	// VisitTime bounds how long the answers of a host that the relay named, or
	// a relay's list of hosts, may take in one pass; the listing goes on from
	// there in the next one. Default 30m.
	VisitTime time.Duration
	// Backoff spaces the attempts.
	Backoff fault.Backoff
}

// Deps are the parts an Enumerator works with.
type Deps struct {
	Jobs    Jobs
	Cursors Cursors
	Gate    Gate
	Revs    Revs
	// Pressure measures the waits for the stream; nil: nobody does.
	Pressure *pressure.Stream
	Encode   Encode
	// Trusted asks configured relays, Guarded hosts that came over the network.
	Trusted, Guarded atproto.Doer
	Log              *slog.Logger
	Registry         prometheus.Registerer
}

// Enumerator lists the repositories of the network, again and again.
type Enumerator struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	logged  logLimit
}

// target is one host to list.
type target struct {
	name    string // bare host and port: part of the cursor's key
	base    string // scheme://host
	trusted bool
}

// New checks the configuration. No goroutine runs before Run.
func New(cfg Config, deps Deps) (*Enumerator, error) {
	if cfg.PageSize <= 0 || cfg.PageSize > 1000 {
		cfg.PageSize = 1000
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 8
	}
	if cfg.Every <= 0 {
		cfg.Every = 24 * time.Hour
	}
	if cfg.RetryHosts <= 0 {
		cfg.RetryHosts = 15 * time.Minute
	}
	if cfg.VisitTime <= 0 {
		cfg.VisitTime = 30 * time.Minute
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 6
	}
	e := &Enumerator{
		cfg: cfg, deps: deps,
		log:     deps.Log.With(slog.String("component", "enumerate")),
		metrics: newMetrics(deps.Registry),
	}
	for _, r := range cfg.Relays {
		if _, err := parseTarget(r); err != nil {
			return nil, err
		}
	}
	if cfg.Mode != ByRelay && cfg.Mode != ByHosts {
		return nil, fmt.Errorf("enumeration mode %q: want %s or %s", cfg.Mode, ByRelay, ByHosts)
	}
	return e, nil
}

// current are the relays to list now.
func (e *Enumerator) current() []target {
	relays := e.cfg.Relays
	if e.cfg.Current != nil {
		relays, _ = e.cfg.Current()
	}
	var out []target
	for _, r := range relays {
		if t, err := parseTarget(r); err == nil {
			out = append(out, t)
		}
	}
	return out
}

// relaysChanged closes when the relays change; nil: they do not.
func (e *Enumerator) relaysChanged() <-chan struct{} {
	if e.cfg.Current == nil {
		return nil
	}
	_, changed := e.cfg.Current()
	return changed
}

// parseTarget reads a configured host: wss, https or no scheme means TLS.
func parseTarget(raw string) (target, error) {
	scheme, host, found := strings.Cut(raw, "://")
	if !found {
		scheme, host = "https", raw
	}
	switch scheme {
	case "wss", "https":
		scheme = "https"
	case "ws", "http":
		scheme = "http"
	default:
		return target{}, fmt.Errorf("relay %q: scheme %q", raw, scheme)
	}
	u, err := url.Parse(scheme + "://" + host)
	if err != nil || u.Hostname() == "" {
		return target{}, fmt.Errorf("relay %q is no host", raw)
	}
	return target{name: u.Host, base: scheme + "://" + u.Host, trusted: true}, nil
}

// Run enumerates until ctx ends. It returns nil then, and an error only if
// our own state is in doubt.
func (e *Enumerator) Run(ctx context.Context) error {
	for {
		changed := e.relaysChanged()
		again, err := e.pass(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the stop was asked for; whatever failed because of it is no fault
		}
		if err != nil {
			return err
		}
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-changed:
			t.Stop()
		case <-t.C:
		}
	}
}

// pass lists every host that is due, and returns when to look again.
func (e *Enumerator) pass(ctx context.Context) (again time.Duration, err error) {
	targets := e.targets(ctx)
	if ctx.Err() != nil {
		return 0, nil //nolint:nilerr // a stop that was asked for is no fault
	}
	run := newPassState(e.metrics, len(targets))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(e.cfg.Concurrency)
	for _, t := range targets {
		g.Go(func() error {
			return e.visit(gctx, t, run)
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if failed := run.failed(); failed > 0 {
		e.log.WarnContext(ctx, "hosts not listed to the end", slog.Int("hosts", failed), slog.String("again_in", e.cfg.RetryHosts.String()))
		return e.cfg.RetryHosts, nil
	}
	if len(targets) > 0 {
		e.metrics.complete.Set(1)
	}
	return max(run.nextDue(time.Now(), e.cfg.Every), time.Second), nil
}

// visit lists one host if its time has come, and records how it went. Only an
// error about our own state is returned.
func (e *Enumerator) visit(ctx context.Context, t target, run *passState) error {
	w := e.walk(t)
	due, err := w.due(ctx)
	if err != nil {
		return e.ended(ctx, t, run, err)
	}
	if wait := time.Until(due); wait > 0 {
		run.finish(hostWaiting, hostDone, due)
		return nil
	}
	run.move(hostWaiting, hostActive)
	e.metrics.complete.Set(0)
	if err := w.toEnd(ctx); err != nil {
		run.move(hostActive, hostWaiting)
		return e.ended(ctx, t, run, err)
	}
	run.finish(hostActive, hostDone, time.Now().Add(e.cfg.Every))
	return nil
}

func (e *Enumerator) ended(ctx context.Context, t target, run *passState, err error) error {
	if ctx.Err() != nil || fault.ClassOf(err) == fault.Fatal {
		return err
	}
	run.finish(hostWaiting, hostFailed, time.Time{})
	e.logged.warn(ctx, e.log, "host not listed to its end", t.name, err)
	return nil
}

func (e *Enumerator) client(t target) atproto.Doer {
	if t.trusted {
		return e.deps.Trusted
	}
	return e.deps.Guarded
}

// targets are the hosts of a pass. A relay that does not answer listHosts is
// listed itself.
func (e *Enumerator) targets(ctx context.Context) []target {
	var out []target
	var estimate int64
	seen := map[string]bool{}
	for _, relay := range e.current() {
		hosts, accounts, err := e.hostsOf(ctx, relay)
		estimate += accounts
		if err != nil && ctx.Err() == nil {
			e.logged.warn(ctx, e.log, "listHosts not answered", relay.name, err)
		}
		if e.cfg.Mode == ByRelay || len(hosts) == 0 {
			hosts = []target{relay}
		}
		for _, t := range hosts {
			if !seen[t.name] {
				seen[t.name] = true
				out = append(out, t)
			}
		}
	}
	e.metrics.estimate.Set(float64(estimate))
	return out
}

// hostsOf reads listHosts of a relay to its end or to the first page that
// keeps failing; what was read until then is returned with the error.
func (e *Enumerator) hostsOf(ctx context.Context, relay target) (hosts []target, accounts int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.VisitTime)
	defer cancel()
	l := &atproto.Listing{Client: e.client(relay), Host: relay.base}
	scheme, _, _ := strings.Cut(relay.base, "://")
	seen := map[string]bool{}
	var b bounds
	for cursor := ""; len(seen) < maxHosts; {
		p, err := e.hostPage(ctx, l, cursor)
		if err != nil {
			return hosts, accounts, err
		}
		before := len(seen)
		for _, h := range p.Hosts {
			if seen[h.Name] {
				continue
			}
			seen[h.Name] = true
			accounts += h.Accounts
			if h.Status != "banned" {
				hosts = append(hosts, target{name: h.Name, base: scheme + "://" + h.Name})
			}
		}
		if p.Cursor == "" {
			return hosts, accounts, nil
		}
		if err := b.page(len(seen) - before); err != nil {
			return hosts, accounts, fmt.Errorf("listHosts of %s: %w", relay.name, err)
		}
		cursor = p.Cursor
	}
	return hosts, accounts, fmt.Errorf("listHosts of %s names more than %d hosts", relay.name, maxHosts)
}

// hostPage asks for one page of hosts until it is answered, halving the limit
// each time.
func (e *Enumerator) hostPage(ctx context.Context, l *atproto.Listing, cursor string) (p atproto.HostPage, err error) {
	limit := e.cfg.PageSize
	backoff := e.cfg.Backoff
	backoff.Attempts = e.cfg.Attempts
	backoff.Notify = func(error, int, time.Duration) {
		e.metrics.fetchErrors.Inc()
		limit = max(limit/2, 1)
	}
	err = fault.Retry(ctx, backoff, func(ctx context.Context) (err error) {
		p, err = l.Hosts(ctx, cursor, limit)
		return err
	})
	if err == nil {
		e.metrics.badRows.Add(float64(p.Bad))
	}
	return p, err
}
