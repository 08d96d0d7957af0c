package redstream_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// TestClaimHasRoomBesideAFullWindow: entries of the dead are taken although
// this consumer holds as much as it may read.
func TestClaimHasRoomBesideAFullWindow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 40)
	s := newSeen()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Batch: 20, Window: 20, ClaimIdle: 300 * time.Millisecond},
		func(*redstream.Consumer) redstream.Handler {
			return func(_ context.Context, batch []redstream.Delivery) error {
				s.add(batch...)
				return nil
			}
		})
	eventually(t, "the window is full", 5*time.Second, func() bool { return s.distinct() == 20 })
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "20", "STREAMS", b.key("s"), ">")
	eventually(t, "some of the dead's are claimed", 5*time.Second, func() bool { return s.distinct() == 25 })
	if missing := s.missing(0, 25); !slices.Equal(missing, nil) || m.Held() != 25 {
		t.Fatalf("%d held, missing %v", m.Held(), missing)
	}
}
