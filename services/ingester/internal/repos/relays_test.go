package repos

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit/repo"
	"sluice/services/ingester/internal/feed"
)

const other = "other.example"

// Two relays with sequences of their own bring the same commits: each is
// written once, and both cursors move.
func TestSameCommitFromTwoRelaysIsWrittenOnce(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
	r := newRig(t, ks)
	var one, two [][]byte
	for i := range 150 {
		x, y := a.commit(), b.commit()
		one = append(one, a.frame(int64(10+2*i), x), b.frame(int64(11+2*i), y))
		two = append(two, b.frame(int64(5000+2*i), y), a.frame(int64(5001+2*i), x))
	}
	one = append(one, a.account(400, true, ""), a.sync(401), a.identityFrame(402, "a.test"))
	two = append(two, a.sync(6000), a.identityFrame(6001, "a.test"), a.account(6002, true, ""))
	r.relay(host, newSource(one...))
	r.relay(other, newSource(two...))
	stop := r.start()
	r.until(host, "402")
	r.until(other, "6002")
	stop()
	require.Len(t, r.uris(), 300)
	require.Len(t, r.events(), 303)
	require.Empty(t, r.schedule.dids())

	// Over a restart the second relay is known to be behind.
	r.sources[host].add(a.next(403))
	stop = r.start()
	r.until(host, "403")
	stop()
	r.sources[other].add(a.frame(6003, lastCommit(a)))
	r.start()
	r.until(other, "6003")
	require.Len(t, r.events(), 304)
	require.Empty(t, r.schedule.dids())
}

// lastCommit makes the last commit of the author once more.
func lastCommit(a *author) *repo.Commit {
	again := repo.New(a.did, a.key)
	var c *repo.Commit
	var err error
	for i := 1; i <= a.n; i++ {
		c, err = again.Apply(rev(i), []repo.Write{post("app.bsky.feed.post/" + itoa(i))})
		require.NoError(a.t, err)
	}
	return c
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(dst []byte, n int) []byte {
	if n >= 10 {
		dst = appendInt(dst, n/10)
	}
	return append(dst, byte('0'+n%10))
}

// One relay drops commits that the other has: nobody is fetched, nothing is missing.
func TestRelaysFillEachOthersHoles(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	var one, two [][]byte
	for i := range 60 {
		c := a.commit()
		if i%20 != 7 {
			one = append(one, a.frame(int64(i+1), c))
		}
		two = append(two, a.frame(int64(1000+i), c))
	}
	r.relay(host, newSource(one...))
	r.relay(other, newSource(two...))
	r.start()
	r.until(host, "60")
	r.until(other, "1059")
	written := map[string]bool{}
	for _, uri := range r.uris() {
		written[uri] = true
	}
	require.Len(t, written, 60)
}

// gaps records what was noted.
type gaps struct {
	mu     sync.Mutex
	since  []time.Time
	doubts []time.Time
	moves  []string
}

func (g *gaps) Doubt(_ context.Context, _ string, since time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doubts = append(g.doubts, since)
	return nil
}

func (g *gaps) Move(_ context.Context, from, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.moves = append(g.moves, from+" to "+to)
	return nil
}

func (g *gaps) Note(_ context.Context, _ string, since time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = append(g.since, since)
	return nil
}

func TestOutdatedCursorIsAGap(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gaps{}
	r.deps.Gaps = g
	first := a.next(1)
	r.relay(host, newSource(first, infoFrame(t, "SomethingElse"), infoFrame(t, "OutdatedCursor"), a.next(9)))
	r.start()
	r.until(host, "9")
	require.Len(t, g.since, 1)
	require.InDelta(t, 1, r.metric("sluice_ingester_gaps_total", "outdated_cursor"), 0)
	require.InDelta(t, 7, r.metric("sluice_ingester_seq_missing_total"), 0)
	require.Len(t, r.uris(), 2)
}

// futureSource answers a cursor above its last frame as relays do.
func TestFutureCursorBeginsAnew(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gaps{}
	r.deps.Gaps = g
	known := a.commit()
	require.NoError(t, r.client.SetCursor(t.Context(), liveStream+":cursor:"+host, "90000"))
	src := newSource(a.frame(5, known), a.next(6))
	r.relay(host, src)
	inner := r.deps.Subscribe
	r.deps.Subscribe = func(ctx context.Context, sub feed.Subscription) error {
		if cursor, _ := sub.Cursor(); cursor > 6 {
			require.Error(t, sub.Frame(ctx, repo.ErrorFrame("FutureCursor", "Cursor in the future.")))
		}
		return inner(ctx, sub)
	}
	r.start()
	r.until(host, "6")
	require.Len(t, r.uris(), 2)
	require.Len(t, g.since, 1, "what lies between is fetched")
	require.InDelta(t, 1, r.metric("sluice_ingester_gaps_total", "future_cursor"), 0)
	require.InDelta(t, 1, r.metric("sluice_ingester_stream_errors_total", "FutureCursor"), 0)
	require.Equal(t, []int64{0}, src.cursors())
}

func TestErrorFrameEndsTheConnectionAtTheCursor(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	src := newSource(a.next(1), repo.ErrorFrame("ConsumerTooSlow", "too slow"), a.next(2))
	r.relay(host, src)
	r.start()
	r.until(host, "2")
	require.Equal(t, []int64{0, 1}, src.cursors())
	require.InDelta(t, 1, r.metric("sluice_ingester_stream_errors_total", "ConsumerTooSlow"), 0)
	require.Empty(t, r.letters(), "an error frame is understood")
}

func TestLateAndRepeatedFrames(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
	r := newRig(t, ks)
	one, two, three := a.next(1), a.next(2), a.next(3)
	late := b.next(4)
	five := a.next(5)
	r.relay(host, newSource())
	src := r.sources[host]
	src.add(one, two, two, one, three, five)
	r.start()
	r.until(host, "5")
	// A frame of another account that comes after its successor is not lost.
	src.mu.Lock()
	src.frames = append(src.frames, sent{seq: 1 << 40, raw: late})
	close(src.more)
	src.more = make(chan struct{})
	src.mu.Unlock()
	require.Eventually(t, func() bool { return len(r.uris()) == 5 }, 60*time.Second, 2*time.Millisecond)
	require.Equal(t, "5", r.cursor(host))
	require.InDelta(t, 2, r.metric("sluice_ingester_duplicate_frames_total"), 0)
	require.Empty(t, r.schedule.dids())
}

func TestCursorOfAnOlderSystemIsFound(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	a.commit()
	src := newSource(a.next(78))
	require.NoError(t, r.client.SetCursor(t.Context(), liveStream+":cursor:wss://"+host, "77"))
	r.cfg.Relays = []string{"wss://" + host}
	r.sources[host] = src
	r.start()
	r.until(host, "78")
	require.Equal(t, []int64{77}, src.cursors())
}

func TestFirstStart(t *testing.T) {
	t.Parallel()
	for start, want := range map[string]int64{StartLive: -1, StartOldest: 0, "41": 41} {
		t.Run(start, func(t *testing.T) {
			t.Parallel()
			ks := keys{}
			a := newAuthor(t, ks, "a")
			r := newRig(t, ks)
			r.cfg.Start = start
			src := newSource(a.next(42))
			r.relay(host, src)
			r.start()
			r.until(host, "42")
			require.Equal(t, []int64{want}, src.cursors())
		})
	}
}

func TestCursorThatIsNoNumberStopsTheProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, keys{})
	require.NoError(t, r.client.SetCursor(t.Context(), liveStream+":cursor:"+host, "abc"))
	r.relay(host, newSource())
	p, err := New(r.cfg, r.deps)
	require.NoError(t, err)
	require.ErrorContains(t, p.Run(t.Context()), "abc")
}

func TestRelaysAreChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range [][]string{{}, {"ftp://x"}, {"a.example", "wss://a.example"}, {"https://user@a.example"}, {"a.example/path"}, {""}} {
		r := newRig(t, keys{})
		r.cfg.Relays = bad
		_, err := New(r.cfg, r.deps)
		require.Error(t, err, bad)
	}
}

func TestResyncsOfOneRepositoryAreSpaced(t *testing.T) {
	t.Parallel()
	s := &schedule{due: map[string]time.Time{}}
	r := newResyncs(s, event.JSON, time.Minute, 100, newMetrics(nil, nil))
	now := time.Now()
	_, err := r.schedule(t.Context(), []string{"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"})
	require.NoError(t, err)
	require.Len(t, s.due, 2)
	for range 50 {
		_, err := r.schedule(t.Context(), []string{"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"})
		require.NoError(t, err)
	}
	require.Equal(t, 3, s.n, "one at once, one that covers all later wishes")
	due := s.due["did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"]
	require.True(t, due.After(now.Add(55*time.Second)), "put off, not dropped")
	require.True(t, due.Before(now.Add(65*time.Second)))
}

// More wishes than may wait become one doubt about the relay.
func TestTooManyResyncsBecomeOneDoubt(t *testing.T) {
	t.Parallel()
	ks := keys{}
	r := newRig(t, ks)
	g := &gaps{}
	r.deps.Gaps, r.cfg.Resyncs = g, 3
	var frames [][]byte
	for i := range 10 {
		a := newAuthor(t, ks, string(rune('a'+i)))
		frames = append(frames, a.frame(int64(i+1), a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) {
			m.TooBig, m.Ops, m.Blocks = true, nil, nil
		}))
	}
	r.relay(host, newSource(frames...))
	r.start()
	r.until(host, "10")
	require.Len(t, r.schedule.dids(), 3)
	require.InDelta(t, 7, r.metric("sluice_ingester_resyncs_over_limit_total"), 0)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.NotEmpty(t, g.doubts)
	require.LessOrEqual(t, len(g.doubts), 7)
	require.Empty(t, g.since)
}

// Whatever comes in whatever order, the window says of a number whether it was
// there before.
func TestWindowOfSequenceNumbers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var w feed.Window
		w.Start(100)
		seen := map[int64]bool{}
		high := int64(100)
		for range 3000 {
			seq := high + rng.Int64N(40) - 30
			if rng.IntN(500) == 0 {
				seq += 30_000
			}
			if seq < 1 {
				continue
			}
			order, skipped := w.Observe(seq)
			switch {
			case seq <= 100 || seen[seq]:
				require.Equal(t, feed.Seen, order, "seed %d seq %d", seed, seq)
			case seq > high:
				require.Equal(t, feed.Next, order)
				require.Equal(t, seq-high-1, skipped)
			default:
				require.Equal(t, feed.Late, order, "seed %d seq %d high %d", seed, seq, high)
			}
			seen[seq] = true
			high = max(high, seq)
			require.Equal(t, high, w.High())
		}
	}
}

func TestStateInTheTable(t *testing.T) {
	t.Parallel()
	s := repoState{rev: rev(1), data: atproto.SumCID([]byte("x"))}
	require.LessOrEqual(t, len(s.encode()), 64, "Redis keeps it compactly")
	gotRev, gotData := decodeState(s.encode())
	require.Equal(t, s.rev, gotRev)
	require.Equal(t, s.data, gotData)
	require.Equal(t, s.rev, StateRev(s.encode()))
	s.data = atproto.CID{}
	gotRev, gotData = decodeState(s.encode())
	require.Equal(t, s.rev, gotRev)
	require.True(t, gotData.IsZero())
	for _, bad := range []string{"", "x", "3mptbypluud2axx"} {
		_, data := decodeState(bad)
		require.True(t, data.IsZero())
	}
}

// Two relays write in turns: an entry that both bring is in the stream once,
// whoever comes first.
func TestEntrySharedByTwoRelays(t *testing.T) {
	t.Parallel()
	e := &entry{key: "k", fields: []redstream.Field{{Name: "event", Value: "v"}}}
	w := &writer{}
	first := w.plan(&batch{slots: []*slot{{seq: 3, out: outcome{entry: e}}, {seq: 4, out: outcome{entry: e}}}})
	require.Len(t, first.items, 1)
	require.EqualValues(t, 4, first.upTo)
	e.written = true
	second := w.plan(&batch{slots: []*slot{{seq: 9, out: outcome{entry: e}}}})
	require.Empty(t, second.items)
	require.EqualValues(t, 9, second.upTo, "the cursor moves all the same")
}

// A relay that begins with a later commit of a repository of which nothing is
// known does not make an earlier one, which another relay has, a repeat.
func TestEarlierCommitOfAnotherRelayIsNoRepeat(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	one, two, three := a.commit(), a.commit(), a.commit()
	behind := newSource()
	r.relay(host, newSource(a.frame(3, three)))
	r.relay(other, behind)
	r.start()
	r.until(host, "3")
	behind.add(a.frame(901, one), a.frame(902, two), a.frame(903, three))
	r.until(other, "903")
	require.Equal(t, []string{"app.bsky.feed.post/3", "app.bsky.feed.post/1", "app.bsky.feed.post/2"}, r.uris())
	require.InDelta(t, 1, r.metric("sluice_ingester_duplicate_frames_total"), 0)
	require.Empty(t, r.schedule.dids())
}
