package backfill

import "time"

// HostConfig is how one host is treated.
type HostConfig struct {
	// Concurrency is the most repositories in flight from one host. Default 16.
	Concurrency int
	// Rate is the most requests per second to one host, with a burst of
	// Concurrency; what a host says in its RateLimit headers comes on top.
	// Default 50.
	Rate float64
	// ParkInitial and ParkMax bound the time that a host in trouble is left
	// alone: doubled with each failure. Defaults 1s and 5m.
	ParkInitial, ParkMax time.Duration
	// DeferMax bounds the time for which a job is sent away to make room. The
	// more of a host's jobs are away, the more often each comes back in vain.
	// Default 10m.
	DeferMax time.Duration
	// DeadAfter is how long a host must have failed without one success before
	// its waiting jobs are charged an attempt without being tried. Default 30m.
	DeadAfter time.Duration
}

func (c HostConfig) withDefaults() HostConfig {
	if c.Concurrency <= 0 {
		c.Concurrency = 16
	}
	if c.Rate <= 0 {
		c.Rate = 50
	}
	if c.ParkInitial <= 0 {
		c.ParkInitial = time.Second
	}
	if c.ParkMax <= 0 {
		c.ParkMax = 5 * time.Minute
	}
	if c.DeferMax <= 0 {
		c.DeferMax = 10 * time.Minute
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = 30 * time.Minute
	}
	return c
}

// host is one PDS as the scheduler sees it. Guarded by the scheduler's mutex.
type host struct {
	name  string
	queue [classes][]*task
	// running counts repositories in flight; limit is how many may be: halved
	// by a failure, raised by successes up to the configured concurrency.
	running int
	limit   float64
	// parked is until when nothing is started.
	parked time.Time
	// fails counts failures since the last success, since is the first of
	// them. While it is above 0 only one probe is in flight.
	fails int
	since time.Time
	// paced is the theoretical time of the next request at the configured rate.
	paced time.Time
	// pace is the mean time between two answers of late, 0 before the second;
	// ended is the time of the last.
	pace  time.Duration
	ended time.Time
	// deferred is the due time given to the last job that was sent away to
	// make room.
	deferred time.Time
	inRing   bool
}

func (h *host) queued() int {
	n := 0
	for _, q := range h.queue {
		n += len(q)
	}
	return n
}

// idle says that nothing is lost if the host is forgotten.
func (h *host) idle(now time.Time) bool {
	return h.running == 0 && h.queued() == 0 && h.fails == 0 && now.After(h.parked) && now.After(h.deferred)
}

// ready says whether a repository may be started now, and else when to look
// again; the zero time means when one of those in flight ends.
func (h *host) ready(c HostConfig, now time.Time) (bool, time.Time) {
	if now.Before(h.parked) {
		return false, h.parked
	}
	limit := int(h.limit)
	if h.fails > 0 {
		limit = 1
	}
	if h.running >= limit {
		return false, time.Time{}
	}
	burst := time.Duration(float64(c.Concurrency) / c.Rate * float64(time.Second))
	if at := h.paced.Add(-burst); now.Before(at) {
		return false, at
	}
	return true, time.Time{}
}

// start takes the oldest job of the class.
func (h *host) start(cl class, c HostConfig, now time.Time) *task {
	t := h.queue[cl][0]
	h.queue[cl][0] = nil
	h.queue[cl] = h.queue[cl][1:]
	if len(h.queue[cl]) == 0 {
		h.queue[cl] = nil
	}
	h.running++
	if h.paced.Before(now) {
		h.paced = now
	}
	h.paced = h.paced.Add(time.Duration(float64(time.Second) / c.Rate))
	return t
}

// end notes that a repository in flight has ended, and whether the host did
// its part.
func (h *host) end(answered bool, now time.Time) {
	h.running = max(h.running-1, 0)
	if !answered {
		return
	}
	if !h.ended.IsZero() {
		gap := min(now.Sub(h.ended), maxPace)
		if h.pace == 0 {
			h.pace = gap
		}
		h.pace += (gap - h.pace) / 16
	}
	h.ended = now
}

// maxPace bounds the time that one job is taken to need.
const maxPace = time.Second

// step is the time in which the host takes one job.
func (h *host) step(c HostConfig) time.Duration {
	return min(max(h.pace, time.Duration(float64(time.Second)/c.Rate)), maxPace)
}

// succeeded ends a time of trouble and lets one more run.
func (h *host) succeeded(c HostConfig) {
	h.fails, h.since = 0, time.Time{}
	h.limit = min(h.limit+1/max(h.limit, 1), float64(c.Concurrency))
}

// failed parks the host. Failures of what was started before the host was
// parked belong to the same trouble and do not lengthen it, unless the host
// itself says how long.
func (h *host) failed(c HostConfig, ask time.Duration, now time.Time) {
	if !now.Before(h.parked) || h.fails == 0 {
		h.fails++
		if h.fails == 1 {
			h.since = now
		}
		h.limit = max(h.limit/2, 1)
		h.park(now.Add(c.backoff(h.fails)))
	}
	h.park(now.Add(ask))
}

func (h *host) park(until time.Time) {
	if until.After(h.parked) {
		h.parked = until
	}
}

// dead says that the host has failed for so long that its jobs need not wait.
func (h *host) dead(c HostConfig, now time.Time) bool {
	return h.fails > 0 && now.Sub(h.since) > c.DeadAfter
}

func (c HostConfig) backoff(fails int) time.Duration {
	d := c.ParkInitial
	for i := 1; i < fails && d < c.ParkMax; i++ {
		d *= 2
	}
	return min(d, c.ParkMax)
}
