package backfill

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// reader takes the jobs of one class from the job stream.
//
// Every class has its own consumer group on the one stream, and each group
// acks at once what belongs to the other. An urgent job is thus found at the
// end of the stream although millions of bulk jobs are before it, and who
// writes jobs need not know.
type reader struct {
	class    class
	group    string
	consumer *redstream.Consumer
	delayed  *redstream.Delayed
	// queue leads to the resolvers; a full queue stops the reading.
	queue chan *task

	states *states
	settle *settler
	m      *metrics
	log    *slog.Logger
}

// handle takes a batch of deliveries. It blocks while the queue is full.
func (r *reader) handle(ctx context.Context, batch []redstream.Delivery) error {
	tasks := make([]*task, 0, len(batch))
	for _, d := range batch {
		t := r.decode(ctx, d)
		if t != nil {
			tasks = append(tasks, t)
		}
	}
	if err := r.lookUp(ctx, tasks); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // what was read stays pending
		}
		return err
	}
	for _, t := range tasks {
		if t.covered() {
			r.settle.skip(t, endSkipped)
			continue
		}
		select {
		case r.queue <- t:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// decode returns the job of a delivery, or settles what is not for this reader.
func (r *reader) decode(ctx context.Context, d redstream.Delivery) *task {
	t := &task{from: r, delivery: d}
	job, err := event.DecodeJob(d.Get)
	if err != nil {
		if r.class == bulk {
			r.settle.park(ctx, t, parkUnreadable, err)
		} else {
			r.settle.skip(t, endOther) // the bulk reader parks it
		}
		return nil
	}
	t.job, t.class, t.attempts = job, classOf(job), attemptsOf(d.Entry)
	if t.class != r.class {
		r.settle.skip(t, endOther)
		return nil
	}
	return t
}

// lookUp fills in what is known of the repositories. Redis being away is
// waited for.
func (r *reader) lookUp(ctx context.Context, tasks []*task) error {
	dids := make([]string, len(tasks))
	for i, t := range tasks {
		dids[i] = t.job.DID
	}
	return fault.Retry(ctx, fault.Backoff{Initial: 50 * time.Millisecond, Max: 2 * time.Second}, func(ctx context.Context) error {
		known, err := r.states.read(ctx, dids)
		if err != nil {
			return fmt.Errorf("look up: %w", err)
		}
		for i, t := range tasks {
			t.known = known[i]
		}
		return nil
	})
}
