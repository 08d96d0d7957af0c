package enumerate

import (
	"sync"
	"time"
)

// passState is the progress of one pass. It is safe for concurrent use.
type passState struct {
	metrics *metrics

	mu      sync.Mutex
	byState map[string]int
	due     time.Time // earliest time at which a finished host is due again
}

func newPassState(m *metrics, targets int) *passState {
	p := &passState{metrics: m, byState: map[string]int{hostWaiting: targets}}
	for _, state := range []string{hostActive, hostDone, hostFailed} {
		m.hosts.WithLabelValues(state).Set(0)
	}
	m.hosts.WithLabelValues(hostWaiting).Set(float64(targets))
	m.passRepos.Set(0)
	return p
}

func (p *passState) move(from, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byState[from]--
	p.byState[to]++
	p.metrics.hosts.WithLabelValues(from).Set(float64(p.byState[from]))
	p.metrics.hosts.WithLabelValues(to).Set(float64(p.byState[to]))
}

func (p *passState) finish(from, to string, due time.Time) {
	p.move(from, to)
	if due.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() || due.Before(p.due) {
		p.due = due
	}
}

func (p *passState) failed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byState[hostFailed]
}

func (p *passState) nextDue(now time.Time, every time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() {
		return every
	}
	return p.due.Sub(now)
}
