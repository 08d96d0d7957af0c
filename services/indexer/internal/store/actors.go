package store

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// actorRow is what of an actor row decides when its handle is looked up.
type actorRow struct {
	Handle    *string
	IndexedAt string
	Status    *string
	// fresh: this batch makes the row. changed: it sets the status. looked is
	// the time of the newest look-up that it asks for.
	fresh, changed bool
	looked         string
}

// accountRow is what account events said of an account.
type accountRow struct {
	Status                *string
	StatusAt              string
	DeletedRev, DeletedAt string
}

type syncRow struct{ Commit, Rev string }

// After these times the handle of an account is looked up again by its next
// event.
const (
	handleAge        = 24 * time.Hour
	invalidHandleAge = time.Hour
)

// see notes the account of an event: its actor row, its newest revision, and
// whether its handle has to be looked up.
func (s *sim) see(it *item) {
	did, at := it.ev.DID, it.at
	if it.ev.Type == event.Account || did == "" {
		return
	}
	if it.ev.Rev != "" && it.ev.Rev > s.syncs[did].Rev {
		s.syncs[did] = syncRow{Commit: it.ev.Commit, Rev: it.ev.Rev}
	}
	acct := s.account(did)
	if acct.DeletedAt != "" && at <= acct.DeletedAt {
		return
	}
	force := it.ev.Type == event.Identity
	a := s.actor(did)
	switch {
	case a == nil:
		a = &actorRow{IndexedAt: at, fresh: true, looked: at}
		s.actors[did] = a
	case !force && !due(a, at):
		s.reviveStatus(did, acct, at)
		return
	default:
		next := *a
		next.looked = max(a.IndexedAt, a.looked, at)
		a = &next
		s.actors[did] = a
	}
	s.reviveStatus(did, acct, at)
	key := [2]string{did, at}
	c, asked := s.checks[key]
	s.checks[key] = Seen{
		DID: did, At: at, Force: force || c.Force, Fresh: a.fresh,
		Backfill: it.ev.Backfilled() && (!asked || c.Backfill),
	}
}

// due says whether an event asks for a look at the handle.
func due(a *actorRow, at string) bool {
	then, ok := derive.ParseDatetime(max(a.IndexedAt, a.looked))
	now, ok2 := derive.ParseDatetime(at)
	if !ok || !ok2 {
		return true
	}
	age := now.Sub(then)
	return age > handleAge || (a.Handle == nil && age > invalidHandleAge)
}

// accountStatus applies an account event, except for a deletion: that is
// DeleteAccount, after a look at who hosts the account.
func (s *sim) accountStatus(it *item) Result {
	status, ok := statusOf(it.ev)
	if !ok {
		it.err = &derive.RejectError{Reason: UnknownStatus, Err: errUnknownStatus}
		return Rejected
	}
	acct := s.account(it.ev.DID)
	if it.ev.Status == "deleted" && !it.ev.Active {
		return Ignored
	}
	// Of two events of one time the later one in its stream counts.
	at := fmt.Sprintf("%s#%019d", it.at, max(it.ev.Seq, 0))
	if at <= acct.StatusAt {
		return Stale
	}
	acct.Status, acct.StatusAt = &status, at
	s.accounts[it.ev.DID] = acct
	if a := s.actor(it.ev.DID); a != nil {
		s.setStatus(it.ev.DID, a, status)
	}
	return Applied
}

// UnknownStatus is the reason for refusing an account event.
const UnknownStatus derive.Reason = "unknown_status"

var errUnknownStatus = errors.New("inactive account without a known status")

// statusOf is the status that an account event gives; empty for an active one.
func statusOf(e *event.Event) (string, bool) {
	if e.Active {
		return "", true
	}
	switch status := strings.ToLower(e.Status); status {
	case "deactivated", "suspended", "takendown", "deleted":
		return status, true
	default:
		return "", false
	}
}

// reviveStatus gives a status that is younger than the event to an actor row
// that did not have it.
func (s *sim) reviveStatus(did string, acct accountRow, at string) {
	if a := s.actor(did); a != nil && acct.Status != nil && acct.StatusAt >= at {
		s.setStatus(did, a, *acct.Status)
	}
}

func (s *sim) setStatus(did string, a *actorRow, status string) {
	if (a.Status == nil && status == "") || (a.Status != nil && *a.Status == status) {
		return
	}
	next := *a
	next.Status, next.changed = nullable(status), true
	s.actors[did] = &next
}

func (s *sim) actor(did string) *actorRow {
	if a, ok := s.actors[did]; ok {
		return a
	}
	a, _ := s.c.actors.get(did)
	return a
}

// HandleIsOld says whether an event at a time asks for a new look at a handle
// that was looked up at another time.
func HandleIsOld(handle *string, lookedUp, at string) bool {
	return due(&actorRow{Handle: handle, IndexedAt: lookedUp}, at)
}
