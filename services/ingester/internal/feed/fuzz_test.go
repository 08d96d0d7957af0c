package feed

import (
	"math/rand/v2"
	"testing"

	"sluice/pkg/testkit/repo"
)

// The beginning of a message that is too large is read as far as it goes.
func FuzzPeek(f *testing.F) {
	f.Add(repo.ErrorFrame("FutureCursor", "x"))
	whole := append(repo.MustEncode(repo.Map{"op": 1, "t": "#commit"}), repo.MustEncode(repo.Map{
		"seq": 5, "repo": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "rev": "3lqk4bk4ikg24", "blocks": make([]byte, 300),
	})...)
	f.Add(whole)
	f.Add(whole[:len(whole)-200])
	f.Fuzz(func(t *testing.T, beginning []byte) {
		if seq, _ := Peek(beginning); seq < 0 {
			t.Fatalf("seq %d", seq)
		}
	})
}

// However numbers come, none is called seen that was not, but for those that
// are below where it began; and the highest never goes down.
func FuzzWindow(f *testing.F) {
	f.Add(uint64(1), int64(5), uint8(3))
	f.Add(uint64(2), int64(1<<52), uint8(60))
	f.Fuzz(func(t *testing.T, seed uint64, start int64, spread uint8) {
		if start < 0 || start > maxSeq/2 {
			return
		}
		var w Window
		w.Start(start)
		chance := rand.New(rand.NewPCG(seed, 1))
		seen := map[int64]bool{}
		for range 300 {
			seq := start + 1 + chance.Int64N(int64(spread)*1000+10)
			high := w.High()
			order, _ := w.Observe(seq)
			if order == Seen && !seen[seq] || order == Next && seen[seq] {
				t.Fatalf("%d is %d after %v", seq, order, seen)
			}
			if w.High() < high {
				t.Fatalf("highest goes from %d to %d", high, w.High())
			}
			seen[seq] = true
		}
	})
}
