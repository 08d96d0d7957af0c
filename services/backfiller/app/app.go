package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/services/backfiller/internal/backfill"
)

// App is the backfiller. New makes all of it; Run starts it.
type App struct {
	cfg   Config
	log   *slog.Logger
	redis *redstream.Client
	work  *backfill.Backfiller
}

// New connects to Redis, for which it waits, and constructs everything.
// Nothing runs yet.
func New(ctx context.Context, cfg Config, d proc.Deps) (*App, error) {
	a := &App{cfg: cfg, log: d.Log.With(slog.String("component", "app"))}
	if err := a.connect(ctx, d); err != nil {
		return nil, err
	}
	if err := a.build(d); err != nil {
		a.redis.Close()
		return nil, err
	}
	a.checkSize(ctx)
	d.Handle("GET /progress", progressHandler(a.work))
	return a, nil
}

func (a *App) connect(ctx context.Context, d proc.Deps) error {
	wait := fault.Backoff{Initial: 250 * time.Millisecond, Max: 5 * time.Second, Notify: func(err error, attempt int, in time.Duration) {
		a.log.WarnContext(ctx, "waiting for Redis", slog.String("setting", "REDIS_URL"), slog.Int("attempt", attempt), slog.String("retry_in", in.String()), slog.Any("err", err))
	}}
	err := fault.Retry(ctx, wait, func(ctx context.Context) (err error) {
		a.redis, err = redstream.Open(ctx, redstream.Config{URL: a.cfg.RedisURL, KeyPrefix: a.cfg.KeyPrefix}, d.Log, d.Registry)
		return err
	})
	if err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	return nil
}

// build constructs in the order of the flow.
func (a *App) build(d proc.Deps) error {
	consumer, err := a.cfg.consumer()
	if err != nil {
		return err
	}
	agent := "sluice-backfiller/" + d.Version
	documents, err := a.client(agent, 10*time.Second, 10*time.Second, 512<<10)
	if err != nil {
		return err
	}
	archives, err := a.client(agent, 0, a.cfg.HTTPTimeout, 0)
	if err != nil {
		return err
	}
	dir, err := atproto.NewDirectory(atproto.DirectoryConfig{
		PLCURL: a.cfg.PLCURL, Client: documents, Cache: a.redis.NewCache("identity", a.cfg.Shared),
		Size: a.cfg.Identities, TTL: a.cfg.IdentityTTL, PLCRate: a.cfg.PLCRate, Log: d.Log, Registry: d.Registry,
	})
	if err != nil {
		return fmt.Errorf("PLC_URL: %w", err)
	}
	a.work, err = backfill.New(a.cfg.backfill(consumer, d.Grace, agent), backfill.Deps{
		Redis: a.redis, Directory: dir, HTTP: archives, Lag: obs.NewLag(d.Registry, "backfill").Stage("backfill"), Log: d.Log, Registry: d.Registry,
	})
	return err
}

// entrySize is about what an entry of the output costs Redis, in bytes.
const entrySize = 1100

// checkSize warns when the output at its mark would fill Redis: the gate then
// closes for memory, long before the mark.
func (a *App) checkSize(ctx context.Context) {
	limit := a.redis.Server().MaxMemory
	if need := a.cfg.HighWater * entrySize; limit > 0 && need > limit*8/10 {
		a.log.WarnContext(ctx, "the high-water mark does not fit into Redis",
			slog.String("setting", "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK"), slog.Int64("entries", a.cfg.HighWater),
			slog.Int64("need_bytes", need), slog.Int64("maxmemory", limit))
	}
}

// client fetches from addresses that the network names.
func (a *App) client(agent string, whole, header time.Duration, body int64) (*http.Client, error) {
	c, err := atproto.NewHTTPClient(atproto.HTTPConfig{
		AllowPrivate: a.cfg.PrivateNetwork, Timeout: whole, HeaderTimeout: header, MaxBody: body, UserAgent: agent,
	})
	if err != nil {
		return nil, fmt.Errorf("ALLOW_PRIVATE_NETWORK: %w", err)
	}
	return c, nil
}

// Run works until ctx ends, finishes within the grace time and hands over the rest.
func (a *App) Run(ctx context.Context) error {
	defer a.redis.Close()
	return a.work.Run(ctx)
}

// Ready says whether Redis answers.
func (a *App) Ready(ctx context.Context) error {
	if err := a.redis.Ping(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}
