package redstream_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// TestPostponeIsNotCounted: an entry that is postponed more often than it may
// be delivered is still handed out, with the count it had.
func TestPostponeIsNotCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 3)
	cons, err := b.NewConsumer(redstream.ConsumerConfig{
		Group: "g", Consumer: "c1", Streams: []string{"s"}, Block: 20 * time.Millisecond, ClaimIdle: time.Hour, MaxDeliveries: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var acked, worst atomic.Int64
	times := map[string]int{}
	err = cons.Run(ctx, func(_ context.Context, batch []redstream.Delivery) error {
		for _, d := range batch {
			worst.Store(max(worst.Load(), d.Deliveries))
			if times[d.ID]++; times[d.ID] <= 10 {
				cons.Postpone(time.Millisecond, d)
				continue
			}
			cons.Ack(d)
			if acked.Add(1) == 3 {
				cancel()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cons.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := b.DeadLetters("s", "").Len(t.Context())
	if err != nil || n != 0 || acked.Load() != 3 || worst.Load() != 1 {
		t.Fatalf("%d dead letters (%v), %d acknowledged, delivery %d, want 0, 3, 1", n, err, acked.Load(), worst.Load())
	}
}
