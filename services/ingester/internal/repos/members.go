package repos

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"sluice/services/ingester/internal/feed"
)

// Roster is the list of relays as the operator wants it. Relays returns it, and
// what closes when it changes.
type Roster interface {
	Relays() (relays []string, changed <-chan struct{})
}

// fixed is a Roster that never changes.
type fixed []string

func (f fixed) Relays() ([]string, <-chan struct{}) { return f, nil }

// member is a relay and how it stands to the others.
type member struct {
	host feed.Host
	// settled: nothing is missing before what it sends, for it was followed
	// from the start, or beside one that was until that had come as far.
	settled bool
	// wanted: it is on the list.
	wanted bool
}

// members are the relays of one session. A relay that is new to the list joins
// the settled ones; one that is no longer on it leaves, at once if a settled
// one stays, else when one that joins has settled. So there is no gap, and
// none after a restart either, since Redis has the list of the settled ones.
type members struct {
	all     []member
	changed <-chan struct{}
}

const (
	memberSettled = "settled"
	memberJoining = "joining"
	memberLeaving = "leaving"
)

func (m *member) state() string {
	switch {
	case !m.wanted:
		return memberLeaving
	case m.settled:
		return memberSettled
	}
	return memberJoining
}

// membersOf makes the members out of the list and the settled ones before.
func membersOf(wanted, settled []feed.Host) []member {
	var all []member
	stays := false
	for _, h := range wanted {
		known := len(settled) == 0 || named(settled, h.Name)
		stays = stays || known
		all = append(all, member{host: h, settled: known, wanted: true})
	}
	if stays {
		return all
	}
	for _, h := range settled {
		all = append(all, member{host: h, settled: true})
	}
	return all
}

func named(hosts []feed.Host, name string) bool {
	return slices.ContainsFunc(hosts, func(h feed.Host) bool { return h.Name == name })
}

func (p *Pipeline) settledKey() string { return p.cfg.Stream + ":relays" }

// members reads the list and the settled ones before, and lets go of those
// that nobody needs any more.
func (p *Pipeline) members(ctx context.Context) (*members, error) {
	raw, changed := p.deps.Roster.Relays()
	wanted, err := feed.ParseHosts(raw)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	before, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	m := &members{all: membersOf(wanted, before), changed: changed}
	if err := p.release(ctx, m, before); err != nil {
		return nil, err
	}
	return m, p.save(ctx, m)
}

// settled are the relays that Redis names as settled.
func (p *Pipeline) settled(ctx context.Context) ([]feed.Host, error) {
	var value string
	err := p.retry(ctx, "read settled relays", func(ctx context.Context) (err error) {
		value, _, err = p.deps.Cursors.Cursor(ctx, p.settledKey())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read settled relays: %w", err)
	}
	if value == "" {
		return nil, nil
	}
	hosts, err := feed.ParseHosts(strings.Split(value, ","))
	if err != nil {
		p.log.WarnContext(ctx, "settled relays not readable, those of the list count as settled", slog.String("key", p.settledKey()), slog.Any("err", err))
		return nil, nil
	}
	return hosts, nil
}

// save makes the settled ones durable.
func (p *Pipeline) save(ctx context.Context, m *members) error {
	var raw []string
	counts := map[string]int{}
	for i := range m.all {
		counts[m.all[i].state()]++
		if m.all[i].settled {
			raw = append(raw, m.all[i].host.Raw)
		}
	}
	for _, state := range memberStates() {
		p.metrics.members.WithLabelValues(state).Set(float64(counts[state]))
	}
	err := p.retry(ctx, "save settled relays", func(ctx context.Context) error {
		return p.deps.Cursors.SetCursor(ctx, p.settledKey(), strings.Join(raw, ","))
	})
	if err != nil {
		return fmt.Errorf("save settled relays: %w", err)
	}
	return nil
}

func memberStates() []string { return []string{memberSettled, memberJoining, memberLeaving} }

// release lets go of relays that were settled before and are no members: what
// is still to be fetched on their behalf is fetched through one that stays.
func (p *Pipeline) release(ctx context.Context, m *members, before []feed.Host) error {
	var stays string
	for i := range m.all {
		if m.all[i].settled && m.all[i].wanted {
			stays = m.all[i].host.Name
			break
		}
	}
	for _, h := range before {
		if slices.ContainsFunc(m.all, func(x member) bool { return x.host.Name == h.Name }) {
			continue
		}
		p.log.InfoContext(ctx, "relay leaves", slog.String("relay", h.Name))
		if p.deps.Gaps == nil {
			continue
		}
		if err := p.deps.Gaps.Move(ctx, h.Name, stays); err != nil {
			return fmt.Errorf("move gap of %s: %w", h.Name, err)
		}
	}
	return nil
}

// watch returns when the session has to be made anew: the list has changed, or
// a relay that leaves is not needed any more.
func (s *session) watch(ctx context.Context, p *Pipeline) error {
	tick := time.NewTicker(max(min(p.cfg.Overlap/10, time.Second), 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.members.changed:
			return nil
		case now := <-tick.C:
			over, err := s.settle(ctx, p, now)
			if err != nil || over {
				return err
			}
		}
	}
}

// begin lets a relay that joins send what comes after its first frame: when a
// settled one has come a little further, so that what that one is behind does
// not look like a break in the history of repositories; or when there is none
// to wait for.
func (s *session) begin(r *relay, now time.Time) {
	const further = time.Second // the events of two relays are not in the same order
	if r.firstAt.Load() == 0 {
		return
	}
	first := time.Unix(0, r.firstAt.Load())
	reached, lost := s.reached(first.Add(min(further, s.cfg.Overlap/2)), now, s.cfg.Overlap)
	if reached || lost || now.Sub(first) > s.cfg.Lost {
		close(r.begun)
	}
}

// settle settles the relays that have been followed for long enough beside one
// that is, and have a cursor of their own. It says whether some may leave now.
func (s *session) settle(ctx context.Context, p *Pipeline, now time.Time) (over bool, err error) {
	moved := false
	for i, r := range s.relays {
		if s.members.all[i].settled {
			continue
		}
		select {
		case <-r.begun:
		default:
			s.begin(r, now)
		}
		first := r.firstAt.Load()
		if first == 0 || r.saved.Load() == 0 {
			continue
		}
		reached, lost := s.reached(time.Unix(0, first).Add(p.cfg.Overlap), now, s.cfg.Lost)
		if !reached && !lost {
			continue
		}
		if lost {
			if err := s.bridge(ctx, r); err != nil {
				return false, err
			}
		}
		if !r.joined(first) {
			continue
		}
		p.log.InfoContext(ctx, "relay has settled", slog.String("relay", r.host.Name), slog.Bool("with_gap", lost))
		s.members.all[i].settled, moved = true, true
	}
	if !moved {
		return false, nil
	}
	if err := p.save(ctx, s.members); err != nil {
		return false, err
	}
	return slices.ContainsFunc(s.members.all, func(m member) bool { return !m.wanted }), nil
}

// reached says whether what a settled relay sent until then is durable; lost,
// that none of them has been connected for as long as patience lasts.
func (s *session) reached(until, now time.Time, patience time.Duration) (reached, lost bool) {
	lost = true
	for i, r := range s.relays {
		if !s.members.all[i].settled {
			continue
		}
		if r.reached(until, now) {
			return true, false
		}
		if down := r.downSince.Load(); down == 0 || now.Sub(time.Unix(0, down)) < patience {
			lost = false
		}
	}
	return false, lost
}

// bridge notes that what came between the last settled relay's end and the
// beginning of this one has to be fetched.
func (s *session) bridge(ctx context.Context, r *relay) error {
	var since time.Time
	for i, other := range s.relays {
		if at := other.lastKnown(ctx); s.members.all[i].settled && at.After(since) {
			since = at
		}
	}
	r.p.metrics.gaps.WithLabelValues(gapRelay).Inc()
	if s.deps.Gaps == nil {
		return nil
	}
	if err := s.deps.Gaps.Note(ctx, r.host.Name, since); err != nil {
		return fmt.Errorf("note gap before %s: %w", r.host.Name, err)
	}
	return nil
}

// reached says whether what the relay sent until that time is durable: an event
// of a later time is, or the connection has been up and silent for a while.
func (r *relay) reached(until, now time.Time) bool {
	if now.Before(until) {
		return false
	}
	if time.Unix(0, r.lastTime.Load()).After(until) {
		return true
	}
	silent := now.Add(-r.p.cfg.Overlap / 2).UnixNano()
	up := r.upSince.Load()
	return up > 0 && up < silent && r.readAt.Load() < silent && r.unwritten.Load() == 0
}

// state is told of each connection made and lost.
func (r *relay) state(up bool) {
	now := time.Now().UnixNano()
	if up {
		r.upSince.Store(now)
		r.downSince.Store(0)
		return
	}
	r.upSince.Store(0)
	r.downSince.Store(now)
}

// joinAnew says whether the relay joins others, and then begins that again.
func (r *relay) joinAnew() bool {
	r.join.Lock()
	defer r.join.Unlock()
	if !r.joining.Load() {
		return false
	}
	r.firstAt.Store(0)
	return true
}

// joined ends the joining, unless it has begun anew since first.
func (r *relay) joined(first int64) bool {
	r.join.Lock()
	defer r.join.Unlock()
	if r.firstAt.Load() != first {
		return false
	}
	r.joining.Store(false)
	return true
}
