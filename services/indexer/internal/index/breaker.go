package index

import (
	"context"
	"sync"
	"time"
)

// breaker knows whether the database answers, and tells the consumer when that
// changes: while it does not, nothing may be claimed, counted as a delivery, or
// parked.
type breaker struct {
	switched func(bad bool)
	ping     func(context.Context) error

	mu   sync.Mutex
	open bool
}

// pingTimeout bounds one question to the database.
const pingTimeout = 3 * time.Second

// good is called after every success.
func (b *breaker) good() { b.set(false) }

// answers asks the database after a failure.
func (b *breaker) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	ok := b.ping == nil || b.ping(ctx) == nil
	b.set(!ok)
	return ok
}

func (b *breaker) set(open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != open {
		b.open = open
		b.switched(open)
	}
}
