package repos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// Schedule keeps entries for the job stream until they are due. Adding a name
// again moves its due time. Durable on return; safe for concurrent use.
type Schedule interface {
	Add(ctx context.Context, name string, fields []redstream.Field, due time.Time) error
	// Len is how many wait.
	Len(ctx context.Context) (int64, error)
}

// resyncs asks for repositories to be fetched as a whole, at most once in an
// interval for each DID: a second wish within it is put off to its end, not
// dropped, so the fetch comes after the last change that asked for it.
type resyncs struct {
	to       Schedule
	encode   func(j *event.RepoJob) (field, value string, err error)
	interval time.Duration
	limit    int64 // wishes that may wait
	most     int
	metrics  *metrics

	mu       sync.Mutex
	due      map[string]time.Time // last due time by DID, current generation
	previous map[string]time.Time
}

func newResyncs(to Schedule, enc event.Encoding, interval time.Duration, limit int64, m *metrics) *resyncs {
	return &resyncs{to: to, encode: enc.Job, interval: interval, limit: limit, most: 100_000, metrics: m, due: map[string]time.Time{}}
}

// schedule makes the wish for each DID durable, but for those above the limit
// of what may wait: their number is returned.
func (r *resyncs) schedule(ctx context.Context, dids []string) (over int, err error) {
	room := int64(-1) // not known yet
	for _, did := range dids {
		due, pending := r.plan(did, time.Now())
		if pending {
			continue
		}
		if room < 0 {
			if room, err = r.room(ctx); err != nil {
				return 0, err
			}
		}
		if room == 0 {
			over++
			continue
		}
		field, value, err := r.encode(&event.RepoJob{DID: did, Active: true, Reason: event.ReasonResync})
		if err != nil {
			r.metrics.drops.WithLabelValues(string(event.ReasonBadDID)).Inc()
			continue
		}
		err = fault.Retry(ctx, patience, func(ctx context.Context) error {
			return r.to.Add(ctx, did, []redstream.Field{{Name: field, Value: value}}, due)
		})
		if err != nil {
			return 0, fmt.Errorf("schedule resync: %w", err)
		}
		room--
		r.planned(did, due)
		r.metrics.resyncs.Inc()
	}
	r.metrics.resyncsOver.Add(float64(over))
	return over, nil
}

var patience = fault.Backoff{Initial: 50 * time.Millisecond, Max: 2 * time.Second}

// room is how many wishes may be added.
func (r *resyncs) room(ctx context.Context) (room int64, err error) {
	err = fault.Retry(ctx, patience, func(ctx context.Context) error {
		n, err := r.to.Len(ctx)
		room = max(r.limit-n, 0)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count resyncs: %w", err)
	}
	return room, nil
}

// slack is the greatest difference between our clock and that of Redis for
// which a wish is still taken to be waiting.
const slack = 5 * time.Second

// plan returns when the next fetch of did is due, and whether one that is
// already durable covers the wish.
func (r *resyncs) plan(did string, now time.Time) (due time.Time, pending bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.due[did]
	if !ok {
		last, ok = r.previous[did]
	}
	switch {
	case !ok || now.After(last.Add(r.interval)):
		return now, false
	case last.After(now.Add(slack)):
		return last, true
	default:
		return last.Add(r.interval), false
	}
}

func (r *resyncs) planned(did string, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.due) >= r.most {
		r.previous, r.due = r.due, map[string]time.Time{}
	}
	r.due[did] = due
}
