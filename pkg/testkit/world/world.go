package world

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Frame is one message of the relay.
type Frame struct {
	Seq     int64
	Account *Account
	Kind    Kind
	Data    []byte
	// More says that a later commit of the account is announced: the loss or
	// damage of this one can be noticed.
	More bool
	// Known says that an earlier commit of the account is announced: without one,
	// nobody can tell that this one did not come.
	Known bool
}

// World is what happened. It may be read concurrently, also while Step goes on.
type World struct {
	Options Options

	mu       sync.RWMutex
	gen      *generator
	frames   []Frame
	labels   []LabelFrame
	labelled *labelBook
	byDID    map[string]*Account
	handles  map[string]*Account
	last     map[*Account]int // index of the last commit frame
	changed  chan struct{}
	live     lottery
}

// Generate makes the world of the options.
func Generate(o Options) (*World, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("world options: %w", err)
	}
	o = o.withDefaults()
	g, err := newGenerator(o)
	if err != nil {
		return nil, fmt.Errorf("make accounts: %w", err)
	}
	w := &World{
		Options: o, gen: g, byDID: map[string]*Account{}, last: map[*Account]int{}, changed: make(chan struct{}),
		live: newLottery(mix(), changes()), labelled: newLabelBook(),
	}
	for _, a := range g.accounts {
		w.byDID[a.DID] = a
	}
	past := int(float64(o.Records) * o.BackfillShare)
	g.history(past)
	if err := w.load(g.drain()); err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	g.window(o.Records - past)
	if err := w.build(g.drain()); err != nil {
		return nil, fmt.Errorf("build window: %w", err)
	}
	if err := w.emitLabels(o.Labels); err != nil {
		return nil, fmt.Errorf("make labels: %w", err)
	}
	w.indexHandles()
	return w, nil
}

// Step lets n more things happen, at the time of now, and hands them to whoever
// reads frames.
func (w *World) Step(n int, now func() time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.gen
	g.clock = now
	for range n {
		g.act(w.live)
	}
	if err := w.build(g.drain()); err != nil {
		return fmt.Errorf("step: %w", err)
	}
	if n >= 20 || g.rng.IntN(20) == 0 {
		if err := w.emitLabels(max(1, n/20)); err != nil {
			return fmt.Errorf("step: %w", err)
		}
	}
	w.indexHandles()
	close(w.changed)
	w.changed = make(chan struct{})
	return nil
}

// byAccount splits jobs by account, each part in order.
func byAccount(jobs []*job) [][]int {
	at := map[*Account]int{}
	var parts [][]int
	for i, j := range jobs {
		n, found := at[j.account]
		if !found {
			n = len(parts)
			at[j.account] = n
			parts = append(parts, nil)
		}
		parts[n] = append(parts[n], i)
	}
	return parts
}

// each runs f for every part, several at once.
func each(parts [][]int, f func(part []int) error) error {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range parts {
		group.Go(func() error { return f(p) })
	}
	return group.Wait()
}

// Frames returns the frames from index on, at most limit, and a channel that is
// closed when there are more.
func (w *World) Frames(index, limit int) ([]Frame, <-chan struct{}) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if index >= len(w.frames) {
		return nil, w.changed
	}
	end := min(len(w.frames), index+limit)
	return slices.Clone(w.frames[index:end]), w.changed
}

// After returns the index of the first frame with a seq above cursor.
func (w *World) After(cursor int64) int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	lo, hi := 0, len(w.frames)
	for lo < hi {
		mid := (lo + hi) / 2
		if w.frames[mid].Seq > cursor {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// Seqs returns the first and the last sequence number of the relay, both 0 if
// it has no frame.
func (w *World) Seqs() (first, last int64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.frames) == 0 {
		return 0, 0
	}
	return w.frames[0].Seq, w.frames[len(w.frames)-1].Seq
}

// Len is the number of frames.
func (w *World) Len() int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.frames)
}

// Accounts returns all accounts, in a fixed order.
func (w *World) Accounts() []*Account { return w.gen.accounts }

// Account finds an account by DID; nil if there is none.
func (w *World) Account(did string) *Account { return w.byDID[did] }

// State returns the present state of an account.
func (w *World) State(a *Account) State {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return a.state
}

// Resolve finds the account whose handle this is, if it resolves.
func (w *World) Resolve(handle string) *Account {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.handles[handle]
}

// indexHandles follows what has happened to handles.
func (w *World) indexHandles() {
	w.handles = make(map[string]*Account, len(w.gen.accounts))
	for _, a := range w.gen.accounts {
		if a.state.Resolves && a.state.Status != "deleted" {
			w.handles[a.state.Handle] = a
		}
	}
}

// Stats counts what was done, by name: "create app.bsky.feed.post", "frame
// #sync", "moved" and so on.
func (w *World) Stats() map[string]int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	out := make(map[string]int, len(w.gen.stats))
	maps.Copy(out, w.gen.stats)
	return out
}
