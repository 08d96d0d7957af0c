package enumerate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// pagesFrom reads from the saved place to the end of the listing, page by
// page. Durable after each page: its jobs and its cursor, together.
func (w *walk) pagesFrom(ctx context.Context, saved string) (end bool, err error) {
	for {
		if err := w.wait(ctx); err != nil {
			return false, err
		}
		from := saved
		if saved == doneMark {
			from = "" // a new pass
		}
		p, err := w.next(ctx, from)
		if err != nil {
			return false, err
		}
		next := p.Cursor
		if next == "" || (!w.target.trusted && w.listed+len(p.Repos) > maxHostRepos) {
			next = doneMark
		}
		if saved == doneMark && next == doneMark {
			// One page was all: the mark stays, and a compare of equal
			// cursors would read as a repeat.
			if err := w.setCursor(ctx, w.key, ""); err != nil {
				return false, err
			}
			saved = ""
		}
		if err := w.save(ctx, saved, next, p); err != nil {
			return false, err
		}
		if next == doneMark {
			return true, nil
		}
		if err := w.bounds.page(len(p.Repos)); err != nil {
			return false, fmt.Errorf("listRepos of %s: %w", w.target.name, err)
		}
		saved = next
	}
}

func (w *walk) wait(ctx context.Context) error {
	defer w.deps.Pressure.Begin()()
	return w.deps.Gate.Wait(ctx)
}

// next fetches a page; from a host that the relay named, within what is left
// of the time of its visit.
func (w *walk) next(ctx context.Context, cursor string) (atproto.ListPage, error) {
	if w.target.trusted {
		return w.fetch(ctx, cursor)
	}
	started := time.Now()
	limited, cancel := context.WithTimeout(ctx, w.cfg.VisitTime-w.spent)
	defer cancel()
	p, err := w.fetch(limited, cursor)
	w.spent += time.Since(started)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return atproto.ListPage{}, fmt.Errorf("listing of %s goes on in the next pass: no end within %s", w.target.name, w.cfg.VisitTime)
	}
	return p, err
}

// fetch asks for one page until it is answered, halving the limit each time.
func (w *walk) fetch(ctx context.Context, cursor string) (atproto.ListPage, error) {
	if w.limit == 0 {
		w.limit = w.cfg.PageSize
	}
	for attempt := 1; ; attempt++ {
		p, err := w.ask(ctx, cursor)
		if err == nil {
			w.metrics.badRows.Add(float64(p.Bad))
			w.metrics.fetched.Add(float64(len(p.Repos)))
			w.metrics.passRepos.Add(float64(len(p.Repos)))
			w.limit = min(w.limit*2, w.cfg.PageSize)
			return p, nil
		}
		if ctx.Err() != nil {
			return atproto.ListPage{}, err
		}
		w.metrics.fetchErrors.Inc()
		last := !w.target.trusted && attempt >= w.cfg.Attempts
		if last || fault.ClassOf(err) != fault.Transient {
			return atproto.ListPage{}, err
		}
		wait := w.cfg.Backoff.Delay(attempt)
		if slow, ok := errors.AsType[*atproto.ThrottledError](err); ok {
			wait = max(wait, slow.After)
		} else {
			w.limit = max(w.limit/2, 1)
		}
		w.logged.warn(ctx, w.log, "page of repositories not answered", w.target.name, err)
		if fault.Sleep(ctx, wait) != nil {
			return atproto.ListPage{}, err
		}
	}
}

// ask asks for one page. The mark of the end is no cursor that a host may give.
func (w *walk) ask(ctx context.Context, cursor string) (atproto.ListPage, error) {
	p, err := w.listing.Page(ctx, cursor, w.limit)
	if err == nil && p.Cursor == doneMark {
		return atproto.ListPage{}, fmt.Errorf("listRepos of %s: %w: it is the end mark", w.target.name, atproto.ErrCursor)
	}
	return p, err
}

// save appends the jobs of a page and moves the cursor past it.
func (w *walk) save(ctx context.Context, saved, next string, p atproto.ListPage) error {
	rows, err := w.choose(ctx, p.Repos)
	if err != nil {
		return err
	}
	items := make([]redstream.Item, 0, len(rows))
	for i := range rows {
		field, value, err := w.deps.Encode(&event.RepoJob{
			DID: rows[i].DID, Host: w.target.name, Rev: rows[i].Rev,
			Status: rows[i].Status, Active: rows[i].Active, Reason: w.reason,
		})
		if err != nil {
			w.metrics.badRows.Inc()
			continue
		}
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
		if !rows[i].Active {
			w.metrics.inactive.Inc()
		}
	}
	crash.Point(crash.AfterPageBeforeCursor)
	defer w.deps.Pressure.Begin()()
	added, err := w.deps.Jobs.AppendCAS(ctx, w.key, saved, next, items)
	if err != nil {
		return fmt.Errorf("append page of %s: %w", w.target.name, err)
	}
	w.listed += len(p.Repos)
	w.metrics.written.Add(float64(added))
	w.saved(ctx, rows)
	return nil
}
