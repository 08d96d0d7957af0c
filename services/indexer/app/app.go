// Package app puts the indexer together: what reads the streams, what writes
// the tables, and the workers beside them.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/pkg/lexicon"
	"sluice/pkg/pg"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/identity"
	"sluice/services/indexer/internal/index"
	"sluice/services/indexer/internal/store"
)

// workerConns are the connections kept for everything that is not a lane: the
// folder, the recheck and the sweep, the labels, the identities.
const workerConns = 4

// App is the indexer. New makes all of it; Run starts it.
type App struct {
	cfg   Config
	log   *slog.Logger
	redis *redstream.Client
	store *store.Store
	ping  func(context.Context) error // PostgreSQL
	parts []part
	live  func() time.Time // event time of the last live event applied
	ends  []func()         // closes what is open, last first
}

// part is one of the things that run side by side.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// New connects, migrates and constructs. Nothing runs yet. While Redis or
// PostgreSQL cannot be reached it waits.
func New(ctx context.Context, cfg Config, d proc.Deps) (*App, error) {
	consumer, err := cfg.consumer()
	if err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, log: d.Log}
	if err := a.connect(ctx, consumer, d); err != nil {
		a.close()
		return nil, err
	}
	if err := a.build(consumer, d); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// connect opens Redis and PostgreSQL, brings the tables up to date, and makes
// the store.
func (a *App) connect(ctx context.Context, consumer string, d proc.Deps) error {
	redis, err := openRedis(ctx, a.cfg, d)
	if err != nil {
		return err
	}
	a.redis, a.ends = redis, append(a.ends, redis.Close)
	pool, err := pg.Open(ctx, a.cfg.pool(d.Log))
	if err != nil {
		return err
	}
	a.ping, a.ends = pool.Ping, append(a.ends, pool.Close)
	if err := d.Registry.Register(pg.NewCollector("main", pool)); err != nil {
		return err
	}
	if err := a.migrate(ctx, func(ctx context.Context) ([]string, error) {
		return store.Check(ctx, pool, a.cfg.DatabaseSchema)
	}, func(ctx context.Context) error {
		return store.Migrate(ctx, pool, a.cfg.DatabaseSchema)
	}); err != nil {
		return err
	}
	capacity, err := store.LockCapacity(ctx, pool)
	if err != nil {
		return err
	}
	a.fitBatch(ctx, capacity, a.others(ctx, consumer))
	lex, err := lexicon.New(lexicon.Options{LegacyBlobs: a.cfg.LegacyBlobs})
	if err != nil {
		return err
	}
	a.store, err = store.New(pool, store.Config{
		Schema: a.cfg.DatabaseSchema, Validate: lex.Validate,
		NotifyBackfill: a.cfg.NotifyBackfill, QueueHandles: a.cfg.ResolveDIDs,
		Retry: fault.Backoff{Initial: 20 * time.Millisecond, Max: 200 * time.Millisecond, Attempts: 3},
		Log:   d.Log, Registerer: d.Registry,
	})
	return err
}

// openRedis waits for a Redis that can be used.
func openRedis(ctx context.Context, cfg Config, d proc.Deps) (*redstream.Client, error) {
	var c *redstream.Client
	retry := fault.Backoff{Initial: 250 * time.Millisecond, Max: 5 * time.Second, Notify: func(err error, attempt int, wait time.Duration) {
		d.Log.WarnContext(ctx, "waiting for Redis", "setting", "REDIS_URL", "attempt", attempt, "retry_in", wait.String(), slog.Any("err", err))
	}}
	err := fault.Retry(ctx, retry, func(ctx context.Context) (err error) {
		c, err = redstream.Open(ctx, redstream.Config{URL: cfg.RedisURL, KeyPrefix: cfg.KeyPrefix}, d.Log, d.Registry)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	return c, nil
}

// build constructs in the order of the flow.
func (a *App) build(consumer string, d proc.Deps) error {
	metrics := index.NewMetrics(d.Registry)
	a.live = metrics.Last(index.StageLive)
	sinks, err := a.sinks(d)
	if err != nil {
		return err
	}
	if err := a.pipelines(consumer, d, sinks, metrics); err != nil {
		return err
	}
	a.workers(metrics)
	a.debug(d)
	return nil
}

// sinks makes what events go to, and the verification of identities beside it.
func (a *App) sinks(d proc.Deps) (index.Sinks, error) {
	to := index.Sinks{Apply: a.store, Sweeps: a.store, Delete: a.store}
	if !a.events() || !a.cfg.ResolveDIDs {
		return to, nil
	}
	client, err := atproto.NewHTTPClient(atproto.HTTPConfig{
		AllowPrivate: a.cfg.AllowPrivate, Timeout: 15 * time.Second, MaxBody: 512 << 10, UserAgent: "sluice-indexer/" + d.Version,
	})
	if err != nil {
		return to, fmt.Errorf("ALLOW_PRIVATE_NETWORK: %w", err)
	}
	dir, err := atproto.NewDirectory(atproto.DirectoryConfig{
		PLCURL: a.cfg.PLCURL, HandleResolverURL: a.cfg.HandleResolver, Client: client,
		PLCRate: a.cfg.ResolveRate, Concurrency: a.cfg.Resolvers, Log: d.Log, Registry: d.Registry,
	})
	if err != nil {
		return to, err
	}
	v := identity.New(identity.Config{Workers: a.cfg.Resolvers, Rate: a.cfg.ResolveRate}, dir, a.store, d.Registry, d.Log)
	to.Wake = v.Wake
	a.add("identity", v.Run)
	if a.cfg.CheckAccounts {
		to.Accounts = identity.NewAccounts(dir, client, d.Registry)
	}
	return to, nil
}

// events says whether this process reads streams of events.
func (a *App) events() bool { return a.cfg.Mode != "label" }

// labels says whether this process reads the stream of labels.
func (a *App) labels() bool { return a.cfg.Mode != "stream" }

func (a *App) add(name string, run func(context.Context) error) {
	a.parts = append(a.parts, part{name: name, run: run})
}

// pipelines makes one pipeline for every stream.
func (a *App) pipelines(consumer string, d proc.Deps, to index.Sinks, m *index.Metrics) error {
	member := redstream.ConsumerConfig{
		Group: a.cfg.Group, Consumer: consumer, ClaimIdle: a.cfg.ClaimIdle, MaxDeliveries: a.cfg.MaxDeliveries,
	}
	base := index.Config{Consumer: member, Batch: a.cfg.BatchSize, Grace: d.Grace, Ping: a.ping, Elsewhere: pg.Elsewhere}
	if a.events() {
		if err := a.eventPipelines(base, d, to, m); err != nil {
			return err
		}
	}
	if !a.labels() {
		return nil
	}
	c := base
	c.Name, c.Stage, c.Lanes, c.Consumer.Group = a.cfg.LabelStream, index.StageLabel, 1, a.cfg.LabelGroup
	p, err := index.Labels(a.redis, c, a.store, m, d.Log)
	if err != nil {
		return err
	}
	a.add("labels "+c.Name, p.Run)
	return nil
}

// eventPipelines shares the lanes among the streams of events. Backfill gives
// way while live events wait.
func (a *App) eventPipelines(base index.Config, d proc.Deps, to index.Sinks, m *index.Metrics) error {
	shares := lanes(a.cfg)
	var busy []func() bool
	// Live streams first: backfill needs to know of all of them.
	streams := slices.Clone(a.cfg.Streams)
	slices.SortStableFunc(streams, func(x, y string) int { return rank(x) - rank(y) })
	for _, name := range streams {
		c := base
		c.Name, c.Stage, c.Lanes = name, index.Class(name), shares[name]
		live := c.Stage == index.StageLive
		c.Ordered = live
		if !live {
			c.Wait = a.cfg.BatchWait
			c.Yield = index.Priority{Busy: func() bool { return slices.ContainsFunc(busy, func(b func() bool) bool { return b() }) }}.Yield
		}
		p, err := index.Events(a.redis, c, live, to, m, d.Log)
		if err != nil {
			return err
		}
		if live {
			busy = append(busy, p.Busy)
		}
		a.add("events "+name, p.Run)
	}
	return nil
}

func rank(stream string) int {
	if index.Class(stream) == index.StageLive {
		return 0
	}
	return 1
}

// lanes shares INDEXER_CONCURRENCY among the streams, each at least one. Every
// lane has a connection of its own, so no lane waits for another.
func lanes(cfg Config) map[string]int {
	total := min(cfg.Concurrency, max(cfg.PoolMax-workerConns, 1))
	out := map[string]int{}
	for i, name := range cfg.Streams {
		n := total / len(cfg.Streams)
		if i < total%len(cfg.Streams) {
			n++
		}
		out[name] = max(n, 1)
	}
	return out
}

// Run works until ctx ends, then finishes what it holds within the grace time.
func (a *App) Run(ctx context.Context) error {
	defer a.close()
	g := proc.NewGroup(ctx)
	for _, p := range a.parts {
		g.Go(p.name, p.run)
	}
	return g.Wait()
}

// Ready says whether Redis and PostgreSQL answer, and whether live events are
// applied in time. A quiet network makes nothing late.
func (a *App) Ready(ctx context.Context) error {
	if err := a.redis.Ping(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := a.ping(ctx); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	last := a.live()
	if a.cfg.LagLimit == 0 || last.IsZero() || time.Since(last) <= a.cfg.LagLimit {
		return nil
	}
	for stream, groups := range a.groups() {
		if index.Class(stream) != index.StageLive || stream == a.cfg.LabelStream {
			continue
		}
		st, err := a.redis.Stats(ctx, stream, groups...)
		if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		if st.Pending > 0 || st.Lag > 0 {
			return fmt.Errorf("%s: the last event applied is %s old, the limit is %s", stream, time.Since(last).Round(time.Second), a.cfg.LagLimit)
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

// debug serves GET /debug/wait where it is switched on.
func (a *App) debug(d proc.Deps) {
	if a.cfg.DebugWait {
		d.Handle("GET /debug/wait", http.HandlerFunc(a.serveWait))
	}
}
