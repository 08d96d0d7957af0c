package redstream_test

import (
	"errors"
	"strconv"
	"testing"

	"sluice/pkg/redstream"
)

// TestRedriveSkipsWhatIsTooWide: a letter that no script can carry stays and is
// reported, and all others go.
func TestRedriveSkipsWhatIsTooWide(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 6 {
		args := []string{"XADD", b.key("s_dlq"), "*", "event", strconv.Itoa(i)}
		if i%3 == 1 {
			for range 3100 {
				args = append(args, "f", "v")
			}
		}
		b.must(append(args, "reason", "bad", "error", "", "attempts", "1", "first_seen", "", "parked_at", "", "source_id", "1-1")...)
	}
	q := b.DeadLetters("s", "")
	n, err := q.Redrive(t.Context(), redstream.Filter{})
	if n != 4 || !errors.Is(err, redstream.ErrTooWide) {
		t.Fatal(n, err)
	}
	left, err := q.List(t.Context(), "", 10)
	if err != nil || len(left) != 2 || b.length("s") != 4 {
		t.Fatalf("%d left, %d in the stream, %v", len(left), b.length("s"), err)
	}
}
