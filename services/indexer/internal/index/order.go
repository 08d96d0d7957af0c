package index

import (
	"context"
	"sync/atomic"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// fullBatches is how many full reads in a row mean that a pipeline is behind.
const fullBatches = 8

// order decides how entries are spread over the lanes. A pipeline that keeps
// up applies them in the order of the stream, on one lane: then every fact
// between repositories is judged by exactly what preceded it. One that is
// behind keeps the order of each repository only, on all its lanes.
//
// All but the counter is owned by the handler.
type order struct {
	parallel bool
	full     int
	inLanes  atomic.Int64
}

// settled is told of entries that have left the lanes.
func (o *order) settled(n int) { o.inLanes.Add(-int64(n)) }

// next decides for a batch as it was read. Between one way and the other it
// waits for the lanes to be empty, so that the order of each repository holds.
func (o *order) next(ctx context.Context, batch []redstream.Delivery, most int) error {
	if batch[0].Deliveries > 1 {
		return nil // what comes again says nothing about the stream
	}
	if len(batch) < most {
		o.full = 0
	} else {
		o.full++
	}
	parallel := o.full >= fullBatches
	if parallel == o.parallel {
		return nil
	}
	for o.inLanes.Load() > 0 {
		if err := fault.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	o.parallel = parallel
	return nil
}

// lane is the key of the lane for an entry whose own key is given.
func (o *order) lane(key string) string {
	if o.parallel {
		return key
	}
	return ""
}
