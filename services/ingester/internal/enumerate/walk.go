package enumerate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// walk lists one host from its saved place to its end. Owned by one goroutine.
type walk struct {
	*Enumerator

	target  target
	listing atproto.Listing
	// key holds the place in the listing, endKey the time it was read to its end.
	key, endKey string
	// choose returns the rows that become jobs.
	choose func(ctx context.Context, rows []atproto.ListedRepo) ([]atproto.ListedRepo, error)
	// saved is told of the rows whose jobs are durable.
	saved  func(ctx context.Context, rows []atproto.ListedRepo)
	reason string

	limit  int
	listed int
	bounds bounds
	spent  time.Duration // for answers
}

func (e *Enumerator) walk(t target) *walk {
	return &walk{
		Enumerator: e, target: t, listing: atproto.Listing{Client: e.client(t), Host: t.base},
		key:    e.cfg.Stream + ":cursor:" + t.name,
		endKey: e.cfg.Stream + ":enumerated:" + t.name,
		choose: e.changed, saved: e.remember, reason: event.ReasonEnumerate,
	}
}

// retry repeats what concerns our own state while Redis is away.
func (e *Enumerator) retry(ctx context.Context, step func(context.Context) error) error {
	b := e.cfg.Backoff
	b.Attempts = 0
	return fault.Retry(ctx, b, step)
}

func (e *Enumerator) cursor(ctx context.Context, key string) (value string, found bool, err error) {
	err = e.retry(ctx, func(ctx context.Context) (err error) {
		value, found, err = e.deps.Cursors.Cursor(ctx, key)
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", key, err)
	}
	return value, found, nil
}

func (e *Enumerator) setCursor(ctx context.Context, key, value string) error {
	err := e.retry(ctx, func(ctx context.Context) error {
		return e.deps.Cursors.SetCursor(ctx, key, value)
	})
	if err != nil {
		return fmt.Errorf("save %s: %w", key, err)
	}
	return nil
}

// due is when the listing is to be read again: at once if it was never read
// to its end. An end mark without a time, as an older system left it, counts
// from now.
func (w *walk) due(ctx context.Context) (time.Time, error) {
	cursor, found, err := w.cursor(ctx, w.key)
	if err != nil {
		return time.Time{}, err
	}
	if !found || cursor != doneMark {
		return time.Time{}, nil
	}
	at, found, err := w.cursor(ctx, w.endKey)
	if err != nil {
		return time.Time{}, err
	}
	seconds, bad := strconv.ParseInt(at, 10, 64)
	if !found || bad != nil {
		if err := w.saveEnd(ctx); err != nil {
			return time.Time{}, err
		}
		return time.Now().Add(w.cfg.Every), nil
	}
	return time.Unix(seconds, 0).Add(w.cfg.Every), nil
}

func (w *walk) saveEnd(ctx context.Context) error {
	return w.setCursor(ctx, w.endKey, strconv.FormatInt(time.Now().Unix(), 10))
}

// toEnd reads pages until the listing has no more.
func (w *walk) toEnd(ctx context.Context) error {
	w.log.InfoContext(ctx, "listing repositories", slog.String("host", w.target.name), slog.String("reason", w.reason))
	for {
		saved, _, err := w.cursor(ctx, w.key)
		if err != nil {
			return err
		}
		end, err := w.pagesFrom(ctx, saved)
		switch {
		case errors.Is(err, redstream.ErrCursorMoved):
			continue // another process is at work on this listing: go on from where it is
		case err != nil:
			return err
		case end:
			w.log.InfoContext(ctx, "listing complete", slog.String("host", w.target.name), slog.Int("repos", w.listed))
			return w.saveEnd(ctx)
		}
	}
}
