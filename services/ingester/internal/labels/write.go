package labels

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// write appends frames in their order until frames is closed and everything in
// it is durable.
func (l *labeler) write(ctx context.Context) error {
	for {
		batch, err := l.collect(ctx)
		if err != nil || batch == nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // a stop that was asked for is no fault
			}
			return err
		}
		if err := l.flush(ctx, batch); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // a stop that was asked for is no fault
			}
			return err
		}
	}
}

// collect takes frames until there are enough labels, or the socket has
// nothing more to give. It returns nil when frames is closed and empty.
func (l *labeler) collect(ctx context.Context) ([]frame, error) {
	var first frame
	select {
	case f, open := <-l.frames:
		if !open {
			return nil, nil
		}
		first = f
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	batch, labels := []frame{first}, len(first.labels)
	deadline := time.Now().Add(l.p.cfg.BatchTimeout)
	for labels < l.p.cfg.BatchSize && len(batch) < 4*l.p.cfg.BatchSize && batch[len(batch)-1].rewound == nil && time.Now().Before(deadline) {
		select {
		case f, open := <-l.frames:
			if !open {
				return batch, nil
			}
			batch, labels = append(batch, f), labels+len(f.labels)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// flush makes a batch durable: its labels and the cursor together.
func (l *labeler) flush(ctx context.Context, batch []frame) error {
	defer l.p.deps.Pressure.Begin()()
	if err := l.p.deps.Gate.Wait(ctx); err != nil {
		return err
	}
	var items, late []redstream.Item
	upTo, newest := int64(0), time.Time{}
	for i := range batch {
		f := &batch[i]
		if f.dead != nil {
			if err := l.p.dead.Park(ctx, l.host.Name, f.dead); err != nil {
				return err
			}
		}
		if f.late {
			late = l.encode(late, f, &newest)
			continue
		}
		upTo = max(upTo, f.seq)
		items = l.encode(items, f, &newest)
	}
	crash.Point(crash.AfterReadBeforeAdd)
	if len(late) > 0 {
		if err := l.p.deps.Stream.Append(ctx, late); err != nil {
			return fmt.Errorf("append %d late labels: %w", len(late), err)
		}
	}
	if upTo > 0 {
		if _, err := l.p.deps.Stream.AppendSeq(ctx, l.cursorKey(), items, upTo); err != nil {
			return fmt.Errorf("append %d labels of %s: %w", len(items), l.host.Name, err)
		}
	}
	crash.Point(crash.AfterAddBeforeReply)
	for i := range batch {
		l.budget.Release(batch[i].bytes)
	}
	l.p.metrics.written.Add(float64(len(items) + len(late)))
	l.p.deps.Written.Observe(newest)
	if rewound := batch[len(batch)-1].rewound; rewound != nil {
		return l.rewind(ctx, rewound)
	}
	return nil
}

func (l *labeler) encode(items []redstream.Item, f *frame, newest *time.Time) []redstream.Item {
	for i := range f.labels {
		name, value, err := l.p.cfg.Encoding.Label(&event.LabelEvent{Seq: f.seq, Host: l.host.Name, Label: f.labels[i]})
		if err != nil {
			l.p.dropped(err)
			continue
		}
		items = append(items, redstream.Item{Seq: f.seq, Fields: []redstream.Field{{Name: name, Value: value}}})
		if at, err := time.Parse(time.RFC3339Nano, f.labels[i].CTS); err == nil && at.After(*newest) {
			*newest = at
		}
	}
	return items
}

func (l *labeler) rewind(ctx context.Context, rewound chan struct{}) error {
	l.p.log.WarnContext(ctx, "cursor set back to the start of what the labeler has", slog.String("labeler", l.host.Name))
	err := fault.Retry(ctx, l.p.patience(ctx, "set back cursor"), func(ctx context.Context) error {
		return l.p.deps.Cursors.SetCursor(ctx, l.cursorKey(), "0")
	})
	if err != nil {
		return err
	}
	l.p.deps.Stream.Resume(l.cursorKey())
	close(rewound)
	return nil
}
