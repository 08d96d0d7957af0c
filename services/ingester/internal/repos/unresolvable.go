package repos

import (
	"strings"
	"sync"
	"time"
)

const (
	// unresolvableFor is how long an account whose identity could not be had
	// within the patience is not asked for again.
	unresolvableFor = 10 * time.Minute
	// maxUnresolvable bounds the accounts that are remembered so.
	maxUnresolvable = 20_000
)

// unresolvable remembers accounts whose identity cannot be had, so that each
// costs the patience once and not with every commit. It keeps a bounded number
// in two generations and is safe for concurrent use.
type unresolvable struct {
	most int

	mu       sync.Mutex
	cur, old map[string]time.Time // when to ask again
}

func newUnresolvable(most int) *unresolvable {
	return &unresolvable{most: most, cur: map[string]time.Time{}}
}

func (u *unresolvable) add(did string, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.cur) >= u.most/2 {
		u.old, u.cur = u.cur, map[string]time.Time{}
	}
	u.cur[strings.Clone(did)] = until
}

func (u *unresolvable) has(did string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.cur[did]
	if !ok {
		until, ok = u.old[did]
	}
	return ok && now.Before(until)
}

func (u *unresolvable) forget(did string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.cur, did)
	delete(u.old, did)
}
