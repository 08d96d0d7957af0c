package redstream

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sluice/pkg/fault"
)

// GateConfig describes one gate.
type GateConfig struct {
	Stream string
	// High closes the gate, Low opens it again, in entries. Low defaults to
	// 80 % of High. High 0: the length does not matter.
	High, Low int64
	// Memory is the share of maxmemory at which the gate closes; it opens 5 %
	// below. Default 0.85. It has no effect on a Redis without maxmemory.
	Memory float64
	// Every is the time between two looks while it is closed or nobody asks.
	// Default 500ms.
	Every time.Duration
	// Fresh is how old an answer may be. Default 0: each question is answered
	// by a look that began after it, so a producer passes the mark by no more
	// than what it writes between two questions.
	Fresh time.Duration
	// OnChange is called when the gate opens or closes, from one goroutine at
	// a time.
	OnChange func(closed bool)
}

// memoryBand is how far below its mark memory must fall.
const memoryBand = 0.05

// Gate holds a producer while a stream is too long or Redis is nearly full.
// It is safe for concurrent use.
type Gate struct {
	c   *Client
	cfg GateConfig
	log *slog.Logger

	closed atomic.Bool // written with mu held

	mu      sync.Mutex // held during a look
	looked  time.Time  // when the last look began, or failed
	failed  error      // of the last look
	counted time.Time  // up to when closed time is in the metric
}

// NewGate prepares a gate. Wait works without Run; Run keeps the state and its
// metrics current when nobody asks.
func (c *Client) NewGate(cfg GateConfig) *Gate {
	if cfg.Low <= 0 || cfg.Low > cfg.High {
		cfg.Low = cfg.High / 5 * 4
	}
	if cfg.Memory <= 0 {
		cfg.Memory = 0.85
	}
	if cfg.Every <= 0 {
		cfg.Every = 500 * time.Millisecond
	}
	c.metrics.gateClosed.WithLabelValues(cfg.Stream).Set(0)
	c.metrics.gateSeconds.WithLabelValues(cfg.Stream)
	return &Gate{c: c, cfg: cfg, log: c.log.With(slog.String("stream", cfg.Stream))}
}

// Run looks every now and then, until ctx ends.
func (g *Gate) Run(ctx context.Context) error {
	failing := false
	for {
		_, err := g.look(ctx)
		if err != nil && !failing && !ended(ctx) {
			g.log.WarnContext(ctx, "gate cannot look", slog.Any("err", err))
		}
		failing = err != nil
		if pause(ctx, g.cfg.Every) {
			return nil
		}
	}
}

// Wait returns when the gate is open, or with the error of ctx. A Redis that
// cannot be asked counts as closed. A Fatal error, such as a key of another
// type, is returned at once.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		closed, err := g.look(ctx)
		if err == nil && !closed {
			return nil
		}
		if fault.ClassOf(err) == fault.Fatal && err != nil {
			return err
		}
		if err := fault.Sleep(ctx, g.cfg.Every); err != nil {
			return fmt.Errorf("wait at gate of %s: %w", g.cfg.Stream, err)
		}
	}
}

// Look looks now and says whether the gate is closed.
func (g *Gate) Look(ctx context.Context) (bool, error) { return g.look(ctx) }

// Closed is the state at the last look.
func (g *Gate) Closed() bool { return g.closed.Load() }

// look returns the state. What another caller found counts if it began to look
// after this one asked, or no longer ago than Fresh. A look that fails answers
// all who asked before it failed: they do not each wait for one of their own.
func (g *Gate) look(ctx context.Context) (bool, error) {
	asked := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looked.After(asked.Add(-g.cfg.Fresh)) {
		return g.closed.Load() || g.failed != nil, g.failed
	}
	if err := ctx.Err(); err != nil {
		return true, fmt.Errorf("look at %s: %w", g.cfg.Stream, err)
	}
	began := time.Now()
	length, share, err := g.c.fullness(ctx, g.cfg.Stream)
	g.count()
	if g.failed = err; err != nil {
		g.looked = time.Now()
		return true, err
	}
	g.looked = began
	g.turn(ctx, length, share)
	return g.closed.Load(), nil
}

// turn opens or closes the gate for a length and a share of memory.
func (g *Gate) turn(ctx context.Context, length int64, share float64) {
	shut := g.cfg.High > 0 && length >= g.cfg.High || share >= g.cfg.Memory
	open := (g.cfg.High <= 0 || length <= g.cfg.Low) && share < g.cfg.Memory-memoryBand
	if was := g.closed.Load(); was == shut || was && !open {
		return
	}
	g.closed.Store(shut)
	g.counted = time.Now()
	v := 0.0
	if shut {
		v = 1
	}
	g.c.metrics.gateClosed.WithLabelValues(g.cfg.Stream).Set(v)
	g.log.InfoContext(ctx, "gate turned", slog.Bool("closed", shut), slog.Int64("length", length),
		slog.Float64("memory_share", share))
	if g.cfg.OnChange != nil {
		g.cfg.OnChange(shut)
	}
}

// count adds the time since the last count if the gate was closed.
func (g *Gate) count() {
	now := time.Now()
	if g.closed.Load() {
		g.c.metrics.gateSeconds.WithLabelValues(g.cfg.Stream).Add(now.Sub(g.counted).Seconds())
	}
	g.counted = now
}

// fullness is the length of a stream and the share of maxmemory in use on its node.
func (c *Client) fullness(ctx context.Context, stream string) (length int64, share float64, err error) {
	key := c.keys.stream(stream)
	reply, err := c.script(ctx, gateState, []string{key}, nil).ToArray()
	if err != nil {
		return 0, 0, classify("look at", key, err)
	}
	if len(reply) != 2 {
		return 0, 0, fmt.Errorf("look at %s: script returned %d values", key, len(reply))
	}
	length, err = reply[0].AsInt64()
	if err != nil {
		return 0, 0, classify("look at", key, err)
	}
	info, err := reply[1].ToString()
	if err != nil {
		return 0, 0, classify("look at", key, err)
	}
	used, limit := memoryOf(infoFields(info))
	if limit > 0 {
		share = float64(used) / float64(limit)
	}
	return length, share, nil
}
