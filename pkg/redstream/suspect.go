package redstream

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// suspects are entries whose earlier deliveries had no end: whoever had them
// died. They have few deliveries left and are handed out one at a time, so that
// the next death tells which one it was, and the entries that only happened to
// be held at the same time are not parked for it.
type suspects struct {
	mu   sync.Mutex
	list []Delivery // with the count they had before this life
}

func (q *suspects) add(ds []Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, ds...)
}

func (q *suspects) next() (Delivery, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return Delivery{}, false
	}
	d := q.list[0]
	q.list = q.list[1:]
	return d, true
}

// lastChances is the delivery from which on an entry is handed out alone.
func (cfg ConsumerConfig) lastChances() int64 { return max(cfg.MaxDeliveries-1, 2) }

// suspend sets suspects aside and returns the rest. Reading or claiming them
// has counted as a delivery in Redis; it is taken back until they are really
// handed out. If that fails, the count is one too high.
func (s *source) suspend(ctx context.Context, ds []Delivery) []Delivery {
	var apart []Delivery
	rest := ds[:0:0]
	for _, d := range ds {
		if d.Deliveries < s.cons.cfg.lastChances() {
			rest = append(rest, d)
			continue
		}
		d.Deliveries--
		apart = append(apart, d)
	}
	if len(apart) == 0 {
		return ds
	}
	s.recount(ctx, apart)
	s.apart.add(apart)
	signal(s.held.woken)
	return rest
}

// suspect returns the next suspect if none is being worked on.
func (s *source) suspect(ctx context.Context) []Delivery {
	for !s.held.busyAlone() {
		d, ok := s.apart.next()
		if !ok {
			return nil
		}
		s.held.setAlone(d.ID)
		if ds := s.again(ctx, []Delivery{d}); len(ds) > 0 {
			return ds
		}
		s.held.setAlone("")
	}
	return nil
}

// recount writes the delivery counts of entries to Redis, which makes them
// look fresh too. It returns the ids that are not pending any more; what Redis
// could not be asked about is not among them.
func (s *source) recount(ctx context.Context, ds []Delivery) (gone map[string]bool) {
	byCount := make(map[int64][]string)
	for _, d := range ds {
		byCount[d.Deliveries] = append(byCount[d.Deliveries], d.ID)
	}
	gone = make(map[string]bool)
	for count, ids := range byCount {
		at := time.Now()
		ours, err := s.c.do(ctx, s.c.rc.B().Arbitrary("XCLAIM").Keys(s.key).Args(s.group, s.name, "0").Args(ids...).
			Args("RETRYCOUNT", strconv.FormatInt(count, 10), "JUSTID").Build()).AsStrSlice()
		if err != nil {
			continue
		}
		s.held.touch(ours, at)
		for _, id := range ids {
			gone[id] = true
		}
		for _, id := range ours {
			delete(gone, id)
		}
	}
	return gone
}
