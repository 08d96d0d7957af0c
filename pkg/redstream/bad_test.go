package redstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func TestOpenRefusesWhatLosesEntries(t *testing.T) {
	t.Parallel()
	evicting := testkit.StartRedis(t, "--maxmemory-policy", "allkeys-lru")
	cases := map[string]struct {
		url   string
		is    error
		class fault.Class
		says  string
	}{
		"evicting":    {evicting.URL, redstream.ErrEvicting, fault.Fatal, "allkeys-lru"},
		"too old":     {oldRedis(t), redstream.ErrTooOld, fault.Fatal, "6.2.14"},
		"unreachable": {fmt.Sprintf("redis://user:secret@127.0.0.1:%d", testkit.FreePort(t)), nil, fault.Transient, "refused"},
		"scheme":      {"http://127.0.0.1", nil, fault.Fatal, "scheme"},
		"no url":      {"://", nil, fault.Fatal, "url"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := redstream.Open(t.Context(), redstream.Config{URL: c.url}, nil, nil)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v (%v)", err, fault.ClassOf(err))
			}
			if strings.Contains(err.Error(), "secret") {
				t.Fatalf("the password is in the error: %v", err)
			}
		})
	}
}

// oldRedis answers like a Redis 6.2 as far as Open looks.
func oldRedis(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answerOld(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "redis://" + l.Addr().String()
}

func answerOld(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	in := bufio.NewReader(c)
	for {
		var n int
		if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
			return
		}
		words := make([]string, n)
		for i := range words {
			var size int
			if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
				return
			}
			buf := make([]byte, size+2)
			if _, err := ioReadFull(in, buf); err != nil {
				return
			}
			words[i] = strings.ToUpper(string(buf[:size]))
		}
		reply := "+OK\r\n"
		switch words[0] {
		case "HELLO":
			reply = "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
		case "INFO":
			text := "redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"
			reply = fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
		case "COMMAND":
			reply = "*0\r\n"
		}
		if _, err := c.Write([]byte(reply)); err != nil {
			return
		}
	}
}

func ioReadFull(in *bufio.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		k, err := in.Read(buf[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func TestWrongTypesHaveAName(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	for _, key := range []string{"s", "s_dlq", "d:delayed"} {
		b.must("SET", b.key(key), "x")
	}
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, lenErr := b.Len(ctx, "s")
	_, _, trimErr := b.Trim(ctx, "s")
	_, statsErr := b.Stats(ctx, "s")
	_, listErr := b.DeadLetters("s", "").List(ctx, "", 1)
	_, seqErr := w.AppendSeq(ctx, "s:cursor:h", items(0, 1), 0)
	for name, err := range map[string]error{
		"len": lenErr, "trim": trimErr, "stats": statsErr, "list": listErr, "append seq": seqErr,
		"append": w.Append(ctx, items(0, 1)), "gate": b.NewGate(redstream.GateConfig{Stream: "s", High: 1}).Wait(ctx),
		"group": b.EnsureGroup(ctx, "s", "g"),
	} {
		if !errors.Is(err, redstream.ErrWrongType) || fault.ClassOf(err) != fault.Fatal {
			t.Errorf("%s: %v (%v)", name, err, fault.ClassOf(err))
		}
	}
	if b.must("EXISTS", b.key("s:cursor:h")) != "0" {
		t.Error("the cursor moved although nothing was appended")
	}
	// Dead letters and schedule of the wrong type: the entry stays pending.
	b.must("DEL", b.key("s"))
	b.fill("s", 0, 2)
	q := b.NewDelayed("d:delayed", "s")
	errs := make(chan error, 2)
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			errs <- cons.Park(ctx, batch[0], "bad", nil)
			errs <- q.AddAndAck(ctx, batch[0], "g", batch[0].Fields, time.Now())
			return nil
		}
	})
	for range 2 {
		if err := <-errs; !errors.Is(err, redstream.ErrWrongType) {
			t.Errorf("%v", err)
		}
	}
	if n := b.pendingCount("s", "g"); n != 2 {
		t.Errorf("%d pending, want 2", n)
	}
}

func TestBadIDsAndCursors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	q := b.DeadLetters("s", "")
	for _, id := range []string{"", "x", "1-", "-1", "1-2-3", "99999999999999999999-0", "1 -1"} {
		if _, err := q.Show(ctx, id); !errors.Is(err, redstream.ErrBadID) || fault.ClassOf(err) != fault.Permanent {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if _, err := q.Show(ctx, "1-1"); !errors.Is(err, redstream.ErrNotFound) {
		t.Error(err)
	}
	b.must("SET", b.key("s:cursor:h"), "https://not.a.number")
	if _, err := w.AppendSeq(ctx, "s:cursor:h", items(0, 1), 0); !errors.Is(err, redstream.ErrBadCursor) || fault.ClassOf(err) != fault.Fatal {
		t.Error(err)
	}
	two := append(items(5, 1), items(3, 1)...)
	for name, call := range map[string]func() error{
		"descending":   func() error { _, err := w.AppendSeq(ctx, "s:cursor:x", two, 5); return err },
		"beyond":       func() error { _, err := w.AppendSeq(ctx, "s:cursor:x", items(5, 1), 4); return err },
		"same cursor":  func() error { _, err := w.AppendCAS(ctx, "s:cursor:x", "a", "a", items(5, 1)); return err },
		"too large":    func() error { _, err := w.AppendSeq(ctx, "s:cursor:x", nil, 1<<53); return err },
		"no fields":    func() error { return w.Append(ctx, []redstream.Item{{}}) },
		"many fields":  func() error { return w.Append(ctx, []redstream.Item{{Fields: make([]redstream.Field, 1001)}}) },
		"unknown name": func() error { _, err := q.Redrive(ctx, redstream.Filter{IDs: []string{"5-5"}}); return err },
	} {
		if err := call(); fault.ClassOf(err) != fault.Permanent {
			t.Errorf("%s: %v (%v)", name, err, fault.ClassOf(err))
		}
	}
	if b.length("s") != 0 {
		t.Error("something was appended")
	}
}

// TestForeignEntries: entries without a known field, wide ones and one of
// 10 MB are handed out whole, parked whole and shown whole.
func TestForeignEntries(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.EnsureGroup(t.Context(), "s", "g"); err != nil {
		t.Fatal(err)
	}
	wide := []string{"XADD", b.key("s"), "*"}
	for i := range 5000 {
		wide = append(wide, fmt.Sprint("f", i), "v")
	}
	b.must(wide...)
	big := strings.Repeat("\x00\xff", 5<<20)
	b.must("XADD", b.key("s"), "*", "what", big)
	b.must("XADD", b.key("s"), "*", "reason", "mine", "error", "mine too")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				if _, known := d.Get("event"); known {
					cons.Ack(d)
				} else if err := cons.Park(ctx, d, "no_event", errors.New("no field event")); err != nil {
					return err
				}
			}
			return nil
		}
	})
	q := b.DeadLetters("s", "")
	eventually(t, "parked", 10*time.Second, func() bool { n, _ := q.Len(t.Context()); return n == 3 })
	list, err := q.List(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list[0].Fields); n != 5000 || list[0].Fields[4999].Name != "f4999" {
		t.Errorf("%d fields", n)
	}
	if list[1].Fields[0].Value != big {
		t.Error("the big value changed")
	}
	if f := list[2].Fields; len(f) != 2 || f[0].Value != "mine" || list[2].Reason != "no_event" {
		t.Errorf("%+v", list[2])
	}
	if _, err := q.Redrive(t.Context(), redstream.Filter{IDs: []string{list[0].ID}}); !errors.Is(err, redstream.ErrTooWide) {
		t.Errorf("a wide one cannot be redriven: %v", err)
	}
	if n, err := q.Drop(t.Context(), redstream.Filter{Reason: "no_event"}); n != 3 || err != nil {
		t.Error(n, err)
	}
}

// TestUnknownGroupPinsAndIsReported: a stray group keeps what it has not read,
// and is named.
func TestUnknownGroupPinsAndIsReported(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must("XGROUP", "CREATE", b.key("s"), "stray", "0", "MKSTREAM")
	s := newSeen()
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	b.fill("s", 0, 50)
	eventually(t, "handled", 5*time.Second, func() bool { return s.distinct() == 50 && b.pendingCount("s", "g") == 0 })
	stop := runTrimmer(t, b, "s", "g")
	eventually(t, "reported", 5*time.Second, func() bool { return b.metric("unknown_groups", "s") == 1 })
	if b.length("s") != 50 {
		t.Fatalf("%d entries: a group that nobody declared lost some", b.length("s"))
	}
	h, err := b.Holder(t.Context(), "s", "g")
	if err != nil || h.Group != "stray" || h.Age <= 0 {
		t.Fatalf("%+v %v", h, err)
	}
	b.must("XGROUP", "DESTROY", b.key("s"), "stray")
	eventually(t, "trimmed", 5*time.Second, func() bool { return b.length("s") == 0 && b.metric("unknown_groups", "s") == 0 })
	stop()
}

// TestExpectedGroupIsWaitedFor: a group that is expected and not made yet
// will start at the first entry, so nothing goes.
func TestExpectedGroupIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must("XGROUP", "CREATE", b.key("s"), "g", "$", "MKSTREAM")
	b.fill("s", 0, 5)
	b.must("XREADGROUP", "GROUP", "g", "c", "NOACK", "STREAMS", b.key("s"), ">")
	if n, h, err := b.Trim(t.Context(), "s", "g", "late"); n != 0 || h.Group != "late" || err != nil {
		t.Fatal(n, h, err)
	}
	if n, _, err := b.Trim(t.Context(), "s", "g"); n != 5 || err != nil {
		t.Fatal(n, err)
	}
}
