package backfill

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
)

// Progress is how far the backfill of all replicas together has come.
type Progress struct {
	// Repos counts the repositories in each state.
	Repos map[string]int64 `json:"repos"`
	// Left are the jobs not finished: unread, read and delayed. -1 is unknown.
	Left int64 `json:"left"`
	// Totals since the keys were made: repos, records, filtered, bytes,
	// retried, gone, failed, skipped.
	Totals map[string]int64 `json:"totals"`
	// ReposPerSecond, RecordsPerSecond and BytesPerSecond are over the last
	// minutes.
	ReposPerSecond   float64 `json:"repos_per_second"`
	RecordsPerSecond float64 `json:"records_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"`
	// RemainingSeconds is Left at the present rate of ended jobs; -1 is unknown.
	RemainingSeconds float64 `json:"remaining_seconds"`
	// Waiting, Running and ParkedHosts are those of this process.
	Waiting     int  `json:"waiting"`
	Running     int  `json:"running"`
	ParkedHosts int  `json:"parked_hosts"`
	Held        bool `json:"held"`
}

// progressEvery is how often totals are written and the estimate is made.
const progressEvery = 2 * time.Second

// rateWindow is the time over which rates are measured.
const rateWindow = 3 * time.Minute

type sample struct {
	at     time.Time
	totals map[string]int64
}

// progress writes the totals of this process and reads those of all.
type progress struct {
	redis   *redstream.Client
	stream  string
	group   string
	output  string
	monitor *redstream.Monitor
	delayed *redstream.Delayed
	states  *states
	sched   *scheduler
	tally   *tally
	m       *metrics
	log     *slog.Logger

	samples []sample // owned by run

	mu   sync.Mutex
	last Progress
}

// now returns the latest progress.
func (p *progress) now() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// run flushes and measures until ctx ends, and once more then.
func (p *progress) run(ctx context.Context) error {
	p.step(ctx)
	for fault.Sleep(ctx, progressEvery) == nil {
		p.step(ctx)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	p.flush(end)
	return nil
}

func (p *progress) step(ctx context.Context) {
	p.flush(ctx)
	waiting, running, parked := p.sched.counts()
	if n, err := p.redis.Len(ctx, p.output); err == nil {
		p.m.outputLength.Set(float64(n))
	}
	next := Progress{Waiting: waiting, Running: running, ParkedHosts: parked, Left: -1, RemainingSeconds: -1}
	if err := p.measure(ctx, &next); err != nil {
		p.log.DebugContext(ctx, "progress not measured", slog.Any("err", err))
		return
	}
	p.show(next)
}

func (p *progress) flush(ctx context.Context) {
	totals, hosts := p.tally.take()
	if len(totals) > 0 {
		if err := p.redis.AddTotals(ctx, p.stream, progressKey, totals); err != nil {
			p.tally.giveBack(totals, nil)
		}
	}
	if len(hosts) > 0 {
		if err := p.redis.AddTotals(ctx, p.stream, hostsKey, hosts); err != nil {
			p.tally.giveBack(nil, hosts)
		}
	}
}

func (p *progress) measure(ctx context.Context, out *Progress) error {
	counts, err := p.states.ledger.Counts(ctx)
	if err != nil {
		return err
	}
	out.Repos = map[string]int64{}
	for s, name := range stateNames {
		out.Repos[name] = counts[string(rune(s))]
	}
	if out.Totals, err = p.redis.Totals(ctx, p.stream, progressKey); err != nil {
		return err
	}
	out.Left = p.left(ctx)
	p.rates(out)
	return nil
}

// left adds up what is not finished, or is -1. Both groups are given every
// entry; what the urgent one has not read is counted as the bulk one's.
func (p *progress) left(ctx context.Context) int64 {
	total, err := p.delayed.Len(ctx)
	if err != nil {
		return -1
	}
	for _, g := range p.monitor.Stats(p.stream).Groups {
		switch g.Name {
		case p.group:
			if g.Lag < 0 {
				return -1
			}
			total += g.Lag + g.Pending
		case p.group + urgentSuffix:
			total += g.Pending
		}
	}
	return total
}

func (p *progress) rates(out *Progress) {
	now := time.Now()
	p.samples = append(p.samples, sample{now, out.Totals})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	first := p.samples[0]
	took := now.Sub(first.at).Seconds()
	if took <= 0 {
		return
	}
	rate := func(names ...string) float64 {
		var n int64
		for _, name := range names {
			n += out.Totals[name] - first.totals[name]
		}
		return max(float64(n)/took, 0)
	}
	out.ReposPerSecond = rate("repos")
	out.RecordsPerSecond = rate("records")
	out.BytesPerSecond = rate("bytes")
	if ended := rate("repos", "gone", "failed", "skipped"); ended > 0 && out.Left >= 0 {
		out.RemainingSeconds = float64(out.Left) / ended
	}
}

func (p *progress) show(next Progress) {
	for name, n := range next.Repos {
		p.m.repos.WithLabelValues(name).Set(float64(n))
	}
	p.m.left.Set(float64(next.Left))
	p.m.remaining.Set(next.RemainingSeconds)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = next
}
