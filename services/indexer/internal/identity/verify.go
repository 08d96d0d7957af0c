package identity

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/store"
)

// New makes a Verifier. A nil reg exports nothing.
func New(cfg Config, dir Directory, tables Tables, reg prometheus.Registerer, log *slog.Logger) *Verifier {
	cfg = cfg.withDefaults()
	return &Verifier{
		cfg: cfg, dir: dir, tables: tables, writes: make(chan struct{}, writers), limit: rate.NewLimiter(rate.Limit(cfg.Rate), max(1, int(cfg.Rate))),
		again: fault.Backoff{Initial: 5 * time.Second, Max: 6 * time.Hour},
		wake:  make(chan struct{}, 1), metrics: newMetrics(reg), log: log.With("component", "identity"),
	}
}

// Wake says that there is something to look up.
func (v *Verifier) Wake() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// lease is how long a check that was handed out belongs to this process.
func (v *Verifier) lease() time.Duration { return 4*v.cfg.Timeout + time.Minute }

// Run looks up what is due until ctx ends. What was begun then is handed out
// again later.
func (v *Verifier) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	checks := make(chan store.HandleCheck)
	g.Go(func() error {
		defer close(checks)
		return v.feed(ctx, checks)
	})
	for range v.cfg.Workers {
		g.Go(func() error {
			for c := range checks {
				v.check(ctx, c)
			}
			return nil
		})
	}
	return g.Wait()
}

// feed hands out what is due.
func (v *Verifier) feed(ctx context.Context, to chan<- store.HandleCheck) error {
	backoff := fault.Backoff{Initial: v.cfg.Every, Max: 10 * time.Second}
	for failures := 0; ctx.Err() == nil; {
		due, err := v.tables.TakeHandleChecks(ctx, 4*v.cfg.Workers, v.lease())
		switch {
		case err != nil && fault.ClassOf(err) == fault.Fatal:
			return fmt.Errorf("take handles to look up: %w", err)
		case err != nil:
			if failures++; failures == 1 {
				v.log.WarnContext(ctx, "handles to look up not read", slog.Any("err", err))
			}
			_ = fault.Sleep(ctx, backoff.Delay(failures))
		case len(due) == 0:
			failures = 0
			v.pause(ctx)
		default:
			failures = 0
			for _, c := range due {
				select {
				case to <- c:
				case <-ctx.Done():
					return nil
				}
			}
		}
	}
	return nil
}

// pause waits for more to do.
func (v *Verifier) pause(ctx context.Context) {
	timer := time.NewTimer(v.cfg.Every)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-v.wake:
	case <-ctx.Done():
	}
}

// writers is how many connections the workers use at once, so that the lanes
// never wait for one.
const writers = 1

// check looks one account up and writes what was found.
func (v *Verifier) check(ctx context.Context, c store.HandleCheck) {
	due := true
	err := v.write(ctx, func(ctx context.Context) (err error) {
		due, err = v.tables.HandleDue(ctx, c)
		return err
	})
	var found finding
	if err == nil && due {
		if v.limit.Wait(ctx) != nil {
			return // the stop was asked for; the check is handed out again
		}
		start := time.Now()
		found = v.look(ctx, c)
		if ctx.Err() == nil {
			v.metrics.seen(found.outcome, time.Since(start))
		}
	}
	if err == nil {
		err = v.write(ctx, func(ctx context.Context) error { return v.settle(ctx, c, found) })
	}
	if err != nil && ctx.Err() == nil {
		v.log.WarnContext(ctx, "identity not written, it will be looked up again", "did", c.DID, slog.Any("err", err))
	}
}

// write runs a step that uses a connection.
func (v *Verifier) write(ctx context.Context, step func(context.Context) error) error {
	select {
	case v.writes <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-v.writes }()
	return step(ctx)
}

// finding is what a look-up found; its zero value is that of a check that was
// no longer called for.
type finding struct {
	outcome outcome
	handle  *string
	err     error
}

// settle writes what was found, and then ends the check.
func (v *Verifier) settle(ctx context.Context, c store.HandleCheck, f finding) error {
	var err error
	switch f.outcome {
	case verified, invalid:
		err = v.tables.SetHandle(ctx, c.DID, f.handle, c.At)
	case unknown:
		if c.Fresh {
			err = v.tables.ForgetActor(ctx, c.DID)
		}
	case failed:
		v.log.DebugContext(ctx, "identity not resolved", "did", c.DID, "attempts", c.Attempts, slog.Any("err", f.err))
		return v.tables.HandleRetry(ctx, c, v.again.Delay(c.Attempts))
	}
	if err != nil {
		return err
	}
	return v.tables.HandleChecked(ctx, c)
}

// look asks the network.
func (v *Verifier) look(ctx context.Context, c store.HandleCheck) finding {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	id, err := v.dir.Refresh(ctx, c.DID)
	switch {
	case err != nil && fault.ClassOf(err) == fault.Permanent:
		return finding{outcome: unknown}
	case err != nil:
		return finding{outcome: failed, err: err}
	case !complete(id):
		return finding{outcome: unknown}
	}
	did, err := v.dir.ResolveHandle(ctx, id.Handle)
	switch {
	case err == nil && did == c.DID:
		return finding{outcome: verified, handle: &id.Handle}
	case err == nil, fault.ClassOf(err) == fault.Permanent, c.Attempts >= v.cfg.Attempts:
		return finding{outcome: invalid}
	default:
		return finding{outcome: failed, err: err}
	}
}

// complete says whether a document describes an account: without one of these
// nothing is known of it.
func complete(id atproto.Identity) bool {
	return id.Handle != "" && id.SigningKey != "" && id.PDS != ""
}
