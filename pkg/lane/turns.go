package lane

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// Turns bounds how many batches are applied at once, and finds the bound by
// measuring. More at once than what applies them has processors for does not
// only gain nothing: a database with two busy connections for each processor
// writes half as fast as with one.
//
// The bound follows what one value costs in a batch, as TCP Vegas follows the
// round trip (Brakmo and Peterson, 1995): what it costs alone, over what it
// costs now, says how many of the batches only wait for each other. Few: one
// more. Many: one fewer. What it costs alone is measured again now and then.
type Turns struct {
	most, least int

	mu      sync.Mutex
	limit   int
	busy    int
	waiting []chan struct{}

	alone   float64   // seconds that a value costs in a batch that is applied alone
	back    int       // the bound to return to after measuring alone
	skip    int       // batches that began under another bound
	costs   []float64 // of a value, in batches under this bound
	overdue int       // batches under this bound that took too long
	decided int       // decisions since alone was measured
	again   int       // after how many of them it is measured again
}

// The pace of learning.
const (
	// turnsSamples is how many batches a decision is based on, times the bound.
	turnsSamples = 4
	// A value is measured alone again after turnsFirst decisions, then after
	// twice as many each time, up to turnsAgain.
	turnsFirst, turnsAgain = 8, 128
	// turnsPatience is how long a turn counts. What takes longer is in trouble,
	// of its own or of the database, and is not to hold up the others.
	turnsPatience = 5 * time.Second
	// turnsCold is how many batches go by before the first one is measured.
	turnsCold = 4
)

// NewTurns returns turns for at most most batches at once. Batches of fewer
// than least values say nothing: small ones cost more a value.
func NewTurns(most, least int) *Turns {
	return &Turns{most: max(most, 1), least: least, limit: 1, skip: turnsCold, again: turnsFirst}
}

// Limit is the bound of the moment.
func (t *Turns) Limit() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limit
}

// Take waits for a turn, first come, first served. The turn ends with done,
// called once with the number of values that were applied in it and the time
// that it took to apply them; 0 for a batch that says nothing. After five
// seconds it counts no more, and others may go on. An error is that of ctx.
func (t *Turns) Take(ctx context.Context) (done func(n int, took time.Duration), err error) {
	if err := t.wait(ctx); err != nil {
		return nil, err
	}
	overdue := time.AfterFunc(turnsPatience, t.giveUp)
	return func(n int, took time.Duration) {
		if overdue.Stop() {
			t.end(n, took)
		}
	}, nil
}

func (t *Turns) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if t.busy < t.limit && len(t.waiting) == 0 {
		t.busy++
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	t.waiting = append(t.waiting, turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, turn); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	} else {
		t.leave() // it came just now
	}
	return ctx.Err()
}

func (t *Turns) end(n int, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// With a turn to spare the bound is not what bounds.
	if n >= t.least && n > 0 && t.busy >= t.limit {
		t.learn(took.Seconds() / float64(n))
	}
	t.leave()
}

// giveUp ends a turn that lasts too long. One such batch is in trouble of its
// own; as many as there are turns mean that the database is.
func (t *Turns) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overdue++; t.overdue > t.limit {
		t.set(t.limit / 2)
	}
	t.leave()
}

func (t *Turns) leave() {
	t.busy--
	t.pass()
}

// pass gives the free turns to those who wait.
func (t *Turns) pass() {
	for len(t.waiting) > 0 && t.busy < t.limit {
		close(t.waiting[0])
		t.waiting = slices.Delete(t.waiting, 0, 1)
		t.busy++
	}
}

// learn takes the cost of a value in one batch. What counts is the median: a
// batch that waited for a lock or was tried again says nothing of the others.
func (t *Turns) learn(cost float64) {
	if t.skip > 0 {
		t.skip--
		return
	}
	t.costs = append(t.costs, cost)
	if len(t.costs) < turnsSamples*t.limit {
		return
	}
	slices.Sort(t.costs)
	median := t.costs[(len(t.costs)-1)/2]
	t.decided++
	switch {
	case t.limit == 1:
		t.alone, t.decided = median, 0
		t.set(max(t.back, 2))
		t.back = 0
	case t.decided >= t.again:
		t.back, t.again = t.limit, min(2*t.again, turnsAgain)
		t.set(1)
	default:
		t.set(t.next(median))
	}
}

// next is the bound after one under which a value costs so much.
func (t *Turns) next(cost float64) int {
	queued := float64(t.limit) * (1 - t.alone/cost)
	few := 0.25 + 0.35*math.Log2(float64(t.limit))
	switch {
	case queued < few:
		return t.limit + 1
	case queued > 2*few:
		return t.limit - 1
	default:
		return t.limit
	}
}

func (t *Turns) set(limit int) {
	limit = min(max(limit, 1), t.most)
	if limit != t.limit {
		t.skip = max(t.busy-1, 0) // those that are under way
	}
	t.limit, t.costs, t.overdue = limit, t.costs[:0], 0
}
