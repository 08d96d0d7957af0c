package fault

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces the attempts of Retry: exponential, with full jitter on the
// upper half of each delay.
type Backoff struct {
	// Initial is the delay after the first failure. Default 100ms.
	Initial time.Duration
	// Max bounds one delay. Default 30s.
	Max time.Duration
	// Attempts bounds how often the step is tried; 0 means until ctx ends.
	Attempts int
	// Notify, if set, is told of each failure that will be retried.
	Notify func(err error, attempt int, wait time.Duration)
}

// Delay is the wait after the given failed attempt, counted from 1.
func (b Backoff) Delay(attempt int) time.Duration {
	d, ceiling := b.Initial, b.Max
	if d <= 0 {
		d = 100 * time.Millisecond
	}
	if ceiling <= 0 {
		ceiling = 30 * time.Second
	}
	for i := 1; i < attempt && d < ceiling; i++ {
		d *= 2
	}
	d = min(d, ceiling)
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// Retry runs step until it succeeds, fails with a class other than Transient,
// runs out of attempts, or ctx ends. It returns the last error of step; when
// ctx ended during a wait, that is still the error of step.
func Retry(ctx context.Context, b Backoff, step func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := step(ctx)
		if err == nil || ClassOf(err) != Transient || ctx.Err() != nil {
			return err
		}
		if b.Attempts > 0 && attempt >= b.Attempts {
			return err
		}
		wait := b.Delay(attempt)
		if b.Notify != nil {
			b.Notify(err, attempt, wait)
		}
		if Sleep(ctx, wait) != nil {
			return err
		}
	}
}

// Sleep waits for d or until ctx ends, and returns ctx.Err() in that case.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
