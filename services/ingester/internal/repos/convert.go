package repos

import (
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
)

// converter turns frames into entries of the stream. It is safe for
// concurrent use.
type converter struct {
	keep    *Collections
	enc     event.Encoding
	metrics *metrics
}

// commit converts the operations of a commit whose archive is open. A commit
// of which nothing is kept becomes one repo event.
func (c *converter) commit(m *atproto.Commit, at time.Time) (*entry, error) {
	filtered := 0
	events, err := m.Events(make([]event.Event, 0, len(m.Ops)), func(collection string) bool {
		if c.keep.Keep(collection) {
			return true
		}
		filtered++
		return false
	}, func(_ *atproto.Op, err error) { c.dropped(err) })
	if err != nil {
		return nil, err
	}
	c.metrics.filtered.Add(float64(filtered))
	e := newEntry(at, len(events))
	for i := range events {
		c.add(e, &events[i])
	}
	if len(e.fields) == 0 {
		c.add(e, &event.Event{Type: event.Repo, Seq: m.Seq, Time: m.Time, DID: m.DID, Commit: m.Commit.String(), Rev: m.Rev})
	}
	return e, nil
}

func (c *converter) sync(m *atproto.Sync, at time.Time) *entry {
	e := newEntry(at, 1)
	c.add(e, &event.Event{Type: event.Repo, Seq: m.Seq, Time: m.Time, DID: m.DID, Commit: m.Head().CID.String(), Rev: m.Rev})
	return e
}

func (c *converter) account(m *atproto.AccountChange, at time.Time) *entry {
	e := newEntry(at, 1)
	c.add(e, &event.Event{Type: event.Account, Seq: m.Seq, Time: m.Time, DID: m.DID, Active: m.Active, Status: m.Status})
	return e
}

func (c *converter) identity(m *atproto.IdentityChange, at time.Time) *entry {
	e := newEntry(at, 1)
	c.add(e, &event.Event{Type: event.Identity, Seq: m.Seq, Time: m.Time, DID: m.DID, Handle: m.Handle})
	return e
}

func newEntry(at time.Time, fields int) *entry {
	return &entry{fields: make([]redstream.Field, 0, max(fields, 1)), time: at}
}

// add encodes ev; one that cannot be encoded is dropped alone.
func (c *converter) add(e *entry, ev *event.Event) {
	name, value, err := c.enc.Event(ev)
	if err != nil {
		c.dropped(err)
		return
	}
	e.fields = append(e.fields, redstream.Field{Name: name, Value: value})
	e.bytes += int64(len(value))
	switch ev.Type {
	case event.Create:
		e.tally.creates++
	case event.Update:
		e.tally.updates++
	case event.Delete:
		e.tally.deletes++
	case event.Repo, event.Account, event.Identity:
	}
}

func (c *converter) dropped(err error) {
	reason := atproto.ReasonOf(err)
	if reason == "" {
		reason = event.ReasonRejected
	}
	c.metrics.drops.WithLabelValues(string(reason)).Inc()
	c.metrics.errors.Inc()
}
