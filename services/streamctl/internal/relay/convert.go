package relay

import (
	"context"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// Converter turns frames into the events that an ingester would write.
type Converter struct {
	// Keep says which collections are wanted.
	Keep func(collection string) bool
	// Verifier checks commits to Level.
	Verifier *atproto.Verifier
	Level    atproto.Level
	// Dropped counts frames and operations that could not be used, by reason.
	Dropped map[event.Reason]int64
}

// Events converts one frame. A frame that cannot be used has none, and is
// counted. An error means that an identity could not be had.
func (c *Converter) Events(ctx context.Context, f *atproto.Frame) ([]event.Event, error) {
	switch f.Kind {
	case atproto.KindCommit:
		return c.commit(ctx, f.Commit)
	case atproto.KindSync:
		s := f.Sync
		if _, err := c.Verifier.VerifySync(ctx, s, c.Level); err != nil {
			return nil, c.drop(err)
		}
		return []event.Event{{Type: event.Repo, Seq: s.Seq, Time: s.Time, DID: s.DID, Commit: s.Head().CID.String(), Rev: s.Rev}}, nil
	case atproto.KindAccount:
		a := f.Account
		return []event.Event{{Type: event.Account, Seq: a.Seq, Time: a.Time, DID: a.DID, Active: a.Active, Status: a.Status}}, nil
	case atproto.KindIdentity:
		i := f.Identity
		return []event.Event{{Type: event.Identity, Seq: i.Seq, Time: i.Time, DID: i.DID, Handle: i.Handle}}, nil
	case atproto.KindInfo, atproto.KindLabels, atproto.KindError, atproto.KindUnknown:
	}
	c.Dropped[event.ReasonUnknownKind]++
	return nil, nil
}

func (c *Converter) commit(ctx context.Context, m *atproto.Commit) ([]event.Event, error) {
	if _, err := c.Verifier.Verify(ctx, m, c.Level); err != nil {
		return nil, c.drop(err)
	}
	events, err := m.Events(nil, c.Keep, func(_ *atproto.Op, err error) { c.Dropped[reason(err)]++ })
	if err != nil {
		return nil, c.drop(err)
	}
	if len(events) == 0 {
		events = []event.Event{{Type: event.Repo, Seq: m.Seq, Time: m.Time, DID: m.DID, Commit: m.Commit.String(), Rev: m.Rev}}
	}
	return events, nil
}

// drop counts what is wrong with a frame; what may be right another time stays
// an error.
func (c *Converter) drop(err error) error {
	if atproto.ReasonOf(err) == "" && fault.ClassOf(err) != fault.Permanent {
		return err
	}
	c.Dropped[reason(err)]++
	return nil
}

func reason(err error) event.Reason {
	if r := atproto.ReasonOf(err); r != "" {
		return r
	}
	return event.ReasonRejected
}
