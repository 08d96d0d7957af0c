// Package pressure measures back-pressure: whether, and for how long, the
// ingester holds what it has read because a stream does not take it.
package pressure

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	tick = 250 * time.Millisecond
	// stallAfter is how long an append may take before it counts as refused.
	stallAfter = time.Second
)

// Meter exports the back-pressure of the ingester's streams.
type Meter struct {
	active  prometheus.Gauge
	seconds *prometheus.CounterVec
	held    *prometheus.GaugeVec
	streams map[string]*Stream
}

// Stream is one stream that is written. A nil Stream measures nothing.
type Stream struct {
	closed atomic.Bool // the gate of the stream

	mu      sync.Mutex
	appends map[int]time.Time // begin of each append that is under way
	next    int
}

// New registers the metrics of the named streams; all are present from the
// first scrape. A nil reg works and exports nothing.
func New(reg prometheus.Registerer, streams ...string) *Meter {
	m := &Meter{
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ingester_backpressure_active",
			Help: "1 while a stream is at its mark or Redis does not take an append: sockets are not read, cursors stand. Look at the consumers of the stream and at Redis.",
		}),
		seconds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_ingester_backpressure_seconds_total",
			Help: "Time spent waiting for a stream, by stream.",
		}, []string{"stream"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_ingester_backpressure_active",
			Help: "1 while this stream makes the ingester wait.",
		}, []string{"stream"}),
		streams: map[string]*Stream{},
	}
	for _, name := range streams {
		m.streams[name] = &Stream{appends: map[int]time.Time{}}
		m.seconds.WithLabelValues(name)
		m.held.WithLabelValues(name)
	}
	if reg != nil {
		reg.MustRegister(m.active, m.seconds, m.held)
	}
	return m
}

// Stream returns the stream of that name, nil if it was not declared.
func (m *Meter) Stream(name string) *Stream { return m.streams[name] }

// Run measures until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			now := time.Now() // the tick may have waited, and be older than last
			m.observe(now, now.Sub(last))
			last = now
		}
	}
}

func (m *Meter) observe(now time.Time, passed time.Duration) {
	active := 0.0
	for name, s := range m.streams {
		held := 0.0
		if s.holds(now) {
			held, active = 1, 1
			m.seconds.WithLabelValues(name).Add(max(passed.Seconds(), 0))
		}
		m.held.WithLabelValues(name).Set(held)
	}
	m.active.Set(active)
}

// Gate notes that the gate of the stream has closed or opened.
func (s *Stream) Gate(closed bool) {
	if s != nil {
		s.closed.Store(closed)
	}
}

// Begin marks the start of an append, with the wait at its gate; the returned
// function its end. Safe for concurrent use.
func (s *Stream) Begin() (end func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.appends[id] = time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.appends, id)
	}
}

func (s *Stream) holds(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() && len(s.appends) > 0 {
		return true
	}
	for _, at := range s.appends {
		if now.Sub(at) > stallAfter {
			return true
		}
	}
	return false
}
