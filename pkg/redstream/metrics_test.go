package redstream_test

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// TestEveryMetricMoves drives the library until each series has another value
// than at first, and checks that all were there before anything happened.
func TestEveryMetricMoves(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t, "--maxmemory", "64mb")
	p := newProxy(t, server.URL)
	reg := prometheus.NewRegistry()
	b := &bench{Client: openWith(t, p.url(), "", reg), t: t, raw: benchRaw(t, server.URL).raw, reg: reg}
	groups := map[string][]string{"s": {"g"}}
	mon := b.NewMonitor(redstream.MonitorConfig{Streams: groups})
	gate := b.NewGate(redstream.GateConfig{Stream: "s", High: 10, Every: 5 * time.Millisecond})
	_ = b.NewTrimmer(redstream.TrimConfig{Streams: groups})
	first := values(t, reg)
	for _, name := range []string{"group_lag", "stream_length", "gate_closed", "trimmed_total", "acks_total", "parked_total", "append_refused_total"} {
		if _, ok := first["sluice_redstream_"+name]; !ok {
			t.Errorf("%s is not there from the start", name)
		}
	}
	if first["sluice_redstream_group_lag"] != -1 {
		t.Error("an unknown lag is not -1")
	}
	moved := map[string]bool{}
	note := func() {
		for name, v := range values(t, reg) {
			if v != first[name] {
				moved[name] = true
			}
		}
	}
	round := func() {
		if err := mon.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		note()
	}
	provoke(t, b, p, gate, round)
	note()
	for name := range values(t, reg) {
		if !moved[name] {
			t.Errorf("%s never moved", name)
		}
	}
}

// provoke makes everything happen that has a metric.
func provoke(t *testing.T, b *bench, p *proxy, gate *redstream.Gate, round func()) {
	t.Helper()
	ctx := t.Context()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b.must("CONFIG", "SET", "maxmemory", "1")
	time.AfterFunc(100*time.Millisecond, func() { b.redis("CONFIG", "SET", "maxmemory", "64mb") })
	if _, err := w.AppendSeq(ctx, "s:cursor:h", items(0, 20), 19); err != nil { // refused, repeated
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if gate.Wait(short) == nil {
		t.Fatal("the gate is open")
	}
	_, _ = gate.Closed(), gate.Wait(short)
	b.must("XGROUP", "CREATE", "s", "stray", "0")
	b.must("XGROUP", "CREATE", "s", "g", "0")
	b.must("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	round() // lag, ages, unknown group, unsafe policy
	b.must("CONFIG", "SET", "maxmemory-policy", "noeviction")
	b.must("XGROUP", "DESTROY", "s", "g")
	b.must("XGROUP", "CREATE", "s", "g", "0")
	b.must("XREADGROUP", "GROUP", "g", "dead", "COUNT", "5", "STREAMS", "s", ">")
	first, err := b.redis("XRANGE", "s", "-", "+", "COUNT", "1").AsXRangeSlices()
	if err != nil {
		t.Fatal(err)
	}
	b.must("XDEL", "s", first[0].ID) // a phantom of the dead consumer
	q := b.NewDelayed("s:delayed", "s")
	lostAck := true
	hold := make(chan struct{})
	m := join(t, b.Client, redstream.ConsumerConfig{
		Streams: []string{"s", "wrong"}, ClaimIdle: 600 * time.Millisecond, Window: 500, MaxDeliveries: 3,
	}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			<-hold
			for i, d := range batch {
				switch v, _ := d.Get("event"); {
				case v == "7":
					cons.Retry(time.Millisecond, d) // until it is poison
				case v == "8" && d.Deliveries == 1 && i >= 0:
					if err := q.AddAndAck(ctx, d, "g", []redstream.Field{{Name: "event", Value: "later"}}, time.Now()); err != nil {
						return err
					}
				default:
					if lostAck {
						lostAck = false
						p.arm(notStored, 1<<30, "XACK") // repeated, then given up after the claim time
					}
					cons.Ack(d)
				}
			}
			return nil
		}
	})
	b.must("SET", "wrong", "x")
	eventually(t, "held", 5*time.Second, func() bool { return m.Held() > 0 })
	eventually(t, "held is exported", 5*time.Second, func() bool { round(); return b.metric("held_entries", "s") > 0 })
	m.Unhealthy(true)
	round()
	m.Unhealthy(false)
	close(hold)
	eventually(t, "acks given up", 15*time.Second, func() bool { return b.metric("acks_abandoned_total", "s") > 0 })
	p.arm(notStored, 0)
	eventually(t, "claimed", 10*time.Second, func() bool { return b.metric("claimed_total", "s") > 0 })
	eventually(t, "poison parked", 10*time.Second, func() bool { return b.metric("parked_total", "poison") > 0 })
	eventually(t, "broken seen", 10*time.Second, func() bool { return b.metric("stream_broken", "wrong") == 1 })
	round()
	eventually(t, "dead one removed", 10*time.Second, func() bool { return b.metric("consumers_removed_total", "s") > 0 })
	if _, err := b.DeadLetters("s", "").Redrive(ctx, redstream.Filter{}); err != nil {
		t.Fatal(err)
	}
	b.must("XGROUP", "DESTROY", "s", "stray")
	eventually(t, "trimmed", 10*time.Second, func() bool {
		_, _, err := b.Trim(ctx, "s", "g")
		return err == nil && b.metric("trimmed_total", "s") > 0
	})
	b.must("XGROUP", "DESTROY", "s", "g")
	eventually(t, "group made again", 10*time.Second, func() bool { return b.metric("groups_created_total", "s") > 0 })
	eventually(t, "phantoms forgotten", 10*time.Second, func() bool { return b.metric("phantoms_total", "s") > 0 })
	round()
}

func values(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sums
}

// TestTrimmedLine: operators search the logs for it.
func TestTrimmedLine(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	var out bytes.Buffer
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, slog.New(slog.NewTextHandler(&out, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := &bench{Client: c, t: t, raw: benchRaw(t, url).raw, prefix: prefix}
	b.fill("s", 0, 1234)
	b.must("XGROUP", "CREATE", b.key("s"), "g", "$")
	stop := runTrimmer(t, b, "s", "g")
	eventually(t, "trimmed", 5*time.Second, func() bool { return b.length("s") == 0 })
	stop()
	line := regexp.MustCompile(`level=INFO msg="Trimmed 1234 messages" component=redstream stream=s bound=\d+-\d+ count=1234`)
	if !line.MatchString(out.String()) {
		t.Fatal(strings.TrimSpace(out.String()))
	}
}
