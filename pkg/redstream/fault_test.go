package redstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// broken is a bench whose client goes through a proxy.
type broken struct {
	*bench
	*proxy
}

func newBroken(t *testing.T) *broken {
	t.Helper()
	b := newBench(t)
	p := newProxy(t, b.url)
	b.Client = open(t, p.url(), b.prefix)
	return &broken{b, p}
}

// finish checks that all of 0 … n-1 were handled and that the stream empties.
func (b *broken) finish(s *seen, n int) {
	b.t.Helper()
	eventually(b.t, "all handled", 10*time.Second, func() bool { return len(s.missing(0, n)) == 0 })
	eventually(b.t, "all acked", 10*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
	eventually(b.t, "trimmed", 10*time.Second, func() bool {
		_, _, err := b.Trim(b.t.Context(), "s", "g")
		return err == nil && b.length("s") == 0
	})
}

// TestFaultTable breaks one step of the road in each way, on the real socket.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	steps := map[string]func(*testing.T, *broken, failure){
		"append":        faultAppend,
		"append_plain":  faultAppendPlain,
		"cursor":        faultCursor,
		"read":          faultRead,
		"history":       faultHistory,
		"ack":           faultAck,
		"claim":         faultClaim,
		"park":          faultPark,
		"trim":          faultTrim,
		"delay":         faultDelay,
		"redrive":       faultRedrive,
		"create_group":  faultCreateGroup,
		"list_pending":  faultListPending,
		"leave":         faultLeave,
		"gate":          faultGate,
		"second_chance": faultAgain,
	}
	kinds := map[string]failure{"not_stored": notStored, "stored": stored, "hang": hang}
	// A server that hangs costs its timeout each time; the short form tries it
	// where an answer that never comes matters most.
	hanging := map[string]bool{"append": true, "cursor": true, "read": true, "ack": true, "park": true, "trim": true}
	for name, step := range steps {
		for how, kind := range kinds {
			if kind == hang && !hanging[name] && !soak() {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", name, how), func(t *testing.T) {
				t.Parallel()
				step(t, newBroken(t), kind)
			})
		}
	}
}

func (p *plan) mustFire(t *testing.T, n int64) {
	t.Helper()
	if got := p.fired.Load(); got < n {
		t.Fatalf("the fault happened %d times, planned %d", got, n)
	}
}

func (b *broken) writer() *redstream.Writer {
	b.t.Helper()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(w.Close)
	return w
}

func faultAppend(t *testing.T, b *broken, kind failure) {
	t.Helper()
	w := b.writer()
	pl := b.arm(kind, 3, "EVAL", ":cursor:")
	for i := range 10 {
		if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(10*i, 10), int64(10*i+9)); err != nil {
			t.Fatal(err)
		}
	}
	pl.mustFire(t, 3)
	if n := b.length("s"); n != 100 {
		t.Fatalf("%d entries for 100 items", n)
	}
	if v := b.must("GET", b.key("s:cursor:h")); v != "99" {
		t.Fatalf("cursor %s", v)
	}
	list, err := b.redis("XRANGE", b.key("s"), "-", "+").AsXRangeSlices()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range list {
		if e.FieldValues[0].Value != fmt.Sprint(i) {
			t.Fatalf("entry %d is %s", i, e.FieldValues[0].Value)
		}
	}
}

func faultAppendPlain(t *testing.T, b *broken, kind failure) {
	t.Helper()
	w := b.writer()
	pl := b.arm(kind, 1, "MULTI", "XADD")
	if err := w.Append(t.Context(), items(0, 10)); err != nil {
		t.Fatal(err)
	}
	pl.mustFire(t, 1)
	least := 10
	if kind != notStored {
		least = 20 // a lost answer adds all of it again, never a part
	}
	if n := b.length("s"); n < least || n%10 != 0 {
		t.Fatalf("%d entries, want %d", n, least)
	}
}

func faultCursor(t *testing.T, b *broken, kind failure) {
	t.Helper()
	w := b.writer()
	pl := b.arm(kind, 3, "EVAL", ":cursor:")
	last := ""
	for i := range 10 {
		next := fmt.Sprintf("page-%d", i)
		if _, err := w.AppendCAS(t.Context(), "s:cursor:h", last, next, items(10*i, 10)); err != nil {
			t.Fatal(err)
		}
		last = next
	}
	pl.mustFire(t, 3)
	if n := b.length("s"); n != 100 {
		t.Fatalf("%d entries for 100 items", n)
	}
	if v, _, err := b.Cursor(t.Context(), "s:cursor:h"); v != last || err != nil {
		t.Fatal(v, err)
	}
	if _, err := w.AppendCAS(t.Context(), "s:cursor:h", "page-3", "page-4", items(0, 1)); !errors.Is(err, redstream.ErrCursorMoved) {
		t.Fatal(err)
	}
}

func faultRead(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 200)
	pl := b.arm(kind, 4, "XREADGROUP", ">")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Batch: 20}, acking(s))
	b.finish(s, 200)
	pl.mustFire(t, 4)
}

func faultHistory(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 100)
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.must("XREADGROUP", "GROUP", "g", "c1", "COUNT", "100", "STREAMS", b.key("s"), ">")
	pl := b.arm(kind, 2, "XREADGROUP", "STREAMS")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Batch: 20}, acking(s))
	b.finish(s, 100)
	pl.mustFire(t, 2)
}

func faultAck(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	pl := b.arm(kind, 3, "XACK")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	for i := range 10 {
		b.fill("s", 20*i, 20)
	}
	b.finish(s, 200)
	pl.mustFire(t, 1)
	if s.total != 200 {
		t.Fatalf("%d deliveries of 200 entries: a failed ack is repeated, not redelivered", s.total)
	}
}

func faultClaim(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 100)
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "100", "STREAMS", b.key("s"), ">")
	pl := b.arm(kind, 2, "XCLAIM")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 300 * time.Millisecond, MaxDeliveries: 50}, acking(s))
	b.finish(s, 100)
	pl.mustFire(t, 2)
}

func faultPark(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 30)
	pl := b.arm(kind, 2, "EVAL", "s_dlq")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			s.add(batch...)
			for _, d := range batch {
				if err := cons.Park(ctx, d, "bad", nil); err != nil {
					return err
				}
			}
			return nil
		}
	})
	b.finish(s, 30)
	pl.mustFire(t, 2)
	list, err := b.DeadLetters("s", "").List(t.Context(), "", 100)
	if err != nil || len(list) != 30 {
		t.Fatalf("%d dead letters for 30 entries, %v", len(list), err)
	}
	for i, d := range list {
		if v := d.Fields[0].Value; v != fmt.Sprint(i) {
			t.Fatalf("dead letter %d is %s", i, v)
		}
	}
}

func faultTrim(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 500)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	eventually(t, "all acked", 5*time.Second, func() bool { return s.distinct() == 500 && b.pendingCount("s", "g") == 0 })
	pl := b.arm(kind, 2, "EVAL", "10000")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	tr := b.NewTrimmer(redstream.TrimConfig{Streams: map[string][]string{"s": {"g"}}, Every: 10 * time.Millisecond})
	go func() { done <- tr.Run(ctx) }()
	eventually(t, "trimmed", 10*time.Second, func() bool { return b.length("s") == 0 && pl.fired.Load() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func faultDelay(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 20)
	q := b.NewDelayed("s:delayed", "s")
	pl := b.arm(kind, 3, "EVAL", "s:delayed")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				s.add(d)
				if _, again := d.Get("again"); again {
					cons.Ack(d)
					continue
				}
				f := append(d.Fields, redstream.Field{Name: "again", Value: "1"})
				if err := q.AddAndAck(ctx, d, "g", f, time.Now()); err != nil {
					return err
				}
			}
			return nil
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	eventually(t, "each twice", 15*time.Second, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.total >= 40 })
	b.finish(s, 20)
	pl.mustFire(t, 3)
	if s.total != 40 {
		t.Fatalf("%d deliveries, want 40", s.total)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func faultRedrive(t *testing.T, b *broken, kind failure) {
	t.Helper()
	for i := range 20 {
		b.must("XADD", b.key("s_dlq"), "*", "event", fmt.Sprint(i), "reason", "bad", "error", "", "attempts", "1",
			"first_seen", "", "parked_at", "", "source_id", "1-1")
	}
	pl := b.arm(kind, 1, "EVAL", "s_dlq")
	q := b.DeadLetters("s", "")
	_, err := q.Redrive(t.Context(), redstream.Filter{})
	pl.mustFire(t, 1)
	if err == nil {
		t.Fatal("a broken redrive says so")
	}
	if _, err := q.Redrive(t.Context(), redstream.Filter{}); err != nil {
		t.Fatal(err)
	}
	left, err := q.Len(t.Context())
	if err != nil || left != 0 || b.length("s") != 20 {
		t.Fatalf("%d left, %d in the stream, %v", left, b.length("s"), err)
	}
}

func faultCreateGroup(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 20)
	pl := b.arm(kind, 2, "XGROUP", "CREATE")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	b.finish(s, 20)
	pl.mustFire(t, 2)
}

func faultListPending(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 100)
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "100", "STREAMS", b.key("s"), ">")
	pl := b.arm(kind, 2, "XPENDING")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 300 * time.Millisecond}, acking(s))
	b.finish(s, 100)
	pl.mustFire(t, 2)
}

func faultLeave(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 40)
	// The first member holds everything and leaves over a connection that breaks.
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 600 * time.Millisecond},
		func(*redstream.Consumer) redstream.Handler {
			return func(context.Context, []redstream.Delivery) error { return nil }
		})
	eventually(t, "held", 5*time.Second, func() bool { return m.Held() == 40 })
	pl := b.arm(kind, 1, "XCLAIM", "IDLE")
	m.leave()
	pl.mustFire(t, 1)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Consumer: "c2", ClaimIdle: 600 * time.Millisecond}, acking(s))
	b.finish(s, 40)
}

func faultGate(t *testing.T, b *broken, kind failure) {
	t.Helper()
	b.fill("s", 0, 10)
	var turns atomic.Int64
	g := b.NewGate(redstream.GateConfig{
		Stream: "s", High: 10, Every: 20 * time.Millisecond, OnChange: func(bool) { turns.Add(1) },
	})
	pl := b.arm(kind, 2, "EVAL")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.Wait(ctx); err == nil {
		t.Fatal("open although Redis could not be asked, or the stream is full")
	}
	b.must("XTRIM", b.key("s"), "MAXLEN", "8")
	if err := g.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	pl.mustFire(t, 1)
}

func faultAgain(t *testing.T, b *broken, kind failure) {
	t.Helper()
	s := newSeen()
	b.fill("s", 0, 20)
	pl := b.arm(kind, 1, "XCLAIM", "RETRYCOUNT")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(_ context.Context, batch []redstream.Delivery) error {
			s.add(batch...)
			for _, d := range batch {
				if d.Deliveries == 1 {
					cons.Retry(20*time.Millisecond, d)
				} else {
					cons.Ack(d)
				}
			}
			return nil
		}
	})
	eventually(t, "each twice", 10*time.Second, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.total >= 40 })
	b.finish(s, 20)
	pl.mustFire(t, 1)
}
