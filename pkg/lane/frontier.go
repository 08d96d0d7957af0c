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
	for len(f.heap) > 0 && f.open[f.heap[0]] == 0 {
		heap.Pop(&f.heap)
	}
	if len(f.heap) == 0 {
		return f.highest
	}
	return f.heap[0] - 1
}

// Pending is the number of open sequences.
func (f *Frontier) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open)
}

type seqHeap []int64

func (h seqHeap) Len() int           { return len(h) }
func (h seqHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h seqHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *seqHeap) Push(x any)        { *h = append(*h, x.(int64)) } //nolint:forcetypeassert // only Open pushes
func (h *seqHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
