package backfill

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// class orders jobs: what an operator or a resync asks for goes before the
// enumeration of the network.
type class uint8

const (
	urgent class = iota
	bulk
	classes
)

// bulkShare is how often a bulk job goes first although urgent ones wait: one
// start in bulkShare, so that an endless stream of resyncs starves nothing.
const bulkShare = 8

// maxHosts bounds the hosts that are remembered; above it those with nothing
// waiting are forgotten, in trouble or not.
const maxHosts = 50_000

// scheduler holds jobs by host and says which one is next. It is fair between
// hosts, and a host that is parked or full holds back nobody else.
//
// next is for one caller; the rest is safe for concurrent use.
type scheduler struct {
	cfg HostConfig
	// window is how many jobs may wait before those of slow hosts are sent
	// away to come back later.
	window int
	now    func() time.Time

	wake chan struct{}

	mu      sync.Mutex
	hosts   map[string]*host
	ring    []*host // those with jobs waiting
	turn    int
	starts  int
	waiting int
	running int
	// same holds the jobs for a repository that is in flight or queued.
	same map[string][]*task
	held map[string]bool
}

func newScheduler(cfg HostConfig, window int) *scheduler {
	return &scheduler{
		cfg: cfg.withDefaults(), window: window, now: time.Now,
		wake:  make(chan struct{}, 1),
		hosts: map[string]*host{}, same: map[string][]*task{}, held: map[string]bool{},
	}
}

// verdict is what add made of a job.
type verdict struct {
	// accepted: the scheduler holds the job.
	accepted bool
	// dead: the host has been failing for long; charge the job an attempt.
	dead bool
	// due is when a job that was not accepted should come back.
	due time.Time
}

// add takes a job whose host is known, or says why not.
func (s *scheduler) add(t *task) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	h := s.host(t.pds, now)
	if h.dead(s.cfg, now) && now.Before(h.parked) {
		return verdict{dead: true, due: h.parked}
	}
	if due, yes := s.overflow(h, now); yes {
		return verdict{due: due}
	}
	if s.held[t.job.DID] {
		s.same[t.job.DID] = append(s.same[t.job.DID], t)
		s.waiting++
		return verdict{accepted: true}
	}
	s.held[t.job.DID] = true
	s.push(h, t)
	return verdict{accepted: true}
}

// overflow says whether a job of the host must make room for others. Each job
// sent away gets a later time, at the pace that the host can take, so it comes
// back about once.
func (s *scheduler) overflow(h *host, now time.Time) (time.Time, bool) {
	queued := h.queued()
	crowded := s.waiting >= s.window/2 && queued >= max(s.window/8, 1)
	parked := s.waiting >= s.window*3/4 && h.parked.Sub(now) > 10*time.Second
	if !crowded && !parked {
		return time.Time{}, false
	}
	step := h.step(s.cfg)
	if h.deferred.Before(now) {
		// A little before the queue will be empty.
		h.deferred = now.Add(max(time.Duration(queued)*step*3/4, time.Second))
	}
	if h.deferred.Before(h.parked) {
		h.deferred = h.parked
	}
	if h.deferred.Sub(now) < s.cfg.DeferMax {
		h.deferred = h.deferred.Add(step)
		return h.deferred, true
	}
	// Too many are away to give each a time of its own: spread them.
	return now.Add(s.cfg.DeferMax/2 + rand.N(s.cfg.DeferMax)), true
}

func (s *scheduler) host(name string, now time.Time) *host {
	h := s.hosts[name]
	if h == nil {
		if len(s.hosts) >= maxHosts {
			s.forget(now)
		}
		h = &host{name: name, limit: float64(s.cfg.Concurrency)}
		s.hosts[name] = h
	}
	return h
}

// forget drops the hosts that hold no job, healthy ones first.
func (s *scheduler) forget(now time.Time) {
	for name, h := range s.hosts {
		if h.idle(now) {
			delete(s.hosts, name)
		}
	}
	for name, h := range s.hosts {
		if len(s.hosts) < maxHosts*9/10 {
			return
		}
		if h.running == 0 && h.queued() == 0 {
			delete(s.hosts, name)
		}
	}
}

func (s *scheduler) push(h *host, t *task) {
	h.queue[t.class] = append(h.queue[t.class], t)
	s.waiting++
	if !h.inRing {
		h.inRing = true
		s.ring = append(s.ring, h)
	}
	s.signal()
}

func (s *scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next waits for a job that may start now.
func (s *scheduler) next(ctx context.Context) (*task, error) {
	for {
		t, again := s.pick()
		if t != nil {
			return t, nil
		}
		if err := s.wait(ctx, again); err != nil {
			return nil, err
		}
	}
}

func (s *scheduler) wait(ctx context.Context, again time.Time) error {
	var expired <-chan time.Time
	if !again.IsZero() {
		timer := time.NewTimer(max(again.Sub(s.now()), time.Millisecond))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.wake:
	case <-expired:
	}
	return nil
}

// pick takes the next job in turn, or says when to look again; the zero time
// means when something changes.
func (s *scheduler) pick() (*task, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	order := [classes]class{urgent, bulk}
	if (s.starts+1)%bulkShare == 0 {
		order = [classes]class{bulk, urgent}
	}
	var again time.Time
	for _, cl := range order {
		t, at := s.pickClass(cl, now)
		if t != nil {
			s.starts++
			s.waiting--
			s.running++
			return t, time.Time{}
		}
		if again.IsZero() || (!at.IsZero() && at.Before(again)) {
			again = at
		}
	}
	return nil, again
}

func (s *scheduler) pickClass(cl class, now time.Time) (*task, time.Time) {
	var again time.Time
	for i := range s.ring {
		at := (s.turn + i) % len(s.ring)
		h := s.ring[at]
		if len(h.queue[cl]) == 0 {
			continue
		}
		ok, later := h.ready(s.cfg, now)
		if !ok {
			if again.IsZero() || (!later.IsZero() && later.Before(again)) {
				again = later
			}
			continue
		}
		t := h.start(cl, s.cfg, now)
		s.turn = at + 1
		if h.queued() == 0 {
			s.leaveRing(at)
		}
		return t, time.Time{}
	}
	return nil, again
}

func (s *scheduler) leaveRing(at int) {
	s.ring[at].inRing = false
	s.ring = slices.Delete(s.ring, at, at+1)
	if at < s.turn {
		s.turn--
	}
}

// result is how an attempt ended, for the host.
type result struct {
	// trouble: the host is to be parked, for at least ask.
	trouble bool
	ask     time.Duration
	// answered: the host did its part, whatever became of the repository.
	answered bool
	// pause: a healthy host asks for a pause before the next request.
	pause time.Duration
	// requeue puts the job back, first in its queue.
	requeue bool
}

// done ends an attempt. It returns the jobs that the scheduler no longer
// holds: those that waited for the same repository, and all that wait for a
// host that is dead.
func (s *scheduler) done(t *task, r result) (same, dead []*task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	h := s.host(t.pds, now)
	h.end(r.answered, now)
	s.running--
	switch {
	case r.trouble:
		h.failed(s.cfg, r.ask, now)
	case r.answered:
		h.succeeded(s.cfg)
		h.park(now.Add(r.pause))
	}
	if r.requeue {
		h.queue[t.class] = append([]*task{t}, h.queue[t.class]...)
		s.waiting++
		if !h.inRing {
			h.inRing = true
			s.ring = append(s.ring, h)
		}
	} else {
		same = s.release(t)
	}
	if h.dead(s.cfg, now) {
		dead = s.drain(h)
	}
	s.signal()
	return same, dead
}

// release lets go of a repository and returns the jobs that waited for it.
func (s *scheduler) release(t *task) []*task {
	same := s.same[t.job.DID]
	delete(s.same, t.job.DID)
	delete(s.held, t.job.DID)
	s.waiting -= len(same)
	return same
}

// drain takes every job of a host out of its queues.
func (s *scheduler) drain(h *host) []*task {
	var out []*task
	for cl := range h.queue {
		for _, t := range h.queue[cl] {
			out = append(out, t)
			s.waiting--
			out = append(out, s.release(t)...)
		}
		h.queue[cl] = nil
	}
	for at, other := range s.ring {
		if other == h {
			s.leaveRing(at)
			break
		}
	}
	return out
}

// moved says that the repository of a job in flight is at another host now.
func (s *scheduler) moved(t *task, pds string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if h := s.hosts[t.pds]; h != nil {
		h.running = max(h.running-1, 0)
	}
	t.pds = pds
	s.host(pds, now).running++
	s.signal()
}

// counts are the jobs waiting, those in flight, and the hosts that are parked.
func (s *scheduler) counts() (waiting, running, parked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, h := range s.hosts {
		if now.Before(h.parked) {
			parked++
		}
	}
	return s.waiting, s.running, parked
}
