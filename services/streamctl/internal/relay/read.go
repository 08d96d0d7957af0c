// Package relay reads a range of a relay's past again, and turns its frames
// into the events that the ingester would have written.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/pkg/firehose"
)

// Config says what to read.
type Config struct {
	Relay string
	// From and To are the first and the last sequence number.
	From, To int64
	// Quiet is how long nothing may come, and no connection be made.
	Quiet time.Duration
	Log   *slog.Logger
}

// Range is what was read.
type Range struct {
	Frames int64 `json:"frames"`
	First  int64 `json:"first_seq"`
	Last   int64 `json:"last_seq"`
	// Gap: the relay no longer has everything since From.
	Gap bool `json:"gap"`
	// Unreadable frames were handed on without being parsed.
	Unreadable int64 `json:"unreadable"`
}

// Message is one frame. Frame is nil when it could not be read.
type Message struct {
	Seq   int64
	Raw   []byte
	Frame *atproto.Frame
	Err   error
}

// The ends of a range that are no failures of the connection.
var (
	errDone  = errors.New("the range was read")
	errQuiet = errors.New("nothing came")
)

// Read subscribes at From and hands over every frame up to To, in order, each
// once. It ends without error when a frame at or after To has come. An error of
// take ends it.
func Read(ctx context.Context, cfg Config, take func(ctx context.Context, m Message) error) (Range, error) {
	r := &reader{cfg: cfg, take: take}
	r.out.Last = cfg.From - 1
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.quiet = time.AfterFunc(cfg.Quiet, func() { cancel(errQuiet) })
	defer r.quiet.Stop()
	sub, err := firehose.New(firehose.Config{
		Host: cfg.Relay, Method: firehose.SubscribeRepos, Log: cfg.Log,
		Cursor:  func(context.Context) (int64, bool, error) { return r.out.Last, true, nil },
		Handle:  r.handle,
		Backoff: fault.Backoff{Initial: 500 * time.Millisecond, Max: 5 * time.Second},
	})
	if err != nil {
		return Range{}, err
	}
	err = sub.Run(ctx)
	if r.out.First == 0 {
		r.out.Last = 0
	}
	switch {
	case errors.Is(err, errDone):
		return r.out, nil
	case errors.Is(context.Cause(ctx), errQuiet):
		return r.out, fmt.Errorf("%s: nothing came for %s after seq %d: is --to=%d in its future?", cfg.Relay, cfg.Quiet, max(r.out.Last, cfg.From-1), cfg.To)
	case err == nil:
		return r.out, ctx.Err()
	}
	return r.out, err
}

// reader is owned by the goroutine of the subscription.
type reader struct {
	cfg   Config
	take  func(ctx context.Context, m Message) error
	quiet *time.Timer
	out   Range
}

func (r *reader) handle(ctx context.Context, raw []byte) error {
	// The clock stands while we work, or wait for the gate.
	r.quiet.Stop()
	defer r.quiet.Reset(r.cfg.Quiet)
	f, err := atproto.ParseFrame(raw)
	if f == nil {
		f = &atproto.Frame{Kind: atproto.KindUnknown}
	}
	switch f.Kind {
	case atproto.KindError:
		return fault.As(fault.Permanent, fmt.Errorf("%s: %s: %s", r.cfg.Relay, f.Error.Name, f.Error.Message))
	case atproto.KindInfo:
		r.out.Gap = r.out.Gap || f.Info.Name == atproto.InfoOutdatedCursor
		return nil
	case atproto.KindCommit, atproto.KindSync, atproto.KindIdentity, atproto.KindAccount, atproto.KindLabels, atproto.KindUnknown:
	}
	if f.Seq > r.cfg.To {
		return fault.As(fault.Permanent, errDone)
	}
	if f.Seq != 0 && f.Seq <= r.out.Last {
		return nil // it came before the connection was lost
	}
	m := Message{Seq: f.Seq, Raw: raw, Frame: f}
	if err != nil {
		r.out.Unreadable++
		m.Frame, m.Err = nil, err
	}
	if err := r.take(ctx, m); err != nil {
		return fault.As(fault.Permanent, err)
	}
	r.out.Frames++
	if f.Seq != 0 {
		if r.out.First == 0 {
			r.out.First = f.Seq
		}
		r.out.Last = f.Seq
	}
	if f.Seq == r.cfg.To {
		return fault.As(fault.Permanent, errDone)
	}
	return nil
}
