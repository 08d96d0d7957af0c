package repos

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/services/ingester/internal/feed"
)

// at gives a commit a time of its own.
func at(when time.Time) func(*comatproto.SyncSubscribeRepos_Commit) {
	return func(m *comatproto.SyncSubscribeRepos_Commit) { m.Time = when.UTC().Format(time.RFC3339Nano) }
}

// tick begins the paths of the records that catchUp makes.
const tick = "app.bsky.feed.post/tick"

// withoutTicks are the records in the stream, each once, but for those of
// catchUp.
func (r *rig) withoutTicks() []string {
	return slices.DeleteFunc(uniq(r.uris()), func(uri string) bool { return strings.HasPrefix(uri, tick) })
}

// catchUp has host send events of the present, from seq on, until the cursor of
// a relay that joins has come to its place. It returns the next seq.
func (r *rig) catchUp(b *author, seq int64, joins, place string) int64 {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		r.sources[host].add(b.frame(seq, b.commit(post(tick+strconv.FormatInt(seq, 10))), at(time.Now())))
		seq++
		return r.cursor(joins) == place
	}, 40*time.Second, 20*time.Millisecond, "cursor of %s does not reach %s", joins, place)
	return seq
}

// joiningRig follows host and is told to replace it by other, which has sent
// nothing yet.
func joiningRig(t *testing.T, a *author, ks atproto.KeySource, overlap time.Duration) (*rig, *gaps) {
	t.Helper()
	r := newRig(t, ks)
	l, g := newList(host), &gaps{}
	r.deps.Roster, r.deps.Gaps = l, g
	r.cfg.Overlap = overlap
	r.sources[host], r.sources[other] = newSource(a.next(1)), newSource()
	r.start()
	r.until(host, "1")
	l.set(other)
	require.Eventually(t, func() bool { return len(r.sources[other].cursors()) == 1 }, 40*time.Second, time.Millisecond)
	return r, g
}

// A relay that joins may be ahead of the others. What they will bring yet is
// waited for, and no repository is fetched for it.
func TestRelayThatJoinsAheadOfTheOthers(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
	r, g := joiningRig(t, a, ks, time.Hour)
	missed, both, later := a.commit(), a.commit(), a.commit()
	r.sources[other].add(a.frame(903, both), a.frame(904, later))
	require.Never(t, func() bool { return r.cursor(other) != "" }, 100*time.Millisecond, 10*time.Millisecond)
	r.sources[host].add(a.frame(2, missed), a.frame(3, both))
	r.until(host, "3")
	require.Empty(t, r.cursor(other), "by the time of its events host is not there yet")
	r.catchUp(b, 4, other, "904")
	require.Len(t, r.withoutTicks(), 4)
	require.Empty(t, r.schedule.dids())
	require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total"), 0)
	require.Empty(t, g.since)
}

// A relay that is behind another sends only what is known already. That it has
// come as far counts nevertheless.
func TestRelayThatSendsCopiesSettlesTheOther(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r, _ := joiningRig(t, a, ks, 2*time.Second)
	seq := int64(1)
	require.Eventually(t, func() bool {
		seq++
		c := a.commit()
		r.sources[other].add(a.frame(900+seq, c, at(time.Now())))
		if r.cursor(other) != "" { // the other one is ahead from here on
			require.Eventually(t, func() bool {
				return r.cursor(other) == strconv.FormatInt(900+seq, 10) && r.metric("ingester_events_in_memory") == 0 || r.settled() == other
			}, 40*time.Second, time.Millisecond)
		}
		r.sources[host].add(a.frame(seq, c, at(time.Now())))
		return r.settled() == other
	}, 40*time.Second, 50*time.Millisecond)
	require.Empty(t, r.schedule.dids())
}

// Nobody is waited for who cannot be connected to.
func TestRelayThatJoinsWhenTheOthersAreGone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	for name, c := range map[string]struct {
		first, up, down, last int64
		begins                bool
	}{
		"has sent nothing":        {up: ago(time.Hour)},
		"others behind":           {first: ago(time.Minute), up: ago(time.Hour), last: ago(2 * time.Minute)},
		"others as far":           {first: ago(time.Minute), up: ago(time.Hour), last: ago(0), begins: true},
		"others as far, narrowly": {first: ago(time.Minute), up: ago(time.Hour), last: ago(59*time.Second + time.Second/2)},
		"others away":             {first: ago(time.Minute), down: ago(time.Second), last: ago(time.Hour)},
		"others away for long":    {first: ago(time.Minute), down: ago(61 * time.Second), last: ago(time.Hour), begins: true},
		"others behind for long":  {first: ago(11 * time.Minute), up: ago(time.Hour), last: ago(time.Hour), begins: true},
	} {
		s := &session{cfg: Config{Overlap: time.Minute, Lost: 10 * time.Minute}, members: &members{all: []member{{settled: true}, {}}}}
		for i := range s.members.all {
			s.relays = append(s.relays, newRelay(s, i, false))
		}
		s.relays[0].upSince.Store(c.up)
		s.relays[0].downSince.Store(c.down)
		s.relays[0].readAt.Store(now.UnixNano())
		s.relays[0].lastTime.Store(c.last)
		s.relays[1].firstAt.Store(c.first)
		s.begin(s.relays[1], now)
		select {
		case <-s.relays[1].begun:
			require.True(t, c.begins, name)
		default:
			require.False(t, c.begins, name)
		}
	}
}

// A relay without a place of its own in Redis would begin anew after a restart,
// so it does not take the place of another.
func TestRelayDoesNotSettleBeforeItHasACursor(t *testing.T) {
	t.Parallel()
	ks := &unreachable{keys: keys{}}
	a, b := newAuthor(t, ks.keys, "a"), newAuthor(t, ks.keys, "b")
	r, _ := joiningRig(t, a, ks, 20*time.Millisecond)
	away := func(is bool) {
		ks.mu.Lock()
		ks.away = is
		ks.mu.Unlock()
	}
	away(true)
	r.sources[other].add(b.next(901)) // no key for it
	require.Never(t, func() bool { return r.settled() != host }, 300*time.Millisecond, 10*time.Millisecond)
	away(false)
	r.untilSettled(other)
	require.Equal(t, "901", r.cursor(other))
}

// What a relay that joins has lost is covered by the others only up to where
// they are: it joins anew.
func TestRelayThatHasAGapJoinsAnew(t *testing.T) {
	t.Parallel()
	s := &session{cfg: Config{Overlap: time.Minute}, members: &members{all: []member{{settled: true}, {host: feed.Host{Name: other}}}}}
	r := newRelay(s, 1, false)
	r.firstAt.Store(1)
	require.NoError(t, r.gap(t.Context(), gapOutdated))
	require.Zero(t, r.firstAt.Load())
}
