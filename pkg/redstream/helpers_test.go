package redstream_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// bench is a Redis of one test with a client of ours and a plain one.
type bench struct {
	*redstream.Client
	t      *testing.T
	raw    rueidis.Client
	url    string
	prefix string
	reg    *prometheus.Registry
}

// metric sums the series of ours whose label values include all given ones.
func (b *bench) metric(name string, labels ...string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	total, found := 0.0, false
	for _, f := range families {
		if f.GetName() != "sluice_redstream_"+name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			values := map[string]bool{}
			for _, l := range m.GetLabel() {
				values[l.GetValue()] = true
			}
			for _, l := range labels {
				if !values[l] {
					continue series
				}
			}
			found = true
			total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if !found {
		b.t.Fatalf("no series %s %v", name, labels)
	}
	return total
}

func newBench(t *testing.T) *bench {
	t.Helper()
	url, prefix := testkit.Redis(t)
	return benchAt(t, url, prefix)
}

func benchAt(t *testing.T, url, prefix string) *bench {
	t.Helper()
	reg := prometheus.NewRegistry()
	c := openWith(t, url, prefix, reg)
	raw, err := testkit.RedisClient(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	return &bench{Client: c, t: t, raw: raw, url: url, prefix: prefix, reg: reg}
}

func open(t *testing.T, url, prefix string) *redstream.Client {
	t.Helper()
	return openWith(t, url, prefix, nil)
}

func openWith(t *testing.T, url, prefix string, reg prometheus.Registerer) *redstream.Client {
	t.Helper()
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, testLog(t), reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// testLog writes to the test's log until the test ends.
func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(bytes.TrimSpace(b)))
	}
	return len(b), nil
}

// redis runs one plain command.
func (b *bench) redis(args ...string) rueidis.RedisResult {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return b.raw.Do(ctx, b.raw.B().Arbitrary(args...).Build())
}

// must runs one plain command that may not fail, and returns its text.
func (b *bench) must(args ...string) string {
	b.t.Helper()
	r := b.redis(args...)
	if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
		b.t.Fatalf("%v: %v", args, err)
	}
	if s, err := r.ToString(); err == nil {
		return s
	}
	n, _ := r.AsInt64()
	return strconv.FormatInt(n, 10)
}

func (b *bench) key(name string) string { return b.prefix + name }

// fill appends n entries with the field event = from, from+1, ...
func (b *bench) fill(stream string, from, n int) {
	b.t.Helper()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: stream})
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Close()
	if err := w.Append(b.t.Context(), items(from, n)); err != nil {
		b.t.Fatal(err)
	}
}

func items(from, n int) []redstream.Item {
	list := make([]redstream.Item, n)
	for i := range list {
		list[i] = redstream.Item{Seq: int64(from + i), Fields: []redstream.Field{{Name: "event", Value: strconv.Itoa(from + i)}}}
	}
	return list
}

// eventually polls until ok returns true.
func eventually(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * limit) // limits are for an idle machine
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// seen counts how often each value was handled.
type seen struct {
	mu    sync.Mutex
	count map[string]int
	total int
}

func newSeen() *seen { return &seen{count: map[string]int{}} }

func (s *seen) add(ds ...redstream.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ds {
		v, _ := d.Get("event")
		s.count[v]++
		s.total++
	}
}

func (s *seen) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.count)
}

// all checks that from … from+n-1 were handled.
func (s *seen) missing(from, n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for i := from; i < from+n; i++ {
		if s.count[strconv.Itoa(i)] == 0 {
			missing = append(missing, strconv.Itoa(i))
		}
	}
	return missing
}

// member is a consumer under test with its Run in a goroutine.
type member struct {
	*redstream.Consumer
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

func join(t *testing.T, c *redstream.Client, cfg redstream.ConsumerConfig, h func(*redstream.Consumer) redstream.Handler) *member {
	t.Helper()
	if cfg.Group == "" {
		cfg.Group = "g"
	}
	if cfg.Consumer == "" {
		cfg.Consumer = "c1"
	}
	if cfg.Block == 0 {
		cfg.Block = 50 * time.Millisecond
	}
	cons, err := c.NewConsumer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Consumer: cons, t: t, cancel: cancel, done: make(chan error, 1)}
	go func() { m.done <- cons.Run(ctx, h(cons)) }()
	t.Cleanup(m.leave)
	return m
}

// stop ends Run without Close, as far as Redis can see a crash.
func (m *member) stop() {
	m.cancel()
	if err := <-m.done; err != nil {
		m.t.Errorf("run: %v", err)
	}
	m.done <- nil
}

// leave ends Run and closes.
func (m *member) leave() {
	m.once.Do(func() {
		m.stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			m.t.Logf("close: %v", err)
		}
	})
}

// acking handles by counting and acking.
func acking(s *seen) func(*redstream.Consumer) redstream.Handler {
	return func(cons *redstream.Consumer) redstream.Handler {
		return func(_ context.Context, batch []redstream.Delivery) error {
			s.add(batch...)
			cons.Ack(batch...)
			return nil
		}
	}
}

// length asks over the plain client.
func (b *bench) length(stream string) int {
	b.t.Helper()
	n, err := b.redis("XLEN", b.key(stream)).AsInt64()
	if err != nil {
		b.t.Fatal(err)
	}
	return int(n)
}

func (b *bench) pendingCount(stream, group string) int {
	b.t.Helper()
	row, err := b.redis("XPENDING", b.key(stream), group).ToArray()
	if err != nil || len(row) == 0 {
		return 0
	}
	n, _ := row[0].AsInt64()
	return int(n)
}

func id(n int) string { return fmt.Sprintf("%d-0", n) }

// crash ends Run and every duty behind it without a word to Redis.
func (m *member) crash() {
	m.once.Do(func() {
		m.stop()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.Close(ctx)
	})
}

// moody acks most, retries some and leaves some for later, at random.
func moody(s *seen, r *rand.Rand) func(*redstream.Consumer) redstream.Handler {
	return func(cons *redstream.Consumer) redstream.Handler {
		return func(_ context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				if r.IntN(5) == 0 {
					cons.Retry(time.Duration(r.IntN(20))*time.Millisecond, d)
					continue
				}
				s.add(d)
				cons.Ack(d)
			}
			return nil
		}
	}
}

// runTrimmer trims until the returned function is called.
func runTrimmer(t *testing.T, b *bench, stream string, groups ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tr := b.NewTrimmer(redstream.TrimConfig{Streams: map[string][]string{stream: groups}, Every: 20 * time.Millisecond})
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("trimmer: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}
