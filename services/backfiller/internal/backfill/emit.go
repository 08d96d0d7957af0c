package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
)

// A chunk is what is appended in one step: at most chunkEvents events, or
// about chunkBytes of them.
const (
	chunkEvents = 500
	chunkBytes  = 4 << 20
)

// emitter writes one repository to the output stream, in chunks.
//
// Before each chunk it asks hold, so that what the output can grow by while
// the gate closes is one chunk for each repository in flight.
type emitter struct {
	hold   func(ctx context.Context) error
	append func(ctx context.Context, items []redstream.Item) error
	enc    event.Encoding
	m      *metrics

	// base is what all events of the repository have in common.
	base  event.Event
	items []redstream.Item
	bytes int

	emitted, appended int64
}

// begin is told of the commit before the first record.
func (e *emitter) begin(did, commit, rev string, at time.Time) {
	e.base = event.Event{
		Seq: event.SeqBackfill, Time: at.UTC().Format("2006-01-02T15:04:05.000Z"),
		DID: did, Commit: commit, Rev: rev,
	}
}

// record adds one record. Its bytes are not kept.
func (e *emitter) record(ctx context.Context, r atproto.Record) error {
	ev := e.base
	ev.Type, ev.Collection, ev.RKey, ev.CID, ev.RecordCBOR = event.Create, r.Collection, r.RKey, r.CID.String(), r.Value
	field, value, err := e.enc.Event(&ev)
	if err != nil {
		var drop *event.DropError
		if !errors.As(err, &drop) {
			return fmt.Errorf("encode %s: %w", ev.URI(), err)
		}
		e.m.rejected.WithLabelValues(string(drop.Reason)).Inc()
		return nil
	}
	e.add(field, value)
	e.emitted++
	if len(e.items) >= chunkEvents || e.bytes >= chunkBytes {
		return e.flush(ctx)
	}
	return nil
}

// finish appends what is left and the event that closes the repository.
func (e *emitter) finish(ctx context.Context) error {
	ev := e.base
	ev.Type, ev.Snapshot, ev.Count = event.Repo, true, e.emitted
	field, value, err := e.enc.Event(&ev)
	if err != nil {
		return fmt.Errorf("encode the closing event of %s: %w", ev.DID, err)
	}
	e.add(field, value)
	return e.flush(ctx)
}

func (e *emitter) add(field, value string) {
	e.items = append(e.items, redstream.Item{Seq: event.SeqBackfill, Fields: []redstream.Field{{Name: field, Value: value}}})
	e.bytes += len(value)
}

func (e *emitter) flush(ctx context.Context) error {
	if err := e.hold(ctx); err != nil {
		return err
	}
	crash.Point(crash.AfterReadBeforeAdd)
	start := time.Now()
	if err := e.append(ctx, e.items); err != nil {
		return fmt.Errorf("append %d events of %s: %w", len(e.items), e.base.DID, err)
	}
	e.m.chunks.Observe(time.Since(start).Seconds())
	e.m.extracted.Add(float64(e.emitted - e.appended))
	e.appended = e.emitted
	clear(e.items)
	e.items, e.bytes = e.items[:0], 0
	crash.Point(crash.AfterChunkBeforeNext)
	return nil
}
