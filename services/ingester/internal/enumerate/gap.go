package enumerate

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// gapMargin is how far before the last event that was seen a repository may
// have changed and still be fetched: clocks differ, and relays lag.
const gapMargin = 10 * time.Minute

// Gaps fetches what changed while a relay's history was broken: the
// repositories of its listing whose rev is of that time and is not the one
// already seen. A gap is durable from Note to the end of its listing.
type Gaps struct {
	e     *Enumerator
	known Revs // last rev seen of a DID, "" unknown; nil: none is known
	wake  chan struct{}
}

// NewGaps returns the gap filler of the relays of e. known may be nil.
func NewGaps(e *Enumerator, known Revs) *Gaps {
	return &Gaps{e: e, known: known, wake: make(chan struct{}, 1)}
}

func (g *Gaps) key(host string) string { return g.e.cfg.Stream + ":gap:" + host }

// Note records that events of the relay since the given time may be missing;
// the zero time means since ever. Durable on return.
func (g *Gaps) Note(ctx context.Context, host string, since time.Time) error {
	before, found, err := g.e.cursor(ctx, g.key(host))
	if err != nil {
		return err
	}
	if found {
		if at, err := time.Parse(time.RFC3339, before); err == nil && at.Before(since) {
			since = at
		}
	}
	if err := g.e.setCursor(ctx, g.key(host), since.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return nil
}

// Run fills gaps until ctx ends.
func (g *Gaps) Run(ctx context.Context) error {
	for {
		again := 24 * time.Hour
		for _, relay := range g.e.relays {
			err := g.fill(ctx, relay)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // a stop that was asked for is no fault
			}
			if fault.ClassOf(err) == fault.Fatal && err != nil {
				return err
			}
			if err != nil {
				again = g.e.cfg.RetryHosts
				g.e.logged.warn(ctx, g.e.log, "gap not filled", relay.name, err)
			}
		}
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-g.wake:
			t.Stop()
		case <-t.C:
		}
	}
}

func (g *Gaps) fill(ctx context.Context, relay target) error {
	raw, found, err := g.e.cursor(ctx, g.key(relay.name))
	if err != nil || !found || raw == "" {
		return err
	}
	since, err := time.Parse(time.RFC3339, raw)
	if err != nil {
		return fmt.Errorf("gap of %s is %q: %w", relay.name, raw, err)
	}
	w := g.e.walk(relay)
	w.key, w.endKey = g.key(relay.name)+":cursor", g.key(relay.name)+":filled"
	w.reason = event.ReasonResync
	w.choose = func(ctx context.Context, rows []Row) ([]Row, error) { return g.choose(ctx, since, rows) }
	w.saved = func(context.Context, []Row) {}
	if err := w.toEnd(ctx); err != nil {
		return err
	}
	g.e.log.InfoContext(ctx, "gap filled", slog.String("host", relay.name), slog.Time("since", since))
	if now, _, err := g.e.cursor(ctx, g.key(relay.name)); err != nil || now != raw {
		return err // it grew meanwhile
	}
	return g.e.setCursor(ctx, g.key(relay.name), "")
}

// choose keeps the repositories that may have changed in the gap.
func (g *Gaps) choose(ctx context.Context, since time.Time, rows []Row) ([]Row, error) {
	kept := rows[:0:0]
	for i := range rows {
		if at, ok := revTime(rows[i].Rev); !ok || !at.Before(since.Add(-gapMargin)) {
			kept = append(kept, rows[i])
		}
	}
	if g.known == nil || len(kept) == 0 {
		return kept, nil
	}
	dids := make([]string, len(kept))
	for i := range kept {
		dids[i] = kept[i].DID
	}
	var seen []string
	err := g.e.retry(ctx, func(ctx context.Context) (err error) {
		seen, err = g.known.Get(ctx, dids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read known revs: %w", err)
	}
	changed := kept[:0:0]
	for i := range kept {
		if kept[i].Rev == "" || seen[i] != kept[i].Rev {
			changed = append(changed, kept[i])
		}
	}
	return changed, nil
}

const tidAlphabet = "234567abcdefghijklmnopqrstuvwxyz"

// revTime is the time in a rev.
func revTime(rev string) (time.Time, bool) {
	if len(rev) != 13 {
		return time.Time{}, false
	}
	var n uint64
	for i := range len(rev) {
		v := strings.IndexByte(tidAlphabet, rev[i])
		if v < 0 {
			return time.Time{}, false
		}
		n = n<<5 | uint64(v)
	}
	return time.UnixMicro(int64(n >> 10 & (1<<53 - 1))), true
}
