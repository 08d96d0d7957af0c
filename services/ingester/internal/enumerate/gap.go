package enumerate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
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
	note  sync.Mutex // one Note at a time
}

// gap is what is durable of a gap: since|nonce, and |all after it if the known
// revs do not count. The nonce makes each Note a value of its own, so that one
// that comes while the gap is filled is not taken for the one that is filled.
type gap struct {
	since time.Time
	all   bool
}

func parseGap(raw string) (gap, error) {
	since, rest, _ := strings.Cut(raw, "|")
	at, err := time.Parse(time.RFC3339, since)
	return gap{since: at, all: strings.HasSuffix(rest, "|all")}, err
}

func (g gap) encode() string {
	s := g.since.UTC().Format(time.RFC3339) + "|" + rand.Text()
	if g.all {
		s += "|all"
	}
	return s
}

// NewGaps returns the gap filler of the relays of e. known may be nil.
func NewGaps(e *Enumerator, known Revs) *Gaps {
	return &Gaps{e: e, known: known, wake: make(chan struct{}, 1)}
}

func (g *Gaps) key(host string) string { return g.e.cfg.Stream + ":gap:" + host }

// Note records that events of the relay since the given time may be missing;
// the zero time means since ever. Durable on return.
func (g *Gaps) Note(ctx context.Context, host string, since time.Time) error {
	return g.add(ctx, host, gap{since: since})
}

// Doubt is Note for a time whose known revs do not count: what was seen of a
// repository may not be all of it.
func (g *Gaps) Doubt(ctx context.Context, host string, since time.Time) error {
	return g.add(ctx, host, gap{since: since, all: true})
}

// Move makes what is noted of one relay, and is not filled, a note of another:
// the first one is followed no more. Durable on return; a repeat is harmless.
func (g *Gaps) Move(ctx context.Context, from, to string) error {
	raw, found, err := g.e.cursor(ctx, g.key(from))
	if err != nil || !found || raw == "" {
		return err
	}
	noted, err := parseGap(raw)
	if err != nil {
		return fmt.Errorf("gap of %s is %q: %w", from, raw, err)
	}
	if err := g.add(ctx, to, noted); err != nil {
		return err
	}
	_, err = g.e.deps.Jobs.AppendCAS(ctx, g.key(from), raw, "", nil)
	if errors.Is(err, redstream.ErrCursorMoved) {
		return nil // filled meanwhile
	}
	return err
}

func (g *Gaps) add(ctx context.Context, host string, noted gap) error {
	g.note.Lock()
	defer g.note.Unlock()
	before, found, err := g.e.cursor(ctx, g.key(host))
	if err != nil {
		return err
	}
	if found {
		if old, err := parseGap(before); err == nil {
			noted.all = noted.all || old.all
			if old.since.Before(noted.since) {
				noted.since = old.since
			}
		}
	}
	if err := g.e.setCursor(ctx, g.key(host), noted.encode()); err != nil {
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
		for _, relay := range g.e.current() {
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

// fill lists the relay until no gap is noted any more.
func (g *Gaps) fill(ctx context.Context, relay target) error {
	for {
		raw, found, err := g.e.cursor(ctx, g.key(relay.name))
		if err != nil || !found || raw == "" {
			return err
		}
		if err := g.fillOne(ctx, relay, raw); err != nil {
			return err
		}
		_, err = g.e.deps.Jobs.AppendCAS(ctx, g.key(relay.name), raw, "", nil)
		if err == nil || !errors.Is(err, redstream.ErrCursorMoved) {
			return err
		}
		// Noted again meanwhile, perhaps for rows that were already read.
	}
}

// fillOne reads the listing once from its start, over restarts.
func (g *Gaps) fillOne(ctx context.Context, relay target, raw string) error {
	noted, err := parseGap(raw)
	if err != nil {
		return fmt.Errorf("gap of %s is %q: %w", relay.name, raw, err)
	}
	w := g.e.walk(relay)
	w.key, w.endKey = g.key(relay.name)+":cursor", g.key(relay.name)+":filled"
	w.reason = event.ReasonResync
	w.choose = func(ctx context.Context, rows []atproto.ListedRepo) ([]atproto.ListedRepo, error) {
		return g.choose(ctx, noted, rows)
	}
	w.saved = func(context.Context, []atproto.ListedRepo) {}
	filling := g.key(relay.name) + ":filling"
	begun, _, err := g.e.cursor(ctx, filling)
	if err != nil {
		return err
	}
	if begun != raw { // the saved place is of another gap
		if err := g.e.setCursor(ctx, w.key, ""); err != nil {
			return err
		}
		if err := g.e.setCursor(ctx, filling, raw); err != nil {
			return err
		}
	}
	if err := w.toEnd(ctx); err != nil {
		return err
	}
	g.e.log.InfoContext(ctx, "gap filled", slog.String("host", relay.name), slog.Time("since", noted.since))
	return nil
}

// choose keeps the repositories that may have changed in the gap.
func (g *Gaps) choose(ctx context.Context, noted gap, rows []atproto.ListedRepo) ([]atproto.ListedRepo, error) {
	kept := rows[:0:0]
	for i := range rows {
		if at, ok := revTime(rows[i].Rev); !ok || !at.Before(noted.since.Add(-gapMargin)) {
			kept = append(kept, rows[i])
		}
	}
	if g.known == nil || noted.all || len(kept) == 0 {
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
