package redstream

import (
	"container/heap"
	"sync"
	"time"
)

// ledger knows the entries of one stream that this process holds, from the
// moment they are read until they are acknowledged, parked or lost.
type ledger struct {
	mu      sync.Mutex
	in      map[string]int64 // id → when Redis last heard that we hold it, in ns
	waiting dueHeap          // entries that Retry put off; they are in `in` too
	alone   string           // the suspect that is being worked on, "" none

	freed chan struct{} // a token when there may be more room, for read
	woken chan struct{} // a token when something was put off, for dispatch
}

func newLedger() *ledger {
	return &ledger{
		in: make(map[string]int64), freed: make(chan struct{}, 1), woken: make(chan struct{}, 1),
	}
}

// admit takes in what is not held yet and returns that.
func (l *ledger) admit(ds []Delivery) []Delivery {
	now := time.Now().UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := ds[:0]
	for i := range ds {
		if _, held := l.in[ds[i].ID]; !held {
			l.in[ds[i].ID] = now
			fresh = append(fresh, ds[i])
		}
	}
	return fresh
}

// release forgets ids.
func (l *ledger) release(ids ...string) {
	l.mu.Lock()
	for _, id := range ids {
		delete(l.in, id)
		l.settle(id)
	}
	l.mu.Unlock()
	signal(l.freed)
}

// settle notes that the handler is done with an entry for now. The caller has mu.
func (l *ledger) settle(id string) {
	if l.alone != "" && id == l.alone {
		l.alone = ""
		signal(l.woken)
	}
}

func (l *ledger) setAlone(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alone = id
}

// busyAlone says whether a suspect is being worked on.
func (l *ledger) busyAlone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alone != ""
}

func (l *ledger) holds(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.in[id]
	return ok
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.in)
}

// idle says whether everything held only waits for its time.
func (l *ledger) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) >= len(l.in)
}

// aging returns ids that Redis heard of before `old`, but not before `lost`:
// those may belong to somebody else by now.
func (l *ledger) aging(old, lost time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id, at := range l.in {
		if at < old.UnixNano() && at > lost.UnixNano() {
			ids = append(ids, id)
		}
	}
	return ids
}

// touch notes that Redis heard of ids at the given time.
func (l *ledger) touch(ids []string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if _, held := l.in[id]; held {
			l.in[id] = at.UnixNano()
		}
	}
}

// later puts entries off until due. Entries that are not held are ignored.
func (l *ledger) later(due time.Time, ds []Delivery) {
	l.mu.Lock()
	for _, d := range ds {
		if _, held := l.in[d.ID]; held {
			heap.Push(&l.waiting, put{due, d})
			l.settle(d.ID)
		}
	}
	l.mu.Unlock()
	signal(l.woken)
	signal(l.freed)
}

// due takes at most n entries whose time has come, and says how long the next
// one waits: negative if there is none.
func (l *ledger) due(now time.Time, n int) (ds []Delivery, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && len(ds) < n && !l.waiting[0].due.After(now) {
		if p, ok := heap.Pop(&l.waiting).(put); ok {
			ds = append(ds, p.d)
		}
	}
	if len(l.waiting) == 0 {
		return ds, -1
	}
	return ds, max(l.waiting[0].due.Sub(now), 0)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

type put struct {
	due time.Time
	d   Delivery
}

// dueHeap is a heap.Interface, the earliest first.
type dueHeap []put

func (h *dueHeap) Len() int           { return len(*h) }
func (h *dueHeap) Less(i, j int) bool { return (*h)[i].due.Before((*h)[j].due) }
func (h *dueHeap) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }

// Push adds x, which is a put.
func (h *dueHeap) Push(x any) {
	if p, ok := x.(put); ok {
		*h = append(*h, p)
	}
}

// Pop removes the last element.
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = put{}
	*h = old[:len(old)-1]
	return last
}
