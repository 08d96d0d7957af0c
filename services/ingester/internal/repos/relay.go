package repos

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/sync/semaphore"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/services/ingester/internal/feed"
)

const (
	gapOutdated = "outdated_cursor"
	gapFuture   = "future_cursor"
	gapLost     = "lost_cursor"
	gapResyncs  = "too_many_resyncs"
	gapRelay    = "relay_replaced"
)

// relay is one relay that is followed.
type relay struct {
	p     *session
	index int
	host  feed.Host

	slots  chan *slot
	budget *semaphore.Weighted // bytes of unfinished frames
	// idle is true while the socket has nothing to give; idled wakes the writer
	// when it becomes so.
	idle  atomic.Bool
	idled chan struct{}
	// saved is the cursor in Redis, as far as this process has moved it.
	saved atomic.Int64
	// replaying: the relay sends again what it sent before, by our wish.
	replaying atomic.Bool
	// fresh: the relay had no cursor, or follows on another one, so what it
	// sends may be known from before. Set before anything is read.
	fresh bool
	// joining: the relay is new, and settled ones cover what it lacks.
	joining atomic.Bool
	// join guards the end of joining against a gap at the same moment.
	join sync.Mutex
	// begun is closed, by the one who watches the session, when what the relay
	// sends may be taken.
	begun chan struct{}
	// firstAt and readAt are when the first and the last frame were read, upSince
	// since when it is connected and downSince since when it is not; Unix ns, 0:
	// not.
	firstAt, readAt, upSince, downSince atomic.Int64
	// unwritten are the frames read and not yet durable.
	unwritten atomic.Int64
	// lastTime is the event time of the last frame that is durable, by whichever
	// relay, Unix ns; never ahead of the clock.
	lastTime atomic.Int64

	// Owned by the reader.
	window feed.Window
	resume bool // the next connection goes on after window.high

	// askedAt is when a replay was asked for, Unix ns.
	askedAt atomic.Int64
}

func newRelay(s *session, index int, changed bool) *relay {
	m := &s.members.all[index]
	r := &relay{
		p: s, index: index, host: m.host, fresh: changed,
		slots: make(chan *slot, s.cfg.Window), idled: make(chan struct{}, 1), budget: semaphore.NewWeighted(s.cfg.WindowBytes),
		begun: make(chan struct{}),
	}
	r.joining.Store(!m.settled)
	if m.settled {
		close(r.begun)
	}
	r.downSince.Store(time.Now().UnixNano())
	return r
}

func (r *relay) cursorKey() string { return r.p.cfg.Stream + ":cursor:" + r.host.Name }

// timeKey holds the event time of the cursor, or a little before.
func (r *relay) timeKey() string { return r.p.cfg.Stream + ":time:" + r.host.Name }

func (r *relay) savedTime(ctx context.Context) time.Time {
	var value string
	err := r.p.retry(ctx, "read time of cursor", func(ctx context.Context) (err error) {
		value, _, err = r.p.deps.Cursors.Cursor(ctx, r.timeKey())
		return err
	})
	at, bad := time.Parse(time.RFC3339, value)
	if err != nil || bad != nil {
		return time.Time{}
	}
	return at
}

// load reads the cursor that Redis has.
func (r *relay) load(ctx context.Context) error {
	var (
		value string
		found bool
	)
	err := r.p.retry(ctx, "read cursor", func(ctx context.Context) (err error) {
		value, found, err = r.p.deps.Cursors.Cursor(ctx, r.cursorKey(), r.host.LegacyKeys(r.p.cfg.Stream)...)
		return err
	})
	if err != nil {
		return fmt.Errorf("read cursor of %s: %w", r.host.Name, err)
	}
	if !found {
		return r.first(ctx)
	}
	seq, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seq < 0 {
		return fmt.Errorf("cursor of %s is %q, not a sequence number", r.host.Name, value)
	}
	r.startAfter(seq)
	r.p.log.InfoContext(ctx, "relay resumes", slog.String("relay", r.host.Name), slog.Int64("cursor", seq))
	return nil
}

// first decides where a relay without a cursor begins.
func (r *relay) first(ctx context.Context) error {
	r.fresh = true
	if r.p.resume[r.host.Name] > 0 {
		// Redis lost what this process had saved, and with it entries that
		// nobody has read yet: all that the relay still has comes again, what
		// is older is fetched.
		if err := r.gap(ctx, gapLost); err != nil {
			return err
		}
		r.startAfter(0)
		return nil
	}
	start := r.p.cfg.Start
	if start != StartOldest && r.joining.Load() {
		start = StartLive // a number is one of another relay
	}
	switch start {
	case StartLive:
	case StartOldest:
		r.startAfter(0)
	default:
		seq, err := strconv.ParseInt(start, 10, 64)
		if err != nil || seq < 0 {
			return fmt.Errorf("start %q is none of %s, %s or a sequence number", start, StartLive, StartOldest)
		}
		r.startAfter(seq)
	}
	r.p.log.InfoContext(ctx, "relay has no cursor", slog.String("relay", r.host.Name), slog.String("start", start))
	return nil
}

func (r *relay) startAfter(seq int64) {
	r.saved.Store(seq)
	r.window.Start(seq)
	r.resume = true
}

// cursor is what the next connection asks for: all after it. ok is false to
// begin with what comes.
func (r *relay) cursor() (seq int64, ok bool) {
	return r.window.High(), r.resume
}

// read takes one frame in the order of the socket. It blocks while the
// pipeline is full; then the socket is not read. raw belongs to the slot from
// here on. An error other than that of ctx ends the connection.
func (r *relay) read(ctx context.Context, raw []byte) error {
	r.p.metrics.events.Inc()
	if err := r.arrived(ctx); err != nil {
		return err
	}
	s := &slot{relay: r, bytes: min(int64(len(raw)), r.p.cfg.WindowBytes), at: time.Now(), done: make(chan struct{})}
	f, err := r.parse(ctx, raw)
	if f == nil {
		f = &atproto.Frame{Kind: atproto.KindUnknown}
	}
	r.p.metrics.frames.WithLabelValues(string(f.Kind)).Inc()
	switch {
	case err != nil:
		s.out.dead = feed.NewDeadLetter(raw, string(atproto.ReasonOf(err)), err)
		r.p.judge.convert.dropped(err)
	case f.Kind == atproto.KindError:
		return r.ended(ctx, f.Error)
	case f.Kind == atproto.KindInfo:
		return r.info(ctx, f.Info)
	}
	switch {
	case feed.Plausible(f.Seq):
		if !r.place(ctx, s, f.Seq) {
			return nil
		}
	case err == nil:
		err = event.Dropf(event.ReasonBadFrame, "%s frame: sequence number %d", f.Kind, f.Seq)
		s.out.dead = feed.NewDeadLetter(raw, string(event.ReasonBadFrame), err)
		r.p.judge.convert.dropped(err)
		f = &atproto.Frame{Kind: atproto.KindUnknown}
	}
	return r.enqueue(ctx, s, f)
}

// oversize takes what is too large to be read: the cursor passes it, and the
// repository is fetched.
func (r *relay) oversize(ctx context.Context, beginning []byte) error {
	r.p.metrics.events.Inc()
	if err := r.arrived(ctx); err != nil {
		return err
	}
	r.p.metrics.frames.WithLabelValues(string(atproto.KindUnknown)).Inc()
	err := event.Dropf(event.ReasonTooBig, "message above %d bytes", atproto.MaxFrame)
	r.p.judge.convert.dropped(err)
	seq, did := feed.Peek(beginning)
	s := &slot{relay: r, bytes: int64(len(beginning)), at: time.Now(), done: make(chan struct{})}
	s.out.dead = feed.NewDeadLetter(beginning, string(event.ReasonTooBig), err)
	if plausibleDID(did) {
		s.did = did
		s.out = r.p.judge.doubt(noticeTooBig, s.out)
	}
	if feed.Plausible(seq) && !r.place(ctx, s, seq) {
		return nil
	}
	return r.enqueue(ctx, s, &atproto.Frame{Kind: atproto.KindUnknown})
}

// arrived takes note that the relay has sent something. It returns when that may
// be taken.
func (r *relay) arrived(ctx context.Context) error {
	r.idle.Store(false)
	now := time.Now().UnixNano()
	r.readAt.Store(now)
	r.firstAt.CompareAndSwap(0, now)
	select {
	case <-r.begun:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func plausibleDID(did string) bool {
	_, err := syntax.ParseDID(did)
	return err == nil
}

// quiet is told that the socket has nothing more to give: what was read goes
// to the stream without waiting for more.
func (r *relay) quiet() {
	r.idle.Store(true)
	select {
	case r.idled <- struct{}{}:
	default:
	}
}

// parse turns a panic of the code that reads hostile input into an error.
func (r *relay) parse(ctx context.Context, raw []byte) (f *atproto.Frame, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.p.log.ErrorContext(ctx, "frame made the parser panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			f, err = nil, event.Dropf(event.ReasonBadFrame, "panic: %v", p)
		}
	}()
	return atproto.ParseFrame(raw)
}

// place gives the slot its place in the sequence. It returns false for a frame
// that was read before.
func (r *relay) place(ctx context.Context, s *slot, seq int64) bool {
	first := r.window.High() == 0 // what a relay has may begin anywhere
	order, skipped := r.window.Observe(seq)
	r.resume = true
	if order == feed.Seen {
		r.p.metrics.duplicates.Inc()
		return false
	}
	if skipped > 0 && !first {
		r.p.metrics.seqGaps.Inc()
		r.p.metrics.seqMissing.Add(float64(skipped))
		r.p.log.DebugContext(ctx, "sequence jumps", slog.String("relay", r.host.Name), slog.Int64("missing", skipped))
	}
	s.seq, s.late = seq, order == feed.Late
	r.p.metrics.lastSeq.Set(float64(r.window.High()))
	return true
}

func (r *relay) enqueue(ctx context.Context, s *slot, f *atproto.Frame) error {
	if err := r.budget.Acquire(ctx, s.bytes); err != nil {
		return err
	}
	did, at := about(f)
	judged := did != ""
	if judged {
		s.did, s.frame, s.time = did, f, at
	} else {
		s.finish(s.out)
	}
	select {
	case r.slots <- s:
	case <-ctx.Done():
		r.budget.Release(s.bytes)
		return ctx.Err()
	}
	r.p.metrics.inMemory.Inc()
	r.unwritten.Add(1)
	if judged {
		r.p.dispatcher.submit(s)
	}
	return nil
}

// release gives back the room of slots that are durable.
func (r *relay) release(b *batch) {
	for _, s := range b.slots {
		if s.out.rewind {
			continue
		}
		r.budget.Release(s.bytes)
		r.p.metrics.inMemory.Dec()
		r.unwritten.Add(-1)
		// What another relay has brought counts too; a clock that is ahead does not.
		if !s.time.IsZero() && !s.time.After(time.Now()) {
			r.lastTime.Store(s.time.UnixNano())
		}
	}
	if r.replaying.Load() && r.lastTime.Load() > r.askedAt.Load() {
		r.replaying.Store(false)
	}
}

// info handles a notice of the relay.
func (r *relay) info(ctx context.Context, n *atproto.Info) error {
	r.p.log.WarnContext(ctx, "relay sends a notice", slog.String("relay", r.host.Name), slog.String("name", feed.Clip(n.Name)), slog.String("message", feed.Clip(n.Message)))
	if n.Name != atproto.InfoOutdatedCursor {
		return nil
	}
	return r.gap(ctx, gapOutdated)
}

// gap makes durable, before a later frame is read, that frames are missing. Of
// a relay that joins others none are: it joins anew, from the next frame.
func (r *relay) gap(ctx context.Context, cause string) error {
	if r.joinAnew() {
		return nil
	}
	r.p.metrics.gaps.WithLabelValues(cause).Inc()
	if r.p.deps.Gaps == nil {
		return nil
	}
	if err := r.p.deps.Gaps.Note(ctx, r.host.Name, r.lastKnown(ctx)); err != nil {
		return fmt.Errorf("note gap of %s: %w", r.host.Name, err)
	}
	return nil
}

// doubt makes durable that what was seen of some repositories is not all of it.
func (r *relay) doubt(ctx context.Context) error {
	r.p.metrics.gaps.WithLabelValues(gapResyncs).Inc()
	if r.p.deps.Gaps == nil {
		return nil
	}
	if err := r.p.deps.Gaps.Doubt(ctx, r.host.Name, r.lastKnown(ctx)); err != nil {
		return fmt.Errorf("note doubt about %s: %w", r.host.Name, err)
	}
	return nil
}

// lastKnown is the time of what was written last, zero if it is not known.
func (r *relay) lastKnown(ctx context.Context) time.Time {
	if at := r.lastTime.Load(); at > 0 {
		return time.Unix(0, at)
	}
	return r.savedTime(ctx)
}

// ended handles an error frame: the relay closes after it.
func (r *relay) ended(ctx context.Context, e *atproto.StreamError) error {
	r.p.metrics.errors.Inc()
	r.p.metrics.streamErrors.WithLabelValues(streamErrorName(e.Name)).Inc()
	if e.Name != atproto.ErrorFutureCursor {
		return fmt.Errorf("%w: %s: %s", feed.ErrEnded, feed.Clip(e.Name), feed.Clip(e.Message))
	}
	// The relay counts anew. What it has is read from its start; what was
	// between is fetched.
	if err := r.gap(ctx, gapFuture); err != nil {
		return err
	}
	if err := r.rewind(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w: cursor is in its future", feed.ErrEnded)
}

// rewind sets the cursor to the start once all slots before it are durable.
func (r *relay) rewind(ctx context.Context) error {
	s := &slot{relay: r, at: time.Now(), done: make(chan struct{})}
	durable := make(chan struct{})
	s.finish(outcome{rewind: true, durable: durable})
	select {
	case r.slots <- s:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-durable:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.window.Start(0)
	r.resume = true
	r.askedAt.Store(time.Now().UnixNano())
	r.replaying.Store(true)
	return nil
}

func streamErrorName(name string) string {
	switch name {
	case atproto.ErrorFutureCursor, atproto.ErrorConsumerTooSlow:
		return name
	default:
		return "other"
	}
}
