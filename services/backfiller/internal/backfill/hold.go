package backfill

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// errStopped ends a repository that would have to wait while the process is
// being stopped. Its job stays pending and is delivered again.
var errStopped = errors.New("stopped while held")

// pausePoll is how often the pause key is read.
const pausePoll = time.Second

// holder stops the backfill while the output is too long, Redis is nearly full
// or an operator has paused it.
type holder struct {
	gate   *redstream.Gate
	redis  *redstream.Client
	stream string
	log    *slog.Logger
	m      *metrics

	paused, closed atomic.Bool
}

// run keeps the pause flag fresh.
func (h *holder) run(ctx context.Context) error {
	h.look(ctx)
	for fault.Sleep(ctx, pausePoll) == nil {
		h.look(ctx)
	}
	return nil
}

// look reads the pause key; while Redis is away the last answer stands.
func (h *holder) look(ctx context.Context) {
	paused, err := h.redis.Flag(ctx, h.stream, pausedKey)
	if err == nil && h.paused.Swap(paused) != paused {
		h.log.InfoContext(ctx, "pause changed", "paused", paused)
		h.show()
	}
}

// gateChanged is the OnChange of the gate.
func (h *holder) gateChanged(closed bool) {
	h.closed.Store(closed)
	h.show()
	h.log.Info("gate changed", "closed", closed)
}

func (h *holder) show() {
	v := 0.0
	if h.closed.Load() || h.paused.Load() {
		v = 1
	}
	h.m.held.Set(v)
}

// wait returns when work may go on. Once stop has ended it does not wait: it
// lets through what need not wait and refuses the rest with errStopped.
func (h *holder) wait(stop context.Context) error {
	for h.paused.Load() {
		if fault.Sleep(stop, 100*time.Millisecond) != nil {
			return errStopped
		}
	}
	if stop.Err() != nil {
		if h.gate.Closed() {
			return errStopped
		}
		return nil
	}
	if err := h.gate.Wait(stop); err != nil {
		if stop.Err() != nil {
			return errStopped
		}
		return err
	}
	return nil
}
