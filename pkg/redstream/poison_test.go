package redstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// TestPoisonDoesNotTakeItsNeighbours: one entry kills whoever handles it. It is
// parked after its deliveries; the entries that were held with it each time are
// handled.
func TestPoisonDoesNotTakeItsNeighbours(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 40)
	s := newSeen()
	cfg := redstream.ConsumerConfig{
		Group: "g", Consumer: "c1", Streams: []string{"s"}, Batch: 20, Block: 20 * time.Millisecond,
		ClaimIdle: time.Hour, MaxDeliveries: 4,
	}
	q := b.DeadLetters("s", "")
	died := errors.New("died")
	deaths := 0
	for deadline := time.Now().Add(20 * time.Second); ; {
		cons, err := b.NewConsumer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			for ctx.Err() == nil {
				if n, _ := q.Len(ctx); n > 0 && b.pendingCount("s", "g") == 0 && len(s.missing(0, 40)) == 1 {
					return
				}
				<-time.After(10 * time.Millisecond)
			}
		}()
		err = cons.Run(ctx, func(_ context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				if v, _ := d.Get("event"); v == "7" {
					return died // with everything in the batch
				}
			}
			s.add(batch...)
			cons.Ack(batch...)
			return nil
		})
		cancel()
		expired, end := context.WithCancel(t.Context())
		end()
		_ = cons.Close(expired) // as after a kill: nothing is handed over
		if err == nil {
			break
		}
		if deaths++; time.Now().After(deadline) {
			t.Fatalf("%d deaths, missing %v", deaths, s.missing(0, 40))
		}
	}
	list, err := q.List(t.Context(), "", 100)
	if err != nil || len(list) != 1 || list[0].Fields[0].Value != "7" || list[0].Reason != redstream.ReasonPoison {
		t.Fatalf("%d dead letters: %v %v", len(list), list, err)
	}
	if deaths != 4 {
		t.Errorf("%d deaths, want one for each of the 4 deliveries", deaths)
	}
}

// TestPoisonThatCannotBeParked: dead letters of another type strand neither the
// poison nor the entries that came with it.
func TestPoisonThatCannotBeParked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 20)
	b.must("SET", b.key("s_dlq"), "no stream")
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "20", "STREAMS", b.key("s"), ">")
	first := b.firstID("s")
	b.must("XCLAIM", b.key("s"), "g", "dead", "0", first, "RETRYCOUNT", "9", "JUSTID")
	s := newSeen()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 200 * time.Millisecond, MaxDeliveries: 3}, acking(s))
	eventually(t, "the neighbours are handled", 10*time.Second, func() bool { return b.pendingCount("s", "g") == 1 })
	if missing := s.missing(0, 20); len(missing) != 1 || missing[0] != "0" {
		t.Fatalf("missing %v", missing)
	}
	eventually(t, "only the poison is held", 10*time.Second, func() bool { return m.Held() == 1 })
	b.must("DEL", b.key("s_dlq"))
	eventually(t, "parked after all", 10*time.Second, func() bool {
		n, err := b.DeadLetters("s", "").Len(t.Context())
		return err == nil && n == 1 && b.pendingCount("s", "g") == 0 && m.Held() == 0
	})
}

func (b *bench) firstID(stream string) string {
	b.t.Helper()
	list, err := b.redis("XRANGE", b.key(stream), "-", "+", "COUNT", "1").AsXRange()
	if err != nil || len(list) != 1 {
		b.t.Fatal(list, err)
	}
	return list[0].ID
}

// TestBreakerStopsParking: while everything fails nothing is to blame.
func TestBreakerStopsParking(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 20)
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "10", "STREAMS", b.key("s"), ">")
	s := newSeen()
	var m *member
	ready := make(chan struct{})
	m = join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, MaxDeliveries: 2, ClaimIdle: 100 * time.Millisecond},
		func(cons *redstream.Consumer) redstream.Handler {
			cons.Unhealthy(true)
			return func(_ context.Context, batch []redstream.Delivery) error {
				select {
				case <-ready:
					s.add(batch...)
					cons.Ack(batch...)
				default:
					cons.Retry(5*time.Millisecond, batch...)
				}
				return nil
			}
		})
	eventually(t, "many retries", 5*time.Second, func() bool { return b.metric("redelivered_total", "s") > 100 })
	if n, _ := b.DeadLetters("s", "").Len(t.Context()); n != 0 {
		t.Fatalf("%d entries parked while everything fails", n)
	}
	if b.metric("claimed_total", "s") != 0 || b.metric("breaker_open", "s") != 1 {
		t.Fatal("claimed although the breaker is open")
	}
	close(ready)
	m.Unhealthy(false)
	eventually(t, "all handled", 5*time.Second, func() bool { return len(s.missing(0, 20)) == 0 })
}

// TestKeepAlive: an entry that is worked on for longer than the claim time is
// not taken away.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 5)
	slow, quick := newSeen(), newSeen()
	release := make(chan struct{})
	cfg := redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 300 * time.Millisecond}
	join(t, b.Client, cfg, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			slow.add(batch...)
			select {
			case <-release:
			case <-ctx.Done():
			}
			cons.Ack(batch...)
			return nil
		}
	})
	eventually(t, "held", 5*time.Second, func() bool { return slow.distinct() == 5 })
	cfg.Consumer = "c2"
	join(t, b.Client, cfg, acking(quick))
	eventually(t, "three claim times pass", 5*time.Second, func() bool { return b.oldest("s", "g") > 900*time.Millisecond })
	if n := quick.distinct(); n != 0 {
		t.Fatalf("%d entries taken from a consumer that works on them", n)
	}
	close(release)
	eventually(t, "acked", 5*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
	if b.metric("claimed_total", "s") != 0 {
		t.Fatal("claimed")
	}
}

func (b *bench) oldest(stream, group string) time.Duration {
	b.t.Helper()
	st, err := b.Stats(context.Background(), stream)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, g := range st.Groups {
		if g.Name == group {
			return g.OldestPending
		}
	}
	return 0
}

// TestWindow: reading stops at the window and goes on as acks free it.
func TestWindow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 300)
	s := newSeen()
	held := make(chan redstream.Delivery, 1000)
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Batch: 10, Window: 30},
		func(*redstream.Consumer) redstream.Handler {
			return func(_ context.Context, batch []redstream.Delivery) error {
				s.add(batch...)
				for _, d := range batch {
					held <- d
				}
				return nil
			}
		})
	for done := 0; done < 300; {
		eventually(t, fmt.Sprint("window full at ", done), 5*time.Second, func() bool {
			return s.distinct() == min(done+30, 300)
		})
		if n := m.Held(); n > 30 {
			t.Fatalf("%d held", n)
		}
		for range min(30, 300-done) {
			m.Ack(<-held)
			done++
		}
	}
	eventually(t, "all acked", 5*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
}
