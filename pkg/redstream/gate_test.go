package redstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// TestGateSharesAFailedLook: many who wait at the gate of a Redis that hangs
// wait for one look, and a stop does not wait for one look each.
func TestGateSharesAFailedLook(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	p := newProxy(t, url)
	c := open(t, p.url(), prefix)
	g := c.NewGate(redstream.GateConfig{Stream: "s", High: 10, Every: time.Hour})
	pl := p.arm(hang, 1<<40, "EVAL")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := g.Wait(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("wait: %v", err)
			}
		})
	}
	eventually(t, "a look hangs", 5*time.Second, func() bool { return pl.fired.Load() > 0 })
	cancel()
	start := time.Now()
	wg.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if n := pl.fired.Load(); n > 2 {
		t.Errorf("%d looks for 50 who asked at once", n)
	}
	if g.Closed() {
		t.Error("closed by a look that failed")
	}
}
