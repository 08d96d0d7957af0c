package repos

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/services/ingester/internal/feed"
)

const third = "third.example"

// list is a Roster that the test changes.
type list struct {
	mu      sync.Mutex
	relays  []string
	changed chan struct{}
}

func newList(relays ...string) *list { return &list{relays: relays, changed: make(chan struct{})} }

func (l *list) Relays() ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.relays, l.changed
}

func (l *list) set(relays ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.relays = relays
	close(l.changed)
	l.changed = make(chan struct{})
}

func (r *rig) settled() string {
	v, _, err := r.client.Cursor(context.Background(), liveStream+":relays")
	if err != nil {
		return ""
	}
	return v
}

func (r *rig) untilSettled(relays string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.settled() == relays }, 40*time.Second, 2*time.Millisecond, "settled relays do not become %s", relays)
}

func hosts(t *testing.T, names ...string) []feed.Host {
	t.Helper()
	out, err := feed.ParseHosts(names)
	require.NoError(t, err)
	return out
}

func TestWhoIsFollowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ wanted, settled, want string }{
		{"a b", "", "a settled, b settled"},
		{"a b", "a b", "a settled, b settled"},
		{"a b", "a", "a settled, b joining"},
		{"a", "a b", "a settled"},
		{"b", "a", "b joining, a leaving"},
		{"c d", "a b", "c joining, d joining, a leaving, b leaving"},
		{"c b", "a b", "c joining, b settled"},
	} {
		var got []string
		for _, m := range membersOf(hosts(t, strings.Fields(c.wanted)...), hosts(t, strings.Fields(c.settled)...)) {
			got = append(got, m.host.Name+" "+m.state())
		}
		require.Equal(t, c.want, strings.Join(got, ", "), "%s after %s", c.wanted, c.settled)
	}
}

// A relay that replaces another while the process runs begins live; the other
// one is followed until both have been for long enough, over a restart too.
func TestRelayIsReplacedWithoutAGap(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
	r := newRig(t, ks)
	l, g := newList(host), &gaps{}
	r.deps.Roster, r.deps.Gaps = l, g
	r.cfg.Start, r.cfg.Overlap = "0", time.Hour
	first, both := a.commit(), a.commit()
	r.sources[host] = newSource(a.frame(1, first))
	r.sources[other] = newSource()
	r.start()
	r.until(host, "1")
	require.Equal(t, host, r.settled())

	l.set(other)
	require.Eventually(t, func() bool { return len(r.sources[other].cursors()) == 1 }, 40*time.Second, time.Millisecond)
	require.Equal(t, []int64{-1}, r.sources[other].cursors(), "it begins live: the number of another relay means nothing to it")
	require.InDelta(t, 1, r.metric("sluice_ingester_relays", memberJoining), 0)
	require.InDelta(t, 1, r.metric("sluice_ingester_relays", memberLeaving), 0)
	third, fourth := a.commit(), a.commit()
	r.sources[host].add(a.frame(2, both), a.frame(3, third))
	r.sources[other].add(a.frame(903, third), a.frame(904, fourth))
	r.until(host, "3")
	r.catchUp(b, 4, other, "904")
	require.Equal(t, host, r.settled())
}

func TestReplacementGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
	r := newRig(t, ks)
	l, g := newList(host), &gaps{}
	r.deps.Roster, r.deps.Gaps = l, g
	r.cfg.Overlap = time.Hour
	r.sources[host] = newSource(a.next(1))
	r.sources[other] = newSource()
	stop := r.start()
	r.until(host, "1")
	l.set(other)
	both := a.commit()
	r.sources[host].add(a.frame(2, both))
	r.sources[other].add(a.frame(902, both))
	seq := r.catchUp(b, 3, other, "902")
	r.until(host, strconv.FormatInt(seq-1, 10))
	stop()

	r.cfg.Overlap = 200 * time.Millisecond
	missed := a.commit()
	r.sources[host].add(a.frame(seq, missed))
	r.sources[other].add(a.frame(903, a.commit()))
	r.start()
	r.until(host, strconv.FormatInt(seq, 10))
	r.until(other, "903")
	r.sources[other].add(a.next(904))
	r.untilSettled(other)
	r.until(other, "904")
	require.Len(t, r.withoutTicks(), 5)
	require.Empty(t, g.since, "nothing has to be fetched")
	require.Equal(t, []string{host + " to " + other}, g.moves)

	// The one that has left is not read any more.
	require.Eventually(t, func() bool { return r.metric("sluice_ingester_relays") == 1 }, 40*time.Second, time.Millisecond)
	r.sources[host].add(a.next(seq + 1))
	require.Never(t, r.movedFrom(host, strconv.FormatInt(seq, 10)), 100*time.Millisecond, 10*time.Millisecond)
}

func uniq(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// Where one stays that was there before, others come and go at once.
func TestRelayLeavesBesideOneThatStays(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	l, g := newList(host, other), &gaps{}
	r.deps.Roster, r.deps.Gaps = l, g
	r.cfg.Overlap = 100 * time.Millisecond
	one := a.commit()
	r.sources[host], r.sources[other], r.sources[third] = newSource(a.frame(1, one)), newSource(a.frame(901, one)), newSource()
	r.start()
	r.until(host, "1")
	r.until(other, "901")
	l.set(other, third)
	r.untilSettled(other)
	require.Equal(t, []string{host + " to " + other}, g.moves)
	// What a relay has said of the time decides, not when it was read.
	late := a.frame(902, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) {
		m.Time = time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	})
	r.sources[other].add(late)
	r.until(other, "902")
	r.sources[third].add(a.next(1))
	r.until(third, "1")
	r.untilSettled(other + "," + third)
	require.Len(t, r.uris(), 3)
	require.Empty(t, g.since)
	require.Empty(t, r.schedule.dids())
}

// A relay that cannot be reached any more is replaced as well; what came
// between is fetched.
func TestDeadRelayIsReplaced(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	l, g := newList(host), &gaps{}
	r.deps.Roster, r.deps.Gaps = l, g
	r.cfg.Overlap, r.cfg.Lost = 50*time.Millisecond, 200*time.Millisecond
	r.sources[host] = newSource(a.next(1))
	r.sources[other] = newSource()
	subscribe := r.deps.Subscribe
	var mu sync.Mutex
	dead := false
	r.deps.Subscribe = func(ctx context.Context, sub feed.Subscription) error {
		mu.Lock()
		gone := dead && sub.Host.Name == host
		mu.Unlock()
		if gone {
			<-ctx.Done()
			return nil
		}
		return subscribe(ctx, sub)
	}
	r.start()
	r.until(host, "1")
	mu.Lock()
	dead = true
	mu.Unlock()
	a.commit() // nobody will ever send it
	l.set(other)
	require.Eventually(t, func() bool { return len(r.sources[other].cursors()) > 0 }, 40*time.Second, time.Millisecond)
	r.sources[other].add(a.next(903))
	r.untilSettled(other)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Len(t, g.since, 1)
	at, err := time.Parse(time.RFC3339, frameTime)
	require.NoError(t, err)
	require.WithinDuration(t, at, g.since[0], time.Second)
	require.InDelta(t, 1, r.metric("sluice_ingester_gaps_total", gapRelay), 0)
}

// Silence counts as having come as far only on a connection that is up.
func TestReached(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &session{cfg: Config{Overlap: time.Minute}}
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	for name, c := range map[string]struct {
		up, read, last int64
		unwritten      int64
		until          time.Time
		want           bool
	}{
		"too early":           {up: ago(time.Hour), read: ago(time.Hour), until: now.Add(time.Second)},
		"an event after it":   {last: ago(time.Second), until: now.Add(-2 * time.Second), want: true},
		"behind":              {up: ago(time.Hour), read: ago(0), last: ago(time.Hour), until: now.Add(-time.Second)},
		"silent":              {up: ago(time.Hour), read: ago(time.Hour), until: now.Add(-time.Second), want: true},
		"silent, not written": {up: ago(time.Hour), read: ago(time.Hour), unwritten: 1, until: now.Add(-time.Second)},
		"just connected":      {up: ago(time.Second), read: ago(time.Hour), until: now.Add(-time.Second)},
		"not connected":       {read: ago(time.Hour), until: now.Add(-time.Second)},
	} {
		r := &relay{p: s}
		r.upSince.Store(c.up)
		r.readAt.Store(c.read)
		r.lastTime.Store(c.last)
		r.unwritten.Store(c.unwritten)
		require.Equal(t, c.want, r.reached(c.until, now), name)
	}
}

func TestListThatCannotBeUsedStopsTheProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, keys{})
	r.cfg.Relays = []string{host}
	r.sources[host] = newSource()
	l := newList(host)
	r.deps.Roster = l
	p, err := New(r.cfg, r.deps)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	r.untilSettled(host)
	l.set("ftp://x")
	require.ErrorContains(t, <-ended, "relay")
	require.NoError(t, r.client.SetCursor(t.Context(), liveStream+":relays", "ftp://y"))
	before, err := p.settled(t.Context())
	require.NoError(t, err)
	require.Empty(t, before, "an unreadable list of settled relays counts as none")
}
