package redstream

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// MonitorConfig says what to watch.
type MonitorConfig struct {
	// Streams: stream → the groups that are expected on it.
	Streams map[string][]string
	// DeadLetters names the stream of dead letters of a stream. Default: the
	// name of the stream + "_dlq".
	DeadLetters map[string]string
	// Every is the time between two rounds. Default 10s.
	Every time.Duration
}

// Monitor exports length, lag, pending and the rest of every stream, connected
// consumers or not.
type Monitor struct {
	c     *Client
	cfg   MonitorConfig
	order []string

	mu    sync.Mutex
	stats map[string]StreamStats
}

// NewMonitor prepares a monitor; every series is there before the first round.
func (c *Client) NewMonitor(cfg MonitorConfig) *Monitor {
	if cfg.Every <= 0 {
		cfg.Every = 10 * time.Second
	}
	m := &Monitor{c: c, cfg: cfg, order: slices.Sorted(maps.Keys(cfg.Streams)), stats: make(map[string]StreamStats)}
	for _, stream := range m.order {
		c.metrics.initStream(stream)
		m.export(stream, StreamStats{Lag: -1})
		for _, group := range cfg.Streams[stream] {
			c.metrics.initGroup(stream, group)
		}
	}
	return m
}

// Run looks at every stream again and again until ctx ends. What cannot be
// read keeps its last value, except the lag, which becomes unknown.
func (m *Monitor) Run(ctx context.Context) error {
	failing := false
	for {
		err := m.Round(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			m.c.log.WarnContext(ctx, "monitoring interrupted", slog.Any("err", err))
		}
		failing = err != nil
		if pause(ctx, m.cfg.Every) {
			return nil
		}
	}
}

// Round looks at every stream once and returns the first error.
func (m *Monitor) Round(ctx context.Context) error {
	err := m.memory(ctx)
	for _, stream := range m.order {
		st, bad := m.c.StatsWith(ctx, stream, m.cfg.DeadLetters[stream], m.cfg.Streams[stream]...)
		if bad != nil {
			m.c.metrics.lag.DeletePartialMatch(map[string]string{"stream": stream})
			m.unknownLag(stream)
			if err == nil {
				err = bad
			}
			continue
		}
		m.export(stream, st)
		m.mu.Lock()
		m.stats[stream] = st
		m.mu.Unlock()
	}
	return err
}

// Stats is the result of the last round that could read the stream.
func (m *Monitor) Stats(stream string) StreamStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, ok := m.stats[stream]
	if !ok {
		st.Lag = -1
	}
	return st
}

func (m *Monitor) memory(ctx context.Context) error {
	s, err := m.c.Inspect(ctx)
	if err != nil {
		return err
	}
	m.c.metrics.memoryUsed.Set(float64(s.UsedMemory))
	m.c.metrics.memoryLimit.Set(float64(s.MaxMemory))
	unsafe := 0.0
	if s.Policy != "noeviction" {
		unsafe = 1
	}
	m.c.metrics.unsafe.Set(unsafe)
	return nil
}

func (m *Monitor) unknownLag(stream string) {
	for _, group := range m.cfg.Streams[stream] {
		m.c.metrics.lag.WithLabelValues(stream, group).Set(-1)
	}
}

// export sets the gauges of one stream; series of groups and consumers that
// are gone disappear.
func (m *Monitor) export(stream string, st StreamStats) {
	x := m.c.metrics
	x.length.WithLabelValues(stream).Set(float64(st.Length))
	x.added.WithLabelValues(stream).Set(float64(st.Added))
	x.deadLetters.WithLabelValues(stream).Set(float64(st.DeadLetters))
	x.setHolder(stream, st.Holder)
	of := map[string]string{"stream": stream}
	x.lag.DeletePartialMatch(of)
	x.pending.DeletePartialMatch(of)
	x.oldestPending.DeletePartialMatch(of)
	x.deliveredAge.DeletePartialMatch(of)
	x.consumerPending.DeletePartialMatch(of)
	x.consumerIdle.DeletePartialMatch(of)
	m.unknownLag(stream)
	for _, group := range m.cfg.Streams[stream] {
		x.pending.WithLabelValues(stream, group).Set(0)
		x.oldestPending.WithLabelValues(stream, group).Set(0)
		x.deliveredAge.WithLabelValues(stream, group).Set(0)
	}
	unknown := 0
	for _, g := range st.Groups {
		if g.Unknown {
			unknown++
		}
		x.lag.WithLabelValues(stream, g.Name).Set(float64(g.Lag))
		x.pending.WithLabelValues(stream, g.Name).Set(float64(g.Pending))
		x.oldestPending.WithLabelValues(stream, g.Name).Set(g.OldestPending.Seconds())
		x.deliveredAge.WithLabelValues(stream, g.Name).Set(g.Behind.Seconds())
		for _, c := range g.Consumers {
			x.consumerPending.WithLabelValues(stream, g.Name, c.Name).Set(float64(c.Pending))
			idle := -1.0
			if c.Alive {
				idle = c.Asked.Seconds()
			}
			x.consumerIdle.WithLabelValues(stream, g.Name, c.Name).Set(idle)
		}
	}
	x.unknownGroups.WithLabelValues(stream).Set(float64(unknown))
}
