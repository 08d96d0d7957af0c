package redstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

func TestRoad(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	b.fill("s", 0, 5000)
	eventually(t, "all handled", 5*time.Second, func() bool { return s.distinct() == 5000 })
	eventually(t, "all acked", 5*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
	n, _, err := b.Trim(t.Context(), "s", "g")
	if err != nil || n != 5000 || b.length("s") != 0 {
		t.Fatalf("trimmed %d, %v; length %d", n, err, b.length("s"))
	}
	m.leave()
	rows, _ := b.redis("XINFO", "CONSUMERS", b.key("s"), "g").ToArray()
	if len(rows) != 0 {
		t.Fatalf("%d consumers left", len(rows))
	}
}

func TestAppendSeqAddsOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 2 {
		if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(1, 10), 15); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.length("s"); n != 10 {
		t.Fatalf("%d entries", n)
	}
	if v, ok, err := b.Cursor(t.Context(), "s:cursor:h"); v != "15" || !ok || err != nil {
		t.Fatalf("cursor %q %v %v", v, ok, err)
	}
	b.must("SET", b.key("s:cursor:h"), "3")
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(16, 1), 16); !errors.Is(err, redstream.ErrCursorMoved) {
		t.Fatalf("err %v", err)
	}
	w.Resume("s:cursor:h")
	if n, err := w.AppendSeq(t.Context(), "s:cursor:h", items(1, 16), 16); n != 13 || err != nil {
		t.Fatalf("added %d, %v", n, err)
	}
}

func TestParkAndRedrive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	b.fill("s", 0, 10)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				if v, _ := d.Get("event"); v == "3" && s.count[v] == 0 {
					s.add(d)
					if err := cons.Park(ctx, d, "bad", errors.New("no")); err != nil {
						return err
					}
					continue
				}
				s.add(d)
				cons.Ack(d)
			}
			return nil
		}
	})
	q := b.DeadLetters("s", "")
	eventually(t, "parked", 5*time.Second, func() bool { n, _ := q.Len(t.Context()); return n == 1 })
	list, err := q.List(t.Context(), "", 10)
	if err != nil || len(list) != 1 || list[0].Reason != "bad" || list[0].Error != "no" || list[0].Attempts != 1 ||
		len(list[0].Fields) != 1 || list[0].Fields[0].Value != "3" || list[0].ParkedAt.IsZero() {
		t.Fatalf("%+v %v", list, err)
	}
	if n, err := q.Redrive(t.Context(), redstream.Filter{Reason: "bad"}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	eventually(t, "handled again", 5*time.Second, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.count["3"] == 2 })
	eventually(t, "acked", 5*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
}

func TestRetryComesAgainAndThenIsParked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	b.fill("s", 0, 1)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, MaxDeliveries: 3}, func(cons *redstream.Consumer) redstream.Handler {
		return func(_ context.Context, batch []redstream.Delivery) error {
			s.add(batch...)
			cons.Retry(10*time.Millisecond, batch...)
			return nil
		}
	})
	q := b.DeadLetters("s", "")
	eventually(t, "parked", 5*time.Second, func() bool { n, _ := q.Len(t.Context()); return n == 1 })
	list, err := q.List(t.Context(), "", 10)
	if err != nil || list[0].Reason != redstream.ReasonPoison || s.total != 3 {
		t.Fatalf("%+v %v, %d deliveries", list, err, s.total)
	}
}

func TestCrashedConsumersWorkIsClaimed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.fill("s", 0, 100)
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "60", "STREAMS", b.key("s"), ">")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 200 * time.Millisecond}, acking(s))
	eventually(t, "all handled", 5*time.Second, func() bool { return s.distinct() == 100 })
	eventually(t, "dead one removed", 5*time.Second, func() bool {
		rows, _ := b.redis("XINFO", "CONSUMERS", b.key("s"), "g").ToArray()
		return len(rows) == 1
	})
}

func TestDelayed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	b.fill("s", 0, 2)
	q := b.NewDelayed("s:delayed", "s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				s.add(d)
				if v, _ := d.Get("event"); v == "1" && s.count[v] == 1 {
					f := append(d.Fields, redstream.Field{Name: "bin", Value: "\x00\xff\r\n"})
					if err := q.AddAndAck(ctx, d, "g", f, time.Now().Add(100*time.Millisecond)); err != nil {
						return err
					}
					continue
				}
				cons.Ack(d)
			}
			return nil
		}
	})
	eventually(t, "came again", 5*time.Second, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.count["1"] == 2 })
	eventually(t, "nothing held", 5*time.Second, func() bool { return m.Held() == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestGateAndMonitor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g := b.NewGate(redstream.GateConfig{Stream: "s", High: 100, Every: 10 * time.Millisecond})
	if err := g.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fill("s", 0, 100)
	eventually(t, "closed", time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return g.Wait(ctx) != nil && g.Closed()
	})
	m := b.NewMonitor(redstream.MonitorConfig{Streams: map[string][]string{"s": {"g"}, "none": {"g"}}})
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	if err := m.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := m.Stats("s"); st.Length != 100 || st.Lag != 100 || st.Added != 100 {
		t.Fatalf("%+v", st)
	}
	if st := m.Stats("none"); st.Length != 0 || st.Lag != -1 {
		t.Fatalf("%+v", st)
	}
	b.must("XTRIM", b.key("s"), "MAXLEN", "80")
	eventually(t, "open", time.Second, func() bool { return g.Wait(t.Context()) == nil && !g.Closed() })
}
