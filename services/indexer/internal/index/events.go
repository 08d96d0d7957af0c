package index

import (
	"context"
	"log/slog"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/store"
)

// Applier makes changes of repositories durable.
type Applier interface {
	// Apply commits all changes or none, in their order. The same changes
	// again change nothing. Its errors have a class; a Permanent one means that
	// some change of the batch can never be applied.
	Apply(ctx context.Context, changes []store.Change) (store.Outcome, error)
}

// Sweeps takes note of fetched repositories.
type Sweeps interface {
	// QueueSweeps makes durable that what the snapshots did not have is to go
	// once everything before their entries is finished. Idempotent.
	QueueSweeps(ctx context.Context, sweeps ...store.Sweep) error
}

// Accounts says whether an account that is said to be inactive is so.
type Accounts interface {
	// Confirm asks the present server of the account. A Transient error means
	// that it is to be asked again. It is safe for concurrent use.
	Confirm(ctx context.Context, did, status string) (bool, error)
}

// Deleter takes accounts out.
type Deleter interface {
	// DeleteAccount deletes an account and its records as of a time; what is
	// younger stays. Idempotent.
	DeleteAccount(ctx context.Context, did, at string) error
}

// eventEntry is an event and where it stood.
type eventEntry struct {
	event *event.Event
	id    string
}

// events applies the events of one stream.
type events struct {
	stream  string
	live    bool
	to      Sinks
	metrics *Metrics
	log     *slog.Logger
}

// Sinks is where events go.
type Sinks struct {
	Apply  Applier
	Sweeps Sweeps
	Delete Deleter
	// Accounts may be nil: what is said of an account then holds.
	Accounts Accounts
	// Wake, if set, is called when there are handles to look up.
	Wake func()
}

// Events returns the pipeline of a stream of repository events. Only a live
// one makes notifications.
func Events(c *redstream.Client, cfg Config, live bool, to Sinks, m *Metrics, log *slog.Logger) (*Pipeline[eventEntry], error) {
	e := &events{stream: cfg.Name, live: live, to: to, metrics: m, log: log.With("component", "index", "stream", cfg.Name)}
	return newPipeline(c, cfg, kind[eventEntry]{
		decode: e.decode,
		key:    func(v eventEntry) string { return v.event.DID },
		apply:  e.applyAll,
		after:  e.after,
		check:  e.check,
		// A status can be taken back; a deletion cannot.
		unchecked: func(v eventEntry) bool { return !deletes(v.event) },
		time:      func(v eventEntry) time.Time { return eventTime(v.event.Time) },
		done:      e.done,
	}, m, log)
}

func (*events) decode(d redstream.Delivery) (eventEntry, bool, error) {
	ev, err := event.DecodeEvent(d.Get)
	if err != nil {
		return eventEntry{}, false, err
	}
	if ev.Record, err = ev.RecordJSON(); err != nil {
		return eventEntry{}, false, err
	}
	return eventEntry{event: ev, id: d.ID}, true, nil
}

func (e *events) applyAll(ctx context.Context, batch []eventEntry) (refused []error, err error) {
	changes := make([]store.Change, len(batch))
	for i, v := range batch {
		changes[i] = store.Change{Event: v.event, Live: e.live && !v.event.Backfilled()}
	}
	outcome, err := e.to.Apply.Apply(ctx, changes)
	if err != nil {
		return nil, err
	}
	var sweeps []store.Sweep
	for _, v := range batch {
		if v.event.Snapshot {
			sweeps = append(sweeps, store.Sweep{DID: v.event.DID, Rev: v.event.Rev, Stream: e.stream, ID: v.id})
		}
	}
	if len(sweeps) > 0 {
		if err := e.to.Sweeps.QueueSweeps(ctx, sweeps...); err != nil {
			return nil, err
		}
	}
	if len(outcome.Seen) > 0 && e.to.Wake != nil {
		e.to.Wake()
	}
	return e.count(ctx, batch, outcome), nil
}

// deletes says whether an event says that an account is gone for good.
func deletes(ev *event.Event) bool {
	return ev.Type == event.Account && !ev.Active && ev.Status == statusDeleted
}

// after deletes an account that is gone: that takes as long as it has records.
// It is as of the time of the event, so what comes meanwhile need not wait.
func (e *events) after(v eventEntry) func(context.Context) error {
	if !deletes(v.event) {
		return nil
	}
	return func(ctx context.Context) error { return e.to.Delete.DeleteAccount(ctx, v.event.DID, v.event.Time) }
}

// statusDeleted is the status of such an account.
const statusDeleted = "deleted"

// check asks about accounts that are said to be inactive.
func (e *events) check(v eventEntry) func(context.Context) (bool, error) {
	if e.to.Accounts == nil || v.event.Type != event.Account || v.event.Active {
		return nil
	}
	return func(ctx context.Context) (bool, error) {
		return e.to.Accounts.Confirm(ctx, v.event.DID, v.event.Status)
	}
}

// count tells the metrics what became of each change, and returns what the
// database refused.
func (e *events) count(ctx context.Context, batch []eventEntry, outcome store.Outcome) (refused []error) {
	refused = make([]error, len(batch))
	for i, r := range outcome.Results {
		switch r.Result {
		case store.Applied:
			e.metrics.writes.Inc()
		case store.Rejected:
			e.metrics.rejected(r.Err)
			refused[i] = byDatabase(r.Err)
			e.log.DebugContext(ctx, "record refused", "uri", batch[i].event.URI(), slog.Any("err", r.Err))
		case store.Stale, store.Ignored:
		}
	}
	return refused
}

// done counts what is acknowledged.
func (e *events) done(batch []eventEntry) {
	for _, v := range batch {
		e.metrics.processed.Inc()
		if c, ok := e.metrics.byType[v.event.Type]; ok {
			c.Inc()
		}
		if c, ok := e.metrics.byKind[v.event.Collection]; ok {
			c.Inc()
		}
	}
}

// eventTime reads the time of a frame; zero if it cannot be read.
func eventTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Priority lets the work of one pipeline wait for that of another.
type Priority struct {
	// Busy says whether the more urgent work is behind.
	Busy func() bool
	// Most is the longest that one batch waits. Default 1s.
	Most time.Duration
}

// Yield waits while the more urgent work is behind, at most as long as said,
// so that the less urgent goes on, slowly.
func (p Priority) Yield(ctx context.Context) {
	most := p.Most
	if most <= 0 {
		most = time.Second
	}
	const step = 20 * time.Millisecond
	for waited := time.Duration(0); waited < most && p.Busy(); waited += step {
		timer := time.NewTimer(step)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
