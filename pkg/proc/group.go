package proc

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Group runs goroutines that live and end together: when one of them returns,
// the context of all ends.
type Group struct {
	ctx    context.Context //nolint:containedctx // it is the lifetime of the group itself
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // of the first member that ended wrongly
}

// NewGroup returns a group whose members are asked to stop when ctx ends.
func NewGroup(ctx context.Context) *Group {
	inner, cancel := context.WithCancel(ctx)
	return &Group{ctx: inner, cancel: cancel}
}

// Go starts f as the member name. An error of f, or its return before it was
// asked to stop, is the error of the group.
func (g *Group) Go(name string, f func(ctx context.Context) error) {
	g.wg.Go(func() {
		err := f(g.ctx)
		if err == nil && g.ctx.Err() == nil {
			err = fmt.Errorf("returned while the process was running")
		}
		if err != nil {
			g.mu.Lock()
			if g.err == nil {
				g.err = fmt.Errorf("%s: %w", name, err)
			}
			g.mu.Unlock()
		}
		g.cancel()
	})
}

// Wait returns after all members have, with the error of the first that ended
// wrongly. The end of ctx as such is no error.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// WorkContext returns a context for work in hand: it carries the values of ctx
// and ends grace after ctx has ended. end releases it.
func WorkContext(ctx context.Context, grace time.Duration) (work context.Context, end context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var (
		mu    sync.Mutex
		timer *time.Timer
		ended bool
	)
	unhook := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			timer = time.AfterFunc(grace, cancel)
		}
	})
	return work, func() {
		unhook()
		mu.Lock()
		defer mu.Unlock()
		ended = true
		if timer != nil {
			timer.Stop()
		}
		cancel()
	}
}
