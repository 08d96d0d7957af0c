package app

import (
	"context"
	"log/slog"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/index"
)

// workers makes what runs beside the pipelines.
func (a *App) workers(m *index.Metrics) {
	if a.events() {
		a.add("fold", a.every("fold", a.cfg.FoldEvery, func(ctx context.Context) (bool, error) {
			_, err := a.store.FoldCounts(ctx)
			return false, err
		}))
		a.add("recheck", a.every("recheck", a.cfg.RecheckEvery, func(ctx context.Context) (bool, error) {
			_, err := a.store.Recheck(ctx)
			return false, err
		}))
		if days := a.cfg.DeletionsKept; days > 0 {
			a.add("forget", a.every("forget", 10*time.Minute, func(ctx context.Context) (bool, error) {
				_, err := a.store.ForgetDeletions(ctx, time.Duration(days)*24*time.Hour)
				return false, err
			}))
		}
		sweeper := index.NewSweeper(a.cfg.Streams, time.Second, a.store, a.redis, m, a.log)
		a.add("sweep", sweeper.Run)
	}
	groups := a.groups()
	if a.cfg.TrimEvery > 0 {
		a.add("trim", a.redis.NewTrimmer(redstream.TrimConfig{Streams: groups, Every: a.cfg.TrimEvery}).Run)
	}
	a.add("monitor", a.redis.NewMonitor(redstream.MonitorConfig{Streams: groups}).Run)
}

// groups names the streams that this process reads and the group on each.
func (a *App) groups() map[string][]string {
	out := map[string][]string{}
	if a.events() {
		for _, s := range a.cfg.Streams {
			out[s] = []string{a.cfg.Group}
		}
	}
	if a.labels() {
		out[a.cfg.LabelStream] = []string{a.cfg.LabelGroup}
	}
	return out
}

// every runs step until ctx ends, with a pause after each round that found
// nothing to do. An error is logged once until the next success; a Fatal one
// stops the process.
func (a *App) every(name string, pause time.Duration, step func(context.Context) (more bool, err error)) func(context.Context) error {
	log := a.log.With("component", name)
	return func(ctx context.Context) error {
		failures := 0
		for ctx.Err() == nil {
			more, err := step(ctx)
			switch {
			case ctx.Err() != nil:
				return nil //nolint:nilerr // the stop was asked for
			case err != nil && fault.ClassOf(err) == fault.Fatal:
				return err
			case err != nil:
				if failures++; failures == 1 {
					log.WarnContext(ctx, "round failed, it will be repeated", slog.Any("err", err))
				}
			default:
				failures = 0
			}
			wait := pause
			if failures > 0 {
				wait = fault.Backoff{Initial: pause, Max: 10 * time.Second}.Delay(failures)
			} else if more {
				wait = 0
			}
			_ = fault.Sleep(ctx, wait)
		}
		return nil
	}
}
