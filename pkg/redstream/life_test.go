package redstream_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func own(t *testing.T, args ...string) (*bench, *testkit.RedisServer) {
	t.Helper()
	s := testkit.StartRedis(t, args...)
	return benchAt(t, s.URL, ""), s
}

func TestFlushAllWhileBlocked(t *testing.T) {
	t.Parallel()
	b, _ := own(t)
	s := newSeen()
	b.fill("s", 0, 10)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Block: time.Second}, acking(s))
	eventually(t, "first part", 5*time.Second, func() bool { return s.distinct() == 10 })
	b.must("FLUSHALL")
	b.fill("s", 10, 10) // before anybody made the group again
	eventually(t, "second part", 5*time.Second, func() bool { return s.distinct() == 20 })
	b.must("DEL", "s")
	b.fill("s", 20, 10)
	eventually(t, "third part", 5*time.Second, func() bool { return s.distinct() == 30 })
}

func TestGroupDestroyedWhileBlocked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	b.fill("s", 0, 10)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Block: time.Second}, acking(s))
	eventually(t, "first part", 5*time.Second, func() bool { return s.distinct() == 10 })
	b.must("XGROUP", "DESTROY", b.key("s"), "g")
	b.fill("s", 10, 10)
	eventually(t, "second part", 5*time.Second, func() bool { return s.distinct() == 20 })
}

func TestRestartWithoutPersistence(t *testing.T) {
	t.Parallel()
	b, server := own(t)
	s := newSeen()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(0, 10), 9); err != nil {
		t.Fatal(err)
	}
	eventually(t, "first part", 5*time.Second, func() bool { return s.distinct() == 10 })
	server.Kill()
	server.Restart(t)
	// The cursor is gone with everything else: the writer says so and adds
	// nothing, for a jump would lose what was between.
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(10, 10), 19); err == nil || !strings.Contains(err.Error(), "cursor moved") {
		t.Fatalf("err %v", err)
	}
	w.Resume("s:cursor:h")
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(0, 20), 19); err != nil {
		t.Fatal(err)
	}
	eventually(t, "second part", 10*time.Second, func() bool { return s.distinct() == 20 })
}

func TestRestartWithAOF(t *testing.T) {
	t.Parallel()
	args := []string{"--appendonly", "yes", "--appendfsync", "always"}
	b, server := own(t, args...)
	s := newSeen()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	for i := range 20 {
		if i == 5 || i == 12 {
			server.Kill()
			server.Restart(t)
		}
		if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(10*i, 10), int64(10*i+9)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all handled", 10*time.Second, func() bool { return s.distinct() == 200 })
	eventually(t, "all acked", 10*time.Second, func() bool { return m.Held() == 0 && b.pendingCount("s", "g") == 0 })
	if n := b.must("XINFO", "STREAM", "s"); n == "" {
		t.Fatal("no stream")
	}
	if n := b.length("s"); n != 200 {
		t.Fatalf("%d entries for 200 items", n)
	}
}

func TestFullMemoryWaitsAndDrains(t *testing.T) {
	t.Parallel()
	b, _ := own(t, "--maxmemory", "6mb")
	s := newSeen()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	const n = 400
	done := make(chan error, 1)
	go func() { // 400 × 50 kB = 20 MB through 6 MB
		pad := strings.Repeat("x", 50_000)
		for i := range n {
			item := items(i, 1)
			item[0].Fields = append(item[0].Fields, redstream.Field{Name: "pad", Value: pad})
			if _, err := w.AppendSeq(context.Background(), "s:cursor:h", item, int64(i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	// Acks, the dead letter and the trim must go through when memory is full,
	// or nothing would ever free it.
	eventually(t, "memory full", 10*time.Second, func() bool { return b.metric("append_refused_total", "s") >= 2 })
	if s.total != 0 || b.length("s") < 50 {
		t.Fatalf("full with %d entries", b.length("s"))
	}
	stop := runTrimmer(t, b, "s", "g")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Batch: 10}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				s.add(d)
				if v, _ := d.Get("event"); v == "0" {
					if err := cons.Park(ctx, d, "bad", nil); err != nil {
						return err
					}
					continue
				}
				cons.Ack(d)
			}
			return nil
		}
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "all handled", 10*time.Second, func() bool { return len(s.missing(0, n)) == 0 })
	eventually(t, "empty", 10*time.Second, func() bool { return b.length("s") == 0 })
	if s.total != n {
		t.Fatalf("%d deliveries of %d entries", s.total, n)
	}
	stop()
}

func TestGateClosesByMemory(t *testing.T) {
	t.Parallel()
	b, _ := own(t, "--maxmemory", "20mb")
	g := b.NewGate(redstream.GateConfig{Stream: "s", High: 1 << 40, Memory: 0.6, Every: 10 * time.Millisecond})
	if err := g.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		b.must("SET", fmt.Sprint("ballast", i), strings.Repeat("x", 1<<20))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := g.Wait(ctx); err == nil || !g.Closed() {
		t.Fatal("open although memory is nearly full")
	}
	b.must("FLUSHALL")
	if err := g.Wait(t.Context()); err != nil || g.Closed() {
		t.Fatal(err)
	}
}

// TestFailoverToLaggingReplica promotes a replica that has not got the tail:
// entries, acks and cursor go back together. The writer notices and resumes
// from the cursor that is there; nothing is lost.
func TestFailoverToLaggingReplica(t *testing.T) {
	t.Parallel()
	primary := testkit.StartRedis(t)
	replica := testkit.StartRedis(t, "--replicaof", "127.0.0.1", testkit.RedisPort(primary.URL), "--repl-diskless-sync-delay", "0")
	pb, rb := benchAt(t, primary.URL, ""), benchRaw(t, replica.URL)
	p := newProxy(t, primary.URL)
	c := open(t, p.url(), "")
	s := newSeen()
	w, err := c.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	join(t, c, redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: 500 * time.Millisecond}, acking(s))
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(0, 50), 49); err != nil {
		t.Fatal(err)
	}
	eventually(t, "first part", 5*time.Second, func() bool { return s.distinct() == 50 })
	eventually(t, "replicated", 10*time.Second, func() bool {
		return strings.Contains(rb.must("INFO", "replication"), "master_link_status:up") && rb.must("GET", "s:cursor:h") == "49"
	})
	rb.must("REPLICAOF", "NO", "ONE") // it stays where it is
	if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(50, 50), 99); err != nil {
		t.Fatal(err)
	}
	eventually(t, "second part on the old primary", 5*time.Second, func() bool { return s.distinct() == 100 })
	if v := pb.must("GET", "s:cursor:h"); v != "99" {
		t.Fatal(v)
	}
	p.turnTo(replica.URL)
	_, err = w.AppendSeq(t.Context(), "s:cursor:h", items(100, 50), 149)
	if err == nil || !strings.Contains(err.Error(), "cursor moved") {
		t.Fatalf("a lost tail is noticed, not jumped over: %v", err)
	}
	eventually(t, "the cursor is read again", 5*time.Second, func() bool {
		at, _, err := c.Cursor(t.Context(), "s:cursor:h")
		return err == nil && at == "49"
	})
	w.Resume("s:cursor:h")
	if n, err := w.AppendSeq(t.Context(), "s:cursor:h", items(50, 100), 149); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	eventually(t, "third part", 10*time.Second, func() bool { return len(s.missing(0, 150)) == 0 })
	eventually(t, "all acked on the new primary", 10*time.Second, func() bool { return rb.pendingCount("s", "g") == 0 })
}

func benchRaw(t *testing.T, url string) *bench {
	t.Helper()
	raw, err := testkit.RedisClient(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	return &bench{t: t, raw: raw, url: url}
}

// TestStopRace stops a consumer while entries arrive. Afterwards every entry
// was either handled by it or is handed out to the next one; none is an orphan
// that waits for the claim time.
func TestStopRace(t *testing.T) {
	t.Parallel()
	rounds := 60
	if soak() {
		rounds = 500
	}
	b := newBench(t)
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := newSeen()
	cfg := redstream.ConsumerConfig{Streams: []string{"s"}, ClaimIdle: time.Hour, Block: 20 * time.Millisecond, Batch: 10, MaxDeliveries: 1000}
	for i := range rounds {
		m := join(t, b.Client, cfg, acking(s))
		if err := w.Append(t.Context(), items(10*i, 5)); err != nil {
			t.Fatal(err)
		}
		stopping := make(chan struct{})
		go func() {
			defer close(stopping)
			m.leave()
		}()
		if err := w.Append(t.Context(), items(10*i+5, 5)); err != nil {
			t.Fatal(err)
		}
		<-stopping
	}
	join(t, b.Client, cfg, acking(s))
	n := 10 * rounds
	eventually(t, "all handled", 10*time.Second, func() bool { return len(s.missing(0, n)) == 0 })
	eventually(t, "all acked", 5*time.Second, func() bool { return b.pendingCount("s", "g") == 0 })
}

// TestStopIsQuick: a blocked read ends within its block time.
func TestStopIsQuick(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := newSeen()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s", "s2"}, Block: time.Hour}, acking(s))
	b.fill("s", 0, 1)
	eventually(t, "reading", 5*time.Second, func() bool { return s.distinct() == 1 })
	start := time.Now()
	m.leave()
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("stop took %v", took)
	}
}

// TestDeadStreamDoesNotStopOthers: one key holds another type.
func TestDeadStreamDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must("SET", b.key("bad"), "x")
	s := newSeen()
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"bad", "s"}}, acking(s))
	b.fill("s", 0, 10)
	eventually(t, "handled", 5*time.Second, func() bool { return s.distinct() == 10 })
	b.must("DEL", b.key("bad"))
	b.fill("bad", 10, 10)
	eventually(t, "mended", 15*time.Second, func() bool { return s.distinct() == 20 })
}

func TestAllStreamsDeadStopsTheConsumer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must("SET", b.key("bad"), "x")
	cons, err := b.NewConsumer(redstream.ConsumerConfig{Group: "g", Consumer: "c", Streams: []string{"bad"}})
	if err != nil {
		t.Fatal(err)
	}
	err = cons.Run(t.Context(), func(context.Context, []redstream.Delivery) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "another type") {
		t.Fatal(err)
	}
	if err := cons.Close(t.Context()); err == nil {
		t.Log("closed without a word")
	}
}

// TestHandlerErrorStops: Run returns it, Close hands over.
func TestHandlerErrorStops(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 10)
	cons, err := b.NewConsumer(redstream.ConsumerConfig{Group: "g", Consumer: "c", Streams: []string{"s"}, Block: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = cons.Run(t.Context(), func(context.Context, []redstream.Delivery) error { return fmt.Errorf("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Fatal(err)
	}
	if err := cons.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newSeen()
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}, Consumer: "c2"}, acking(s))
	eventually(t, "taken over at once", 5*time.Second, func() bool { return s.distinct() == 10 })
}
