package backfill

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

// plcPark holds back all resolvers while the directory is in trouble. Its
// failures are not those of the job in hand and charge it nothing.
type plcPark struct {
	mu    sync.Mutex
	fails int
	until time.Time
}

func (p *plcPark) wait(ctx context.Context) error {
	p.mu.Lock()
	d := time.Until(p.until)
	p.mu.Unlock()
	if d <= 0 {
		return ctx.Err()
	}
	return fault.Sleep(ctx, d)
}

func (p *plcPark) ok() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = 0
}

// failed parks the resolvers; first says that the trouble is new.
func (p *plcPark) failed() (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.until) {
		return false
	}
	p.fails++
	p.until = now.Add(fault.Backoff{Initial: 250 * time.Millisecond, Max: 30 * time.Second}.Delay(p.fails))
	return p.fails == 1
}

// resolveAll finds the host of each job in queue and gives it to the scheduler.
func (b *Backfiller) resolveAll(ctx, work context.Context, queue <-chan *task) error {
	var g errgroup.Group
	for range b.cfg.Resolvers {
		g.Go(func() error {
			for {
				select {
				case t := <-queue:
					b.resolve(ctx, work, t)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return g.Wait()
}

func (b *Backfiller) resolve(ctx, work context.Context, t *task) {
	id, err := b.identity(ctx, t.job.DID)
	if err == nil {
		t.pds, err = hostOf(id)
	}
	if fail := asFailure(err); fail != nil {
		b.m.failure(fail)
		b.settle.failed(work, t, fail)
		return
	}
	if err == nil {
		b.place(work, t)
	} // else stopped; the job stays pending
}

// place gives a job to the scheduler, or does what the scheduler says instead.
func (b *Backfiller) place(work context.Context, t *task) {
	switch v := b.sched.add(t); {
	case v.accepted:
	case v.dead:
		b.chargeDead(work, t, v.due)
	default:
		b.settle.deferred(work, t, v.due)
	}
}

// chargeDead charges an attempt at a host that has failed for long.
func (b *Backfiller) chargeDead(work context.Context, t *task, due time.Time) {
	fail := failf(HostDead, "%s has answered nothing for %s", t.pds, b.sched.cfg.DeadAfter)
	b.m.failure(fail)
	b.settle.retry(work, t, fail, due)
}

// identity asks the directory. While the directory itself is in trouble it
// waits; errStopped means that ctx has ended.
func (b *Backfiller) identity(ctx context.Context, did string) (atproto.Identity, error) {
	for b.plc.wait(ctx) == nil {
		id, err := b.dir.Identity(ctx, did)
		if err == nil {
			b.plc.ok()
			return id, nil
		}
		if ctx.Err() != nil {
			break
		}
		if fail := identityFailure(did, err); fail != nil {
			return atproto.Identity{}, fail
		}
		if b.plc.failed() {
			b.log.WarnContext(ctx, "DID directory is in trouble", "did", did, slog.Any("err", err))
		}
	}
	return atproto.Identity{}, errStopped
}

// hostOf is the base URL of the PDS of an identity.
func hostOf(id atproto.Identity) (string, error) {
	if id.PDS == "" {
		return "", failf(NoPDS, "%s names no PDS", id.DID)
	}
	u, err := url.Parse(id.PDS)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return "", failf(BadPDS, "%s names the PDS %.200q", id.DID, id.PDS)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// identityFailure classes an error of the directory. nil: the directory itself
// is in trouble, not the DID.
func identityFailure(did string, err error) *RepoError {
	switch reason := atproto.ReasonOf(err); {
	case reason != "":
		return failf(DIDGone, "%w", err)
	case strings.HasPrefix(did, "did:plc:"):
		return nil
	}
	return failf(IdentityFailed, "%w", err)
}
