package app

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// tellEvery is the time between two lines of progress.
const tellEvery = 2 * time.Second

// teller writes lines to standard error while a command works: how far it is,
// every few seconds, and what it stumbles over. Safe for concurrent use.
type teller struct {
	every time.Duration

	mu  sync.Mutex
	out io.Writer
}

func (t *tool) teller() *teller { return &teller{out: t.err, every: tellEvery} }

func (l *teller) line(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintf(l.out, format+"\n", args...)
}

// during runs work and writes a line of progress now and then. Work that ends
// soon has none.
func (l *teller) during(ctx context.Context, progress func(took time.Duration) string, work func(context.Context) error) error {
	var told sync.WaitGroup
	ended, start := make(chan struct{}), time.Now()
	told.Go(func() {
		tick := time.NewTicker(l.every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.line("%s", progress(time.Since(start)))
			case <-ended:
				return
			}
		}
	})
	err := work(ctx)
	close(ended)
	told.Wait()
	return err
}
