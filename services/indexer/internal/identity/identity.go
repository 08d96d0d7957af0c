// Package identity finds out, off the path of the events, what the network says
// of an account: whether its handle leads back to it, and whether its server
// still has it.
//
// What is to be looked up stands in tables, so it survives a restart; any
// number of replicas share it. The network is asked at a bounded rate.
package identity

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/store"
)

// Directory answers who an account is. It is safe for concurrent use.
type Directory interface {
	// Refresh looks the DID up now, past every cache. A Permanent error means
	// that there is no such account.
	Refresh(ctx context.Context, did string) (atproto.Identity, error)
	// ResolveHandle returns the DID that a handle leads to. A Permanent error
	// means that it leads nowhere.
	ResolveHandle(ctx context.Context, handle string) (string, error)
}

// Checks is the list of handles to look up. Its methods are safe for concurrent
// use; to repeat any of them does no harm.
type Checks interface {
	// TakeHandleChecks hands out at most n that are due, one for each account;
	// what is not ended within lease is handed out again.
	TakeHandleChecks(ctx context.Context, n int, lease time.Duration) ([]store.HandleCheck, error)
	// HandleDue says whether a check is still called for.
	HandleDue(ctx context.Context, c store.HandleCheck) (bool, error)
	// HandleChecked ends a check.
	HandleChecked(ctx context.Context, c store.HandleCheck) error
	// HandleRetry puts a check off.
	HandleRetry(ctx context.Context, c store.HandleCheck, wait time.Duration) error
}

// Actors takes what was found.
type Actors interface {
	// SetHandle stores the handle found by a look-up at the time of an event;
	// nil stands for one that does not lead back to the account.
	SetHandle(ctx context.Context, did string, handle *string, at string) error
	// ForgetActor removes what only the events of an account that cannot be
	// resolved have made.
	ForgetActor(ctx context.Context, did string) error
}

// Tables is where checks come from and results go to.
type Tables interface {
	Checks
	Actors
}

// Config of a Verifier.
type Config struct {
	// Workers is how many look-ups run at once. Default 16.
	Workers int
	// Rate bounds the look-ups per second. Default 100.
	Rate float64
	// Every is the pause between two looks at an empty list. Default 250ms.
	Every time.Duration
	// Timeout bounds one look-up. Default 15s.
	Timeout time.Duration
	// Attempts is how often a handle is tried while the network fails, before
	// it counts as invalid. Default 5.
	Attempts int
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = 16
	}
	if c.Rate <= 0 {
		c.Rate = 100
	}
	if c.Every <= 0 {
		c.Every = 250 * time.Millisecond
	}
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 5
	}
	return c
}

// Verifier looks up the handles that are due.
type Verifier struct {
	cfg     Config
	dir     Directory
	tables  Tables
	writes  chan struct{} // a token for each connection that may be used
	limit   *rate.Limiter
	again   fault.Backoff // spaces the attempts of one account
	wake    chan struct{}
	metrics *metrics
	log     *slog.Logger
}
