// Package app puts the ingester together: what follows relays and labelers,
// what lists repositories, and what they write to.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/firehose"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/services/ingester/internal/enumerate"
	"sluice/services/ingester/internal/feed"
	"sluice/services/ingester/internal/labels"
	"sluice/services/ingester/internal/pressure"
	"sluice/services/ingester/internal/repos"
	"sluice/services/ingester/internal/roster"
)

// The streams that the ingester knows.
const (
	liveStream     = "firehose_live"
	backfillStream = "firehose_backfill"
	jobStream      = "repo_backfill"
	labelStream    = "label_live"
)

// unconnectedAfter is how long no relay may be connected to before the process
// is not ready.
const unconnectedAfter = 30 * time.Second

// App is the ingester. New makes all of it; Run starts it.
type App struct {
	cfg      Config
	deps     proc.Deps
	log      *slog.Logger
	redis    *redstream.Client
	dir      *atproto.Directory
	pressure *pressure.Meter
	relays   *roster.Roster
	lag      *obs.Lag
	shared   shared
	streams  *firehose.Metrics
	parts    []part
	ends     []func() // closes what is open, last first

	relaysUp  atomic.Int64
	relaysOff atomic.Int64 // since when none is connected, Unix ns
}

// shared are metrics of the service as a whole.
type shared struct {
	errors      prometheus.Counter
	connections prometheus.Gauge
}

// part is one of the things that run side by side.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// New connects to Redis, for which it waits, and constructs everything.
// Nothing runs yet.
func New(ctx context.Context, cfg Config, d proc.Deps) (*App, error) {
	a := &App{cfg: cfg, deps: d, log: d.Log.With(slog.String("component", "app"))}
	a.relaysOff.Store(time.Now().UnixNano())
	err := a.connect(ctx)
	if err == nil {
		err = a.build()
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *App) connect(ctx context.Context) error {
	wait := fault.Backoff{Initial: 250 * time.Millisecond, Max: 5 * time.Second, Notify: func(err error, attempt int, in time.Duration) {
		a.log.WarnContext(ctx, "waiting for Redis", slog.String("setting", "REDIS_URL"), slog.Int("attempt", attempt), slog.String("retry_in", in.String()), slog.Any("err", err))
	}}
	err := fault.Retry(ctx, wait, func(ctx context.Context) (err error) {
		a.redis, err = redstream.Open(ctx, redstream.Config{URL: a.cfg.RedisURL, KeyPrefix: a.cfg.KeyPrefix}, a.deps.Log, a.deps.Registry)
		return err
	})
	if err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	a.ends = append(a.ends, a.redis.Close)
	return nil
}

// build constructs in the order of the flow.
func (a *App) build() error {
	a.metrics()
	if err := a.directory(); err != nil {
		return err
	}
	if err := a.roster(); err != nil {
		return err
	}
	lister, err := a.lister()
	if err != nil {
		return err
	}
	if a.cfg.does(modeFirehose) {
		if err := a.firehose(lister); err != nil {
			return err
		}
	} else {
		repos.ExportIdle(a.deps.Registry)
	}
	if a.cfg.does(modeBackfill) {
		a.add("enumerate", lister.Run)
	}
	if a.cfg.does(modeLabeler) {
		return a.labels()
	}
	labels.ExportIdle(a.deps.Registry)
	return nil
}

func (a *App) add(name string, run func(context.Context) error) {
	a.parts = append(a.parts, part{name: name, run: run})
}

// metrics makes what is exported in every mode.
func (a *App) metrics() {
	reg := a.deps.Registry
	a.shared = shared{
		errors:      prometheus.NewCounter(prometheus.CounterOpts{Name: "ingester_errors_total", Help: "Frames, operations and labels that could not be used, and streams that a host ended with an error. See the drops by reason."}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ingester_websocket_connections", Help: "Open connections to relays and labelers. Fewer than are configured: see the reconnects by reason."}),
	}
	reg.MustRegister(a.shared.errors, a.shared.connections)
	a.streams = firehose.NewMetrics(reg)
	a.lag = obs.NewLag(reg, "ingest", "labels")
	a.pressure = pressure.New(reg, liveStream, jobStream, labelStream)
	a.add("pressure", a.pressure.Run)
	groups := map[string][]string{
		liveStream: {"firehose_group"}, backfillStream: {"firehose_group"}, labelStream: {"label_group"},
		jobStream: {"repo_backfill_group", "repo_backfill_group_urgent"},
	}
	monitor := a.redis.NewMonitor(redstream.MonitorConfig{Streams: groups})
	for stream := range groups {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ingester_" + stream + "_length",
			Help: "Entries in " + stream + ", refreshed every 10 s in every mode.",
		}, func() float64 { return float64(monitor.Stats(stream).Length) }))
	}
	a.add("monitor", monitor.Run)
}

func (a *App) directory() (err error) {
	client, err := a.client(false, 10*time.Second, 512<<10)
	if err != nil {
		return err
	}
	a.dir, err = atproto.NewDirectory(atproto.DirectoryConfig{
		PLCURL: a.cfg.PLCURL, Client: client, Cache: a.redis.NewCache("identity", a.cfg.SharedIdentities),
		Size: a.cfg.Identities, TTL: a.cfg.IdentityTTL, PLCRate: a.cfg.PLCRate, Log: a.deps.Log, Registry: a.deps.Registry,
	})
	return err
}

// roster makes the list of relays.
func (a *App) roster() (err error) {
	setting := "INGESTER_RELAY_HOSTS"
	if a.cfg.RelayFile != "" {
		setting = "INGESTER_RELAY_FILE"
	}
	a.relays, err = roster.New(roster.Config{Relays: a.cfg.Relays, File: a.cfg.RelayFile}, a.deps.Log, a.deps.Registry)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	a.add("relays", a.relays.Run)
	return nil
}

func (a *App) writer(stream string) (*redstream.Writer, error) {
	w, err := a.redis.NewWriter(redstream.WriterConfig{Stream: stream})
	if err != nil {
		return nil, err
	}
	a.ends = append(a.ends, w.Close)
	return w, nil
}

func (a *App) gate(stream string, mark int64) *redstream.Gate {
	g := a.redis.NewGate(redstream.GateConfig{Stream: stream, High: mark, OnChange: a.pressure.Stream(stream).Gate})
	a.add("gate "+stream, g.Run)
	return g
}

// letters is the dead letter stream of a stream.
type letters struct {
	*redstream.Writer

	kept *redstream.DLQ
}

// Len implements feed.LetterBox.
func (l letters) Len(ctx context.Context) (int64, error) { return l.kept.Len(ctx) }

func (a *App) letters(stream string) (letters, error) {
	kept := a.redis.DeadLetters(stream, "")
	w, err := kept.Writer()
	if err != nil {
		return letters{}, err
	}
	a.ends = append(a.ends, w.Close)
	return letters{Writer: w, kept: kept}, nil
}

// lister makes what lists repositories: on a schedule, and to fill gaps.
func (a *App) lister() (*enumerate.Enumerator, error) {
	const timeout, body = 60 * time.Second, 9 << 20
	trusted, err := a.client(true, timeout, body)
	if err != nil {
		return nil, err
	}
	guarded, err := a.client(false, timeout, body)
	if err != nil {
		return nil, err
	}
	jobs, err := a.writer(jobStream)
	if err != nil {
		return nil, err
	}
	deps := enumerate.Deps{
		Jobs: jobs, Cursors: a.redis, Gate: a.gate(jobStream, a.cfg.mark(a.cfg.RepoHighWater)),
		Pressure: a.pressure.Stream(jobStream),
		Encode:   event.Encoding(a.cfg.Encoding).Job, Trusted: trusted, Guarded: guarded,
		Log: a.deps.Log, Registry: a.deps.Registry,
	}
	if a.cfg.EnumerateRevs > 0 {
		deps.Revs = a.redis.NewTable(jobStream, ":revs", a.cfg.EnumerateRevs)
	}
	e, err := enumerate.New(enumerate.Config{
		Current: a.relays.Relays, Mode: a.cfg.Enumerate, Stream: jobStream,
		Concurrency: a.cfg.EnumerateConcurrency, Every: a.cfg.EnumerateEvery,
		Backoff: fault.Backoff{Initial: 500 * time.Millisecond, Max: time.Minute},
	}, deps)
	if err != nil {
		return nil, fmt.Errorf("INGESTER_RELAY_HOSTS: %w", err)
	}
	return e, nil
}

// firehose makes what follows the relays.
func (a *App) firehose(lister *enumerate.Enumerator) error {
	keep, err := a.cfg.keep()
	if err != nil {
		return fmt.Errorf("INGESTER_COLLECTIONS: %w", err)
	}
	stream, err := a.writer(liveStream)
	if err != nil {
		return err
	}
	dead, err := a.letters(liveStream)
	if err != nil {
		return err
	}
	states := a.redis.NewTable(liveStream, ":state", a.cfg.States)
	gaps := enumerate.NewGaps(lister, knownRevs{states})
	resyncs := a.redis.NewDelayed(jobStream+":resync", jobStream)
	p, err := repos.New(repos.Config{
		Stream: liveStream, Start: a.cfg.Start, Keep: keep, Level: atproto.Level(a.cfg.Verify),
		Encoding:  event.Encoding(a.cfg.Encoding),
		Identity:  repos.IdentityPolicy{Pass: a.cfg.NoIdentity == "pass", Patience: a.cfg.IdentityPatience},
		BatchSize: a.cfg.BatchSize, BatchTimeout: a.cfg.BatchTimeout, Workers: a.cfg.Workers,
		Window: a.cfg.Window, WindowBytes: a.cfg.WindowBytes, Memory: a.cfg.States / 2,
		ResyncInterval: a.cfg.ResyncInterval, DeadLetters: a.cfg.DeadLetters, Overlap: a.cfg.RelayOverlap, Lost: a.cfg.RelayLost, Grace: a.deps.Grace,
	}, repos.Deps{
		Roster: a.relays, Stream: stream, Cursors: a.redis, Gate: a.gate(liveStream, a.cfg.mark(a.cfg.FirehoseHighWater)),
		Schedule: wishes{Delayed: resyncs, redis: a.redis, mark: a.cfg.mark(a.cfg.RepoHighWater)}, Dead: dead, States: states, Gaps: gaps, Directory: a.dir,
		Verifier: &atproto.Verifier{Keys: a.dir}, Subscribe: a.subscriber(a.cfg.DataIdle, a.relayState),
		Pressure: a.pressure.Stream(liveStream), Written: a.lag.Stage("ingest"),
		Log: a.deps.Log, Registry: a.deps.Registry, Errors: a.shared.errors,
	})
	if err != nil {
		return fmt.Errorf("INGESTER_RELAY_HOSTS: %w", err)
	}
	a.add("firehose", p.Run)
	a.add("resyncs", resyncs.Run)
	a.add("gaps", gaps.Run)
	return nil
}

// wishes are the repositories to be fetched. They reach the job stream without
// a wait at its mark, so what they put above it counts with those that wait.
type wishes struct {
	*redstream.Delayed

	redis *redstream.Client
	mark  int64
}

// Len implements repos.Schedule.
func (w wishes) Len(ctx context.Context) (int64, error) {
	waiting, err := w.Delayed.Len(ctx)
	if err != nil {
		return 0, err
	}
	jobs, err := w.redis.Len(ctx, jobStream)
	return waiting + max(jobs-w.mark, 0), err
}

// knownRevs reads the rev out of the state of a repository.
type knownRevs struct{ *redstream.Table }

// Get implements enumerate.Revs.
func (k knownRevs) Get(ctx context.Context, dids []string) ([]string, error) {
	values, err := k.Table.Get(ctx, dids)
	for i := range values {
		values[i] = repos.StateRev(values[i])
	}
	return values, err
}

// labels makes what follows the labelers.
func (a *App) labels() error {
	stream, err := a.writer(labelStream)
	if err != nil {
		return err
	}
	dead, err := a.letters(labelStream)
	if err != nil {
		return err
	}
	p, err := labels.New(labels.Config{
		Labelers: a.cfg.Labelers, Stream: labelStream, Verify: a.cfg.VerifyLabels, Encoding: event.Encoding(a.cfg.Encoding),
		BatchSize: a.cfg.BatchSize, BatchTimeout: a.cfg.BatchTimeout, WindowBytes: a.cfg.WindowBytes,
		DeadLetters: a.cfg.DeadLetters, Grace: a.deps.Grace,
	}, labels.Deps{
		Stream: stream, Cursors: a.redis, Gate: a.gate(labelStream, a.cfg.mark(a.cfg.LabelHighWater)), Dead: dead, Keys: a.dir,
		Subscribe: a.subscriber(0, func(bool) {}), Pressure: a.pressure.Stream(labelStream), Written: a.lag.Stage("labels"),
		Log: a.deps.Log, Registry: a.deps.Registry, Errors: a.shared.errors,
	})
	if err != nil {
		return fmt.Errorf("INGESTER_LABELER_HOSTS: %w", err)
	}
	a.add("labels", p.Run)
	return nil
}

// subscriber follows streams over the network.
func (a *App) subscriber(dataIdle time.Duration, state func(up bool)) feed.Subscribe {
	return func(ctx context.Context, s feed.Subscription) error {
		sub, err := firehose.New(firehose.Config{
			Host: s.Host.Raw, Method: s.Method, Handle: s.Frame, Oversize: s.Oversize, Idle: s.Idle,
			Cursor: func(context.Context) (int64, bool, error) {
				seq, ok := s.Cursor()
				return seq, ok, nil
			},
			State: func(up bool) {
				state(up)
				if s.State != nil {
					s.State(up)
				}
				if up {
					a.shared.connections.Inc()
				} else {
					a.shared.connections.Dec()
				}
			},
			DataIdle: dataIdle, Compression: a.cfg.Compression, UserAgent: "sluice-ingester/" + a.deps.Version,
			Log: a.deps.Log, Metrics: a.streams,
		})
		if err != nil {
			return err
		}
		return sub.Run(ctx)
	}
}

func (a *App) relayState(up bool) {
	if up {
		a.relaysUp.Add(1)
	} else if a.relaysUp.Add(-1) == 0 {
		a.relaysOff.Store(time.Now().UnixNano())
	}
}

// Run works until ctx ends, then makes durable what was read.
func (a *App) Run(ctx context.Context) error {
	defer a.close()
	g := proc.NewGroup(ctx)
	for _, p := range a.parts {
		g.Go(p.name, p.run)
	}
	return g.Wait()
}

// Ready says whether Redis answers, a relay is connected, and what is written
// is not older than the limit.
func (a *App) Ready(ctx context.Context) error {
	if err := a.redis.Ping(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if !a.cfg.does(modeFirehose) {
		return nil
	}
	if off := time.Since(time.Unix(0, a.relaysOff.Load())); a.relaysUp.Load() == 0 && off > unconnectedAfter {
		return errors.New("no relay is connected since " + off.Round(time.Second).String())
	}
	if last := a.lag.Stage("ingest").Last(); a.cfg.LagLimit > 0 && !last.IsZero() {
		if age := time.Since(last); age > a.cfg.LagLimit {
			return fmt.Errorf("the last event written is %s old, the limit is %s", age.Round(time.Second), a.cfg.LagLimit)
		}
	}
	return nil
}

func (a *App) close() {
	for _, end := range slices.Backward(a.ends) {
		end()
	}
	a.ends = nil
}

// client makes an HTTP client: for configured addresses if trusted, else for
// those that come over the network.
func (a *App) client(trusted bool, timeout time.Duration, body int64) (*http.Client, error) {
	c, err := atproto.NewHTTPClient(atproto.HTTPConfig{
		AllowPrivate: a.cfg.PrivateNetwork, Trusted: trusted, Timeout: timeout, MaxBody: body,
		UserAgent: "sluice-ingester/" + a.deps.Version,
	})
	if err != nil {
		return nil, fmt.Errorf("ALLOW_PRIVATE_NETWORK: %w", err)
	}
	a.ends = append(a.ends, c.CloseIdleConnections)
	return c, nil
}
