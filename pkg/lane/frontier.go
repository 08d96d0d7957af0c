package lane

import (
	"container/heap"
	"sync"
)

// Frontier tracks sequence numbers that are opened and done in any order, and
// knows below which of them everything is done. Safe for concurrent use.
type Frontier struct {
	mu      sync.Mutex
	open    map[int64]int // how often a sequence is open
	heap    seqHeap       // every open sequence once, and done ones not yet removed
	highest int64
}

// NewFrontier returns a frontier at low: nothing is open, everything up to low
// is done.
func NewFrontier(low int64) *Frontier {
	return &Frontier{open: map[int64]int{}, highest: low}
}

// Open says that work on seq has begun. A sequence opened n times is done
// after n calls of Done.
func (f *Frontier) Open(seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[seq] == 0 {
		heap.Push(&f.heap, seq)
	}
	f.open[seq]++
	f.highest = max(f.highest, seq)
}

// Done says that work on seq has ended. A sequence that is not open is ignored.
func (f *Frontier) Done(seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.open[seq] {
	case 0:
	case 1:
		delete(f.open, seq)
	default:
		f.open[seq]--
	}
}

// Low is the highest number such that every sequence opened at or below it is
// done. It is always below every open sequence, so persisting it never skips
// work. It falls only when a sequence at or below it is opened.
func (f *Frontier) Low() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.heap.Len() > 0 && f.open[f.heap.s[0]] == 0 {
		heap.Pop(&f.heap)
	}
	if f.heap.Len() == 0 {
		return f.highest
	}
	return f.heap.s[0] - 1
}

// Pending is the number of open sequences.
func (f *Frontier) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open)
}

type seqHeap struct{ s []int64 }

func (h *seqHeap) Len() int           { return len(h.s) }
func (h *seqHeap) Less(i, j int) bool { return h.s[i] < h.s[j] }
func (h *seqHeap) Swap(i, j int)      { h.s[i], h.s[j] = h.s[j], h.s[i] }

func (h *seqHeap) Push(x any) {
	if seq, ok := x.(int64); ok {
		h.s = append(h.s, seq)
	}
}

func (h *seqHeap) Pop() any {
	x := h.s[len(h.s)-1]
	h.s = h.s[:len(h.s)-1]
	return x
}
