package road

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/status"
)

// Eyes look at the sluice. Both methods may block until ctx ends, and may be
// called at the same time.
type Eyes interface {
	// Look takes a picture of Redis; an error says that it cannot be seen.
	Look(ctx context.Context) (*Look, error)
	// Examine runs the checks of doctor and asks PostgreSQL. What is wrong is in
	// the result; an error says that it could not be found out.
	Examine(ctx context.Context) (*Examination, error)
}

// Config says how often to look.
type Config struct {
	// Every is the time between two looks, default 2s; Examine between two
	// examinations, default 15s.
	Every, Examine time.Duration
	Limits         Limits
	Version        string
	// Past is the history to begin with, the oldest points first.
	Past History
}

// Watcher looks again and again and keeps the newest view and the history.
type Watcher struct {
	eyes Eyes
	cfg  Config
	kick chan struct{} // holds a value when the examination is asked for

	mu     sync.Mutex
	view   *View         // never changed once it is here
	next   chan struct{} // closed when view is replaced
	last   *Look
	exam   *Examination
	seen   map[string]int       // finding → examinations in a row that had it
	closed map[string]time.Time // stream → since when its gate is closed
	pace   pace
	hour   *ring
	day    *ring
	names  []string
}

// New returns a watcher that has seen nothing yet.
func New(eyes Eyes, cfg Config) *Watcher {
	if cfg.Every <= 0 {
		cfg.Every = 2 * time.Second
	}
	if cfg.Examine <= 0 {
		cfg.Examine = 15 * time.Second
	}
	w := &Watcher{
		eyes: eyes, cfg: cfg, kick: make(chan struct{}, 1), next: make(chan struct{}), closed: map[string]time.Time{}, seen: map[string]int{},
		hour: newRing(time.Hour, 5*time.Second), day: newRing(24*time.Hour, 2*time.Minute),
		view: &View{
			At: time.Now(), Version: cfg.Version, Age: -1, Verdict: Verdict{State: Looking, Because: "the first look is being taken", Also: []string{}},
			Sources: []Source{}, Streams: []Stream{}, Readers: []Reader{}, Parked: []Parked{}, Findings: []doctor.Finding{}, Tables: Tables{State: "unknown"},
		},
	}
	w.names = cfg.Past.Streams
	for _, past := range []struct {
		points []Point
		ring   *ring
	}{{cfg.Past.Hour, w.hour}, {cfg.Past.Day, w.day}} {
		for _, p := range past.points {
			past.ring.add(time.Unix(int64(p[0]), 0), p[1:])
		}
	}
	return w
}

// View returns the newest view, which nobody may change, and a channel that is
// closed when there is a newer one.
func (w *Watcher) View() (*View, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view, w.next
}

// History returns the lag so far.
func (w *Watcher) History() History {
	w.mu.Lock()
	defer w.mu.Unlock()
	return History{Streams: append([]string{}, w.names...), Hour: w.hour.all(), Day: w.day.all()}
}

// Run looks until ctx ends. Nothing that it finds ends it.
func (w *Watcher) Run(ctx context.Context) error {
	var g errgroup.Group
	loop := func(every time.Duration, kick <-chan struct{}, do func(context.Context)) {
		g.Go(func() error {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				do(ctx)
				select {
				case <-tick.C:
				case <-kick:
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	loop(w.cfg.Every, nil, w.look)
	loop(w.cfg.Examine, w.kick, w.examine)
	return g.Wait()
}

// Refresh asks for an examination now: something was changed.
func (w *Watcher) Refresh() {
	select {
	case w.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// patience bounds one look; the page says that Redis does not answer after it.
const patience = 10 * time.Second

func (w *Watcher) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l, err := w.eyes.Look(limited)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.blind(err)
		return
	}
	w.last = l
	w.pace.add(l)
	v := w.show()
	w.record(v)
}

// show builds the view from the last look and the last examination.
func (w *Watcher) show() *View {
	v := build(w.last, w.exam)
	v.Version = w.cfg.Version
	w.since(v, w.last.Closed)
	w.pace.estimate(v.Backfill)
	v.Verdict = judge(v, w.cfg.Limits, w.lasting)
	w.publish(v)
	return v
}

// blind keeps the last view and says that it is old.
func (w *Watcher) blind(err error) {
	v := *w.view
	if v.Age >= 0 {
		v.Age = time.Since(v.At).Seconds()
	}
	v.Verdict = Verdict{
		State: Broken, Because: "Redis cannot be seen: " + strings.ReplaceAll(err.Error(), "\n", "; "),
		Do: "see whether Redis runs and REDIS_URL is right; the services wait and lose nothing", Also: []string{},
	}
	if f, ok := doctor.Refusal(err); ok {
		v.Verdict.Because, v.Verdict.Do = f.What, f.Do
	}
	w.publish(&v)
}

func (w *Watcher) publish(v *View) {
	w.view = v
	close(w.next)
	w.next = make(chan struct{})
}

// since adds how long gates have been closed.
func (w *Watcher) since(v *View, closed map[string]bool) {
	for i := range v.Streams {
		s := &v.Streams[i]
		if !closed[s.Name] {
			delete(w.closed, s.Name)
			continue
		}
		if _, known := w.closed[s.Name]; !known {
			w.closed[s.Name] = v.At
		}
		s.ClosedFor = v.At.Sub(w.closed[s.Name]).Seconds()
	}
}

func (w *Watcher) record(v *View) {
	values := make([]float64, 0, len(v.Streams))
	names := make([]string, 0, len(v.Streams))
	for _, s := range v.Streams {
		names = append(names, s.Name)
		values = append(values, s.Wait)
	}
	w.names = names
	w.hour.add(v.At, values)
	w.day.add(v.At, values)
}

// lasting says that a finding was there in two examinations in a row, or in the
// only one that there was.
func (w *Watcher) lasting(f doctor.Finding) bool { return w.seen[key(f)] > 1 }

// key tells findings apart without their numbers, which change.
func key(f doctor.Finding) string {
	digits := func(r rune) rune {
		if r >= '0' && r <= '9' || r == ',' || r == '.' {
			return -1
		}
		return r
	}
	return f.Check + " " + strings.Map(digits, f.What)
}

func (w *Watcher) examine(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	x, err := w.eyes.Examine(limited)
	if err != nil || ctx.Err() != nil {
		return // the look says that Redis cannot be seen
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]int{}
	for _, f := range x.Findings {
		k := key(f)
		seen[k] = w.seen[k] + 1
		if w.exam == nil {
			seen[k] = 2
		}
	}
	w.exam, w.seen = x, seen
	if w.last != nil && w.view.Age == 0 {
		w.show()
	}
}

// pace keeps the looks at the backfill of the last minutes.
type pace struct {
	at   []time.Time
	seen []*status.Backfill
}

const (
	paceSpan = 3 * time.Minute
	paceSure = 5 * time.Second
)

func (p *pace) add(l *Look) {
	if l.Backfill == nil {
		return
	}
	if n := len(p.seen); n > 0 && finished(l.Backfill) < finished(p.seen[n-1]) {
		p.at, p.seen = nil, nil // the totals were made anew
	}
	p.at, p.seen = append(p.at, l.Picture.At), append(p.seen, l.Backfill)
	for len(p.at) > 1 && l.Picture.At.Sub(p.at[0]) > paceSpan {
		p.at, p.seen = p.at[1:], p.seen[1:]
	}
}

// estimate says how long the rest takes at the pace of the last minutes.
func (p *pace) estimate(b *Backfill) {
	n := len(p.at)
	if b == nil || n < 2 {
		return
	}
	if took := p.at[n-1].Sub(p.at[0]); took >= paceSure {
		since := b.PaceSince(p.seen[0], took)
		b.Rate, b.Left = since.Repos, since.Remaining
	}
}
