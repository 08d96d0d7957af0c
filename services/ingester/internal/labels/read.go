package labels

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/ingester/internal/feed"
)

// read takes one frame in the order of the socket.
func (l *labeler) read(ctx context.Context, raw []byte) error {
	p := l.p
	p.metrics.frames.Inc()
	f, err := l.parse(ctx, raw)
	if f == nil {
		f = &atproto.Frame{Kind: atproto.KindUnknown}
	}
	out := frame{bytes: int64(len(raw))}
	if err == nil && f.Kind != atproto.KindError && f.Kind != atproto.KindInfo && !feed.Plausible(f.Seq) {
		err = event.Dropf(event.ReasonBadFrame, "%s frame: sequence number %d", f.Kind, f.Seq)
	}
	switch {
	case err != nil:
		p.dropped(err)
		out.dead = feed.NewDeadLetter(raw, string(atproto.ReasonOf(err)), err)
	case f.Kind == atproto.KindError:
		return l.ended(ctx, f.Error)
	case f.Kind == atproto.KindInfo:
		l.info(ctx, f.Info)
		return nil
	case f.Kind == atproto.KindLabels:
		if out.labels, err = l.usable(ctx, f.Labels); err != nil {
			return err
		}
		if len(f.Labels.Bad) > 0 {
			bad := f.Labels.Bad[0]
			out.dead = feed.NewDeadLetter(raw, string(atproto.ReasonOf(bad)), bad)
		}
	default:
		p.dropped(event.Dropf(event.ReasonUnknownKind, "frame of type %.40q", f.Type))
	}
	if feed.Plausible(f.Seq) {
		order, _ := l.window.Observe(f.Seq)
		if order == feed.Seen {
			p.metrics.duplicates.Inc()
			return nil
		}
		out.seq, out.late = f.Seq, order == feed.Late
	}
	return l.hand(ctx, out)
}

// oversize takes what is too large to be read: the cursor passes it.
func (l *labeler) oversize(ctx context.Context, beginning []byte) error {
	l.p.metrics.frames.Inc()
	err := event.Dropf(event.ReasonTooBig, "message above %d bytes", atproto.MaxFrame)
	l.p.dropped(err)
	out := frame{bytes: int64(len(beginning)), dead: feed.NewDeadLetter(beginning, string(event.ReasonTooBig), err)}
	if seq, _ := feed.Peek(beginning); feed.Plausible(seq) {
		order, _ := l.window.Observe(seq)
		out.seq, out.late = seq, order == feed.Late
		if order == feed.Seen {
			return nil
		}
	}
	return l.hand(ctx, out)
}

func (l *labeler) hand(ctx context.Context, f frame) error {
	f.bytes = min(f.bytes, l.p.cfg.WindowBytes)
	if err := l.budget.Acquire(ctx, f.bytes); err != nil {
		return err
	}
	select {
	case l.frames <- f:
		return nil
	case <-ctx.Done():
		l.budget.Release(f.bytes)
		return ctx.Err()
	}
}

// parse turns a panic of the code that reads hostile input into an error.
func (l *labeler) parse(ctx context.Context, raw []byte) (f *atproto.Frame, err error) {
	defer func() {
		if p := recover(); p != nil {
			l.p.log.ErrorContext(ctx, "frame made the parser panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			f, err = nil, event.Dropf(event.ReasonBadFrame, "panic: %v", p)
		}
	}()
	return atproto.ParseFrame(raw)
}

// usable returns the labels that are kept. Its error is that of ctx.
func (l *labeler) usable(ctx context.Context, m *atproto.Labels) ([]event.Label, error) {
	l.p.metrics.received.Add(float64(len(m.Labels) + len(m.Bad)))
	for _, bad := range m.Bad {
		l.p.dropped(bad)
	}
	if l.p.cfg.Verify == VerifyOff || l.p.cfg.Verify == "" {
		return m.Labels, nil
	}
	kept := m.Labels[:0]
	for i := range m.Labels {
		err := fault.Retry(ctx, l.p.patience(ctx, "key of labeler"), func(ctx context.Context) error {
			return l.p.verify(ctx, &m.Labels[i])
		})
		switch {
		case err == nil:
			kept = append(kept, m.Labels[i])
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			l.p.dropped(err)
		}
	}
	return kept, nil
}

// verify checks a signature against the key that is known, and once more
// against the key of now.
func (p *Pipeline) verify(ctx context.Context, lb *event.Label) error {
	if len(lb.Sig) == 0 && p.cfg.Verify == VerifySigned {
		p.metrics.unsigned.Inc()
		return nil
	}
	id, err := p.deps.Keys.Identity(ctx, lb.Src)
	if err != nil {
		return err
	}
	if err = verifyWith(&id, lb); err == nil {
		return nil
	}
	fresh, lookup := p.deps.Keys.Refresh(ctx, lb.Src)
	if lookup != nil {
		return lookup
	}
	if fresh.LabelerKey == id.LabelerKey {
		return err
	}
	return verifyWith(&fresh, lb)
}

func verifyWith(id *atproto.Identity, lb *event.Label) error {
	key, err := id.LabelerPublicKey()
	if err != nil {
		return err
	}
	return atproto.VerifyLabel(lb, key)
}

func (p *Pipeline) dropped(err error) {
	reason := atproto.ReasonOf(err)
	if reason == "" {
		reason = event.ReasonRejected
	}
	p.metrics.drops.WithLabelValues(string(reason)).Inc()
	p.metrics.errors.Inc()
}

func (l *labeler) info(ctx context.Context, n *atproto.Info) {
	l.p.log.WarnContext(ctx, "labeler sends a notice", slog.String("labeler", l.host.Name),
		slog.String("name", feed.Clip(n.Name)), slog.String("message", feed.Clip(n.Message)))
	if n.Name == atproto.InfoOutdatedCursor {
		l.p.metrics.gaps.Inc()
	}
}

// ended handles an error frame. A labeler that counts anew is read from its
// start: labels are a state, and the same label again changes nothing.
func (l *labeler) ended(ctx context.Context, e *atproto.StreamError) error {
	l.p.metrics.errors.Inc()
	if e.Name != atproto.ErrorFutureCursor {
		return fmt.Errorf("%w: %s: %s", feed.ErrEnded, feed.Clip(e.Name), feed.Clip(e.Message))
	}
	l.p.metrics.gaps.Inc()
	rewound := make(chan struct{})
	if err := l.hand(ctx, frame{rewound: rewound}); err != nil {
		return err
	}
	select {
	case <-rewound:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.window.Start(0)
	return fmt.Errorf("%w: cursor is in its future", feed.ErrEnded)
}
