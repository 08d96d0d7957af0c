package feed

// windowSize is how far below the highest sequence number a frame is still
// recognised as seen before or as late. A power of two times 64.
const windowSize = 1 << 14

// maxSeq is above every sequence number: what a script compares exactly.
const maxSeq = 1 << 53

// Plausible says whether seq can be the place of a frame.
func Plausible(seq int64) bool { return seq > 0 && seq < maxSeq }

const (
	// jumpLimit is how far a number may be above all before it: for a thousand
	// frames a second, 35 years.
	jumpLimit = 1 << 40
	// trustedJumps in a row beyond it are a new way of counting.
	trustedJumps = 100
)

// Order is how a sequence number stands to those before it.
type Order uint8

const (
	// Next is above everything before it.
	Next Order = iota
	// Late is below the highest, and not seen before.
	Late
	// Seen was seen before.
	Seen
)

// Window remembers which of the latest sequence numbers of a relay were
// seen, so that a repeated frame is told from one that comes out of order.
// The zero value has seen nothing.
type Window struct {
	started bool
	high    int64
	floor   int64 // everything at or below it counts as seen
	jumps   int   // numbers in a row beyond the limit
	bits    [windowSize / 64]uint64
}

// High is the highest number seen; 0 before the first.
func (w *Window) High() int64 { return w.high }

// Start begins after seq: it and all below it count as seen.
func (w *Window) Start(seq int64) {
	*w = Window{started: true, high: seq, floor: seq}
}

// Observe records seq and returns how it stands, and how many numbers were
// skipped between the highest before and it. A number absurdly far ahead is
// Late, so that the cursor does not follow it, until so many came in a row that
// the host must count anew: one number that is nonsense costs nothing.
func (w *Window) Observe(seq int64) (order Order, skipped int64) {
	if !w.started {
		w.Start(seq - 1)
	}
	if w.high == 0 || seq-w.high <= jumpLimit {
		w.jumps = 0
	} else if w.jumps++; w.jumps < trustedJumps {
		return Late, 0
	} else {
		w.Start(seq - 1)
	}
	switch {
	case seq > w.high:
		skipped = seq - w.high - 1
		w.advance(seq)
		return Next, skipped
	case seq <= w.floor || w.bit(seq):
		return Seen, 0
	case seq <= w.high-windowSize:
		return Late, 0
	default:
		w.set(seq)
		return Late, 0
	}
}

func (w *Window) advance(seq int64) {
	if seq-w.high >= windowSize {
		clear(w.bits[:])
	} else {
		for s := w.high + 1; s < seq; s++ {
			w.unset(s)
		}
	}
	w.high = seq
	w.set(seq)
}

func (w *Window) bit(seq int64) bool {
	if seq <= w.high-windowSize {
		return false
	}
	i := uint64(seq) % windowSize
	return w.bits[i/64]&(1<<(i%64)) != 0
}

func (w *Window) set(seq int64) {
	i := uint64(seq) % windowSize
	w.bits[i/64] |= 1 << (i % 64)
}

func (w *Window) unset(seq int64) {
	i := uint64(seq) % windowSize
	w.bits[i/64] &^= 1 << (i % 64)
}
