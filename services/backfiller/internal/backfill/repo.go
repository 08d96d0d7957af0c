package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// futureTolerance is how far a rev may be ahead of the clock. One that is
// further would make every later state of the repository look old.
const futureTolerance = 5 * time.Minute

// repo makes one attempt at a repository and settles its job. When it had to
// stop in the middle the job stays pending.
func (b *Backfiller) repo(stop, work context.Context, t *task) {
	var (
		out  outcome
		fail *RepoError
	)
	err := b.hold.wait(stop)
	if err == nil && !b.settle.record(work, t, Record{State: StateActive, Rev: t.known.Rev}) {
		err = errStopped
	}
	if err == nil {
		out, err = b.attempt(stop, work, t)
	}
	fail = asFailure(err)
	switch {
	case work.Err() != nil, errors.Is(err, errStopped):
		b.finish(work, t, result{})
	case err == nil:
		t.known = Record{State: StateDone, Rev: out.rev}
		b.tally.add("records", out.emitted)
		b.tally.add("filtered", out.filtered)
		b.m.duration.Observe(out.took.Seconds())
		b.settle.done(work, t, out.rev)
		b.finish(work, t, result{answered: true, pause: out.pause})
	case fail == nil:
		b.ownTrouble(work, t, err)
	default:
		b.failed(work, t, fail)
	}
}

func (b *Backfiller) failed(work context.Context, t *task, fail *RepoError) {
	b.m.failure(fail)
	r := result{answered: true}
	if fail.rule().act == actHost {
		r = result{trouble: true, ask: fail.RetryAfter}
	}
	if fail.rule().act == actThrottle {
		if !b.settle.record(work, t, Record{State: StateWaiting, Rev: t.known.Rev, Reason: string(fail.Reason)}) {
			b.finish(work, t, result{})
			return
		}
		b.finish(work, t, result{trouble: true, ask: fail.RetryAfter, requeue: true})
		return
	}
	b.log.DebugContext(work, "attempt failed", "did", t.job.DID, "host", t.pds, "attempt", t.attempts+1, slog.Any("err", fail))
	b.settle.failed(work, t, fail)
	b.finish(work, t, r)
}

// finish tells the scheduler, and places or charges what that lets go.
func (b *Backfiller) finish(work context.Context, t *task, r result) {
	same, dead := b.sched.done(t, r)
	for _, x := range same {
		x.known = t.known
		if x.covered() {
			b.settle.skip(x, endSkipped)
			continue
		}
		b.place(work, x)
	}
	for _, x := range dead {
		b.chargeDead(work, x, time.Now())
	}
}

// ownTrouble ends an attempt that failed on our side, such as a full disk: the
// job is charged neither an attempt nor a delivery. What no retry can help stops the process.
func (b *Backfiller) ownTrouble(ctx context.Context, t *task, err error) {
	if fault.ClassOf(err) == fault.Fatal {
		b.doubt(err)
	} else {
		b.log.WarnContext(ctx, "repository put off by trouble of our own", "did", t.job.DID, slog.Any("err", err))
		t.from.consumer.Postpone(b.cfg.TroubleWait, t.delivery)
	}
	b.finish(ctx, t, result{})
}

// outcome is a repository that was read to its last record.
type outcome struct {
	rev               string
	emitted, filtered int64
	pause             time.Duration
	took              time.Duration
}

// attempt reads the repository. Where the identity may be out of date it is
// asked for again, once, and the repository read where it is now.
func (b *Backfiller) attempt(stop, work context.Context, t *task) (outcome, error) {
	out, err := b.read(stop, work, t)
	fail := asFailure(err)
	if fail == nil || !fail.stale() || work.Err() != nil {
		return out, err
	}
	pds, err := b.refresh(work, t.job.DID)
	if err != nil {
		return outcome{}, err
	}
	if pds == t.pds && fail.Reason != RepoBehind {
		return outcome{}, fail
	}
	t.fresh = true
	if pds != t.pds {
		b.sched.moved(t, pds)
	}
	return b.read(stop, work, t)
}

// refresh asks for the host of the account past the caches. It asks once, as a
// place is held: trouble of the directory puts the job off, at no charge.
func (b *Backfiller) refresh(ctx context.Context, did string) (string, error) {
	id, err := b.dir.Refresh(ctx, did)
	if err == nil {
		return hostOf(id)
	}
	if fail := identityFailure(did, err); fail != nil {
		return "", fail
	}
	return "", fmt.Errorf("refresh %s: %w", did, err)
}

// read fetches, checks and emits the repository.
func (b *Backfiller) read(stop, work context.Context, t *task) (outcome, error) {
	start := time.Now()
	src, err := b.fetch.open(work, t.pds, t.job.DID, b.cfg.Host.Concurrency)
	if err != nil {
		return outcome{}, err
	}
	defer func() {
		_ = src.Close()
		b.tally.add("bytes", src.total)
		b.m.bytes.Add(float64(src.total))
	}()
	em := b.emitter(stop, t)
	info, err := atproto.ReadRepo(work, src, atproto.RepoOptions{
		DID: t.job.DID, Keep: b.filter.Keep, TempDir: b.cfg.TempDir,
		MemoryLimit: b.cfg.repoMemory(), MaxBytes: b.cfg.Fetch.MaxBytes,
		Verify: func(ctx context.Context, head *atproto.SignedCommit) error {
			em.begin(head.DID, head.CID.String(), head.Rev, start)
			return b.verify(ctx, t, head)
		},
	}, func(r atproto.Record) error { return em.record(work, r) })
	if err == nil {
		err = em.finish(work)
	}
	if err != nil {
		return outcome{}, orFailure(err)
	}
	b.count(&info)
	return outcome{
		rev: info.Rev, emitted: em.emitted, filtered: info.Filtered, pause: src.Pause, took: time.Since(start),
	}, nil
}

// count adds what was not emitted of a repository that was read.
func (b *Backfiller) count(info *atproto.RepoInfo) {
	b.m.filtered.Add(float64(info.Filtered))
	for reason, n := range info.Rejected {
		b.m.rejected.WithLabelValues(string(reason)).Add(float64(n))
	}
}

// verify checks the commit before anything of the repository is emitted.
func (b *Backfiller) verify(ctx context.Context, t *task, head *atproto.SignedCommit) error {
	tid, err := syntax.ParseTID(head.Rev)
	if err != nil {
		return failf(CommitInvalid, "rev %.40q: %w", head.Rev, err)
	}
	if ahead := time.Until(tid.Time()); ahead > futureTolerance {
		return failf(CommitInvalid, "rev %s is %s ahead of the clock", head.Rev, ahead.Round(time.Second))
	}
	if head.Rev < t.job.Rev && !t.fresh {
		return failf(RepoBehind, "rev %s, listed at %s", head.Rev, t.job.Rev)
	}
	if b.cfg.SkipSignatures {
		return nil
	}
	if err := b.verifier.Signature(ctx, head); err != nil {
		if atproto.ReasonOf(err) != "" {
			return err
		}
		if fail := identityFailure(t.job.DID, err); fail != nil {
			return fail
		}
		return fmt.Errorf("key of %s: %w", t.job.DID, err)
	}
	return nil
}

func (b *Backfiller) emitter(stop context.Context, t *task) *emitter {
	w := b.writers[int(t.job.DID[len(t.job.DID)-1])%len(b.writers)]
	return &emitter{
		hold:   func(context.Context) error { return b.hold.wait(stop) },
		append: func(ctx context.Context, items []redstream.Item) error { return w.Append(ctx, items) },
		enc:    b.cfg.Encoding, m: b.m,
	}
}
