package repos

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// dispatcher judges slots with a fixed number of workers. Slots of one DID are
// judged one after the other in the order they were submitted; a DID with many
// of them keeps one worker busy and the others free.
type dispatcher struct {
	workers int
	judge   func(ctx context.Context, s *slot)

	mu     sync.Mutex
	queues map[string]*didQueue // DIDs with unfinished slots
	ready  []*didQueue          // queues no worker holds, oldest first
	wake   chan struct{}        // holds a token while ready may be non-empty
}

type didQueue struct {
	did   string
	slots []*slot
}

func newDispatcher(workers int, judge func(context.Context, *slot)) *dispatcher {
	return &dispatcher{
		workers: workers,
		judge:   judge,
		queues:  map[string]*didQueue{},
		wake:    make(chan struct{}, 1),
	}
}

// submit hands a slot over; it never blocks. The callers bound how many slots
// are unfinished.
func (d *dispatcher) submit(s *slot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q, busy := d.queues[s.did]; busy {
		q.slots = append(q.slots, s)
		return
	}
	q := &didQueue{did: s.did, slots: []*slot{s}}
	d.queues[s.did] = q
	d.ready = append(d.ready, q)
	d.signal()
}

func (d *dispatcher) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run judges until ctx ends. Slots that are unfinished then stay unfinished.
func (d *dispatcher) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range d.workers {
		g.Go(func() error {
			d.work(ctx)
			return nil
		})
	}
	return g.Wait()
}

func (d *dispatcher) work(ctx context.Context) {
	for {
		q, s := d.take(ctx)
		if q == nil {
			return
		}
		d.judge(ctx, s)
		if ctx.Err() != nil && !s.judged() {
			return
		}
		d.release(q)
	}
}

// take waits for a queue no worker holds and returns it with its first slot.
func (d *dispatcher) take(ctx context.Context) (*didQueue, *slot) {
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-d.wake:
		}
		d.mu.Lock()
		if len(d.ready) == 0 {
			d.mu.Unlock()
			continue
		}
		q := d.ready[0]
		d.ready[0] = nil
		d.ready = d.ready[1:]
		if len(d.ready) > 0 {
			d.signal()
		}
		s := q.slots[0]
		d.mu.Unlock()
		return q, s
	}
}

func (d *dispatcher) release(q *didQueue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q.slots[0] = nil
	q.slots = q.slots[1:]
	if len(q.slots) == 0 {
		delete(d.queues, q.did)
		return
	}
	d.ready = append(d.ready, q)
	d.signal()
}
