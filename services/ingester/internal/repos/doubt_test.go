package repos

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit/repo"
)

const host = "relay.example"

// uris are the records in the stream, in order.
func (r *rig) uris() []string {
	var out []string
	for _, e := range r.events() {
		if e.Collection != "" {
			out = append(out, e.Collection+"/"+e.RKey)
		}
	}
	return out
}

func TestHistoryInDoubtIsFetched(t *testing.T) {
	t.Parallel()
	type commits = func(a *author) [][]byte
	for name, c := range map[string]struct {
		frames commits
		kind   string // what is noticed; empty: nothing
		reason event.Reason
		events int
		last   string
	}{
		"whole chain": {frames: func(a *author) [][]byte { return [][]byte{a.next(1), a.next(2), a.next(3)} }, events: 3, last: "3"},
		"missing commit": {frames: func(a *author) [][]byte {
			first := a.next(1)
			a.commit()
			return [][]byte{first, a.next(3)}
		}, kind: noticeBrokenChain, events: 2, last: "3"},
		"too big": {frames: func(a *author) [][]byte {
			return [][]byte{a.next(1), a.frame(2, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) {
				m.TooBig, m.Ops, m.Blocks = true, nil, nil
			}), a.next(3)}
		}, kind: noticeTooBig, events: 2, last: "3"},
		"rev goes back": {frames: func(a *author) [][]byte {
			one, two := a.commit(), a.commit()
			return [][]byte{a.frame(1, one), a.frame(2, two), a.frame(3, one)}
		}, kind: noticeRevBack, events: 2, last: "3"},
		"same commit again": {frames: func(a *author) [][]byte {
			one := a.commit()
			return [][]byte{a.frame(1, one), a.frame(2, one)}
		}, events: 1, last: "2"},
		"fork": {frames: func(a *author) [][]byte {
			other := repo.New(a.did, a.key)
			c, err := other.Apply(rev(1), []repo.Write{post("app.bsky.feed.post/other")})
			require.NoError(a.t, err)
			return [][]byte{a.next(1), a.frame(2, c)}
		}, kind: noticeFork, events: 1, last: "2"},
		"rev from the future": {frames: func(a *author) [][]byte {
			c, err := a.repo.Apply(tid(time.Now().Add(time.Hour)), []repo.Write{post("app.bsky.feed.post/x")})
			require.NoError(a.t, err)
			return [][]byte{a.frame(1, c)}
		}, kind: noticeInvalid, reason: event.ReasonFutureRev, last: "1"},
		"wrong signature": {frames: func(a *author) [][]byte {
			key, err := repo.NewKey(repo.K256, "somebody")
			require.NoError(a.t, err)
			c, err := repo.New(a.did, key).Apply(rev(1), []repo.Write{post("app.bsky.feed.post/x")})
			require.NoError(a.t, err)
			return [][]byte{a.frame(1, c)}
		}, kind: noticeInvalid, reason: event.ReasonBadSignature, last: "1"},
		"envelope names another commit": {frames: func(a *author) [][]byte {
			return [][]byte{a.frame(1, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) {
				m.Commit = *m.Ops[0].Cid
			})}
		}, kind: noticeInvalid, reason: event.ReasonBadCommit, last: "1"},
		"operation left out": {frames: func(a *author) [][]byte {
			first := a.next(1)
			c := a.commit(post("app.bsky.feed.post/a"), post("app.bsky.feed.post/b"))
			return [][]byte{first, a.frame(2, c, func(m *comatproto.SyncSubscribeRepos_Commit) { m.Ops = m.Ops[:1] })}
		}, kind: noticeInvalid, reason: event.ReasonBadProof, events: 1, last: "2"},
		"sync of an unknown repository": {frames: func(a *author) [][]byte {
			a.commit()
			return [][]byte{a.sync(1)}
		}, kind: noticeSync, events: 0, last: "1"},
		"sync of what is known": {frames: func(a *author) [][]byte { return [][]byte{a.next(1), a.sync(2)} }, events: 1, last: "2"},
		"sync after unannounced commits": {frames: func(a *author) [][]byte {
			first := a.next(1)
			a.commit()
			return [][]byte{first, a.sync(2), a.next(3)}
		}, kind: noticeSync, events: 2, last: "3"},
		"unreadable archive": {frames: func(a *author) [][]byte {
			return [][]byte{a.frame(1, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) { m.Blocks = m.Blocks[:len(m.Blocks)-9] })}
		}, kind: noticeInvalid, reason: event.ReasonTruncated, last: "1"},
		"time that is none": {frames: func(a *author) [][]byte {
			return [][]byte{a.frame(1, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) { m.Time = "now" })}
		}, kind: noticeInvalid, reason: event.ReasonBadTime, last: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ks := keys{}
			a := newAuthor(t, ks, "a")
			r := newRig(t, ks)
			r.relay(host, newSource(c.frames(a)...))
			r.start()
			r.until(host, c.last)
			require.Len(t, r.uris(), c.events)
			if c.kind == "" {
				require.Empty(t, r.schedule.dids())
				require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total"), 0)
			} else {
				require.Equal(t, []string{a.did}, r.schedule.dids())
				require.InDelta(t, 1, r.metric("sluice_ingester_noticed_total", c.kind), 0)
			}
			if c.reason != "" {
				require.InDelta(t, 1, r.metric("sluice_ingester_drops_total", string(c.reason)), 0)
			}
		})
	}
}

func TestStateOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	src := newSource(a.next(1), a.next(2))
	r.relay(host, src)
	stop := r.start()
	r.until(host, "2")
	stop()
	src.add(a.next(3))
	stop = r.start()
	r.until(host, "3")
	stop()
	require.Empty(t, r.schedule.dids(), "the chain is whole over a restart")
	a.commit()
	src.add(a.next(5))
	r.start()
	r.until(host, "5")
	require.Equal(t, []string{a.did}, r.schedule.dids(), "a break over a restart is noticed")
	require.Equal(t, []int64{0, 2, 3}, src.cursors())
}

func TestAccountsAndIdentitiesPassAsTheyAre(t *testing.T) {
	t.Parallel()
	a := newAuthor(t, nil, "a")
	r := newRig(t, keys{})
	dir := &directory{}
	r.deps.Directory = dir
	r.relay(host, newSource(
		a.account(1, false, "Takendown"), a.account(2, true, ""), a.identityFrame(3, ""), a.identityFrame(4, "a.test"),
		a.account(5, false, "somethingnew"),
	))
	r.start()
	r.until(host, "5")
	events := r.events()
	require.Equal(t, []event.Event{
		{Type: event.Account, Seq: 1, Time: frameTime, DID: a.did, Status: "takendown"},
		{Type: event.Account, Seq: 2, Time: frameTime, DID: a.did, Active: true},
		{Type: event.Identity, Seq: 3, Time: frameTime, DID: a.did},
		{Type: event.Identity, Seq: 4, Time: frameTime, DID: a.did, Handle: "a.test"},
		{Type: event.Account, Seq: 5, Time: frameTime, DID: a.did, Status: "somethingnew"},
	}, events)
	require.Eventually(t, func() bool { return dir.count() == 2 }, 60*time.Second, time.Millisecond, "an identity that changed is looked up")
}

type directory struct {
	mu   sync.Mutex
	dids []string
}

func (d *directory) Refresh(_ context.Context, did string) (atproto.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dids = append(d.dids, did)
	return atproto.Identity{}, nil
}

func (d *directory) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.dids)
}

func TestOnlyCommitsWithNothingKeptBecomeRepoEvents(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	r.relay(host, newSource(
		a.frame(1, a.commit(post("app.bsky.feed.post/1"), post("com.example.thing/1"))),
		a.frame(2, a.commit(post("com.example.thing/2"))),
		a.frame(3, a.commit(post("com.germnetwork.declaration/self"))),
		a.sync(4),
	))
	r.start()
	r.until(host, "4")
	var kinds []event.Type
	for _, e := range r.events() {
		kinds = append(kinds, e.Type)
	}
	require.Equal(t, []event.Type{event.Create, event.Repo, event.Create, event.Repo}, kinds)
	require.InDelta(t, 2, r.metric("ingester_firehose_filtered_operations_total"), 0)
}

func TestBadOperationLeavesTheOthers(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	bad := repo.Write{Action: repo.Create, Path: "app.bsky.feed.post/bad", Record: []byte{0xa1, 0x61, 'x', 0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0}}
	bad.CID = repo.CID(bad.Record)
	r := newRig(t, ks)
	r.relay(host, newSource(a.frame(1, a.commit(post("app.bsky.feed.post/1"), bad, post("app.bsky.feed.post/2")))))
	r.start()
	r.until(host, "1")
	require.Equal(t, []string{"app.bsky.feed.post/1", "app.bsky.feed.post/2"}, r.uris())
	require.InDelta(t, 1, r.metric("sluice_ingester_drops_total", string(event.ReasonBadRecord)), 0)
}

func TestUnreadableFramesAreParkedWithinBounds(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	r.cfg.DeadLetters = 5
	frames := [][]byte{a.next(1)}
	huge := make([]byte, 1<<20)
	for i := range 40 {
		frames = append(frames, append([]byte{0xff, byte(i)}, huge...))
	}
	frames = append(frames, a.next(2))
	r.relay(host, newSource(frames...))
	r.start()
	r.until(host, "2")
	require.Len(t, r.uris(), 2)
	letters := r.letters()
	require.Len(t, letters, 5)
	require.Equal(t, "bad_frame", letters[0]["reason"])
	require.Less(t, len(letters[0]["frame"]), 32<<10)
	require.Equal(t, "1048578", letters[0]["frame_bytes"])
	require.InDelta(t, 40, r.metric("sluice_ingester_parked_frames_total"), 0)
	require.InDelta(t, 40, r.metric("sluice_ingester_drops_total", "bad_frame"), 0)
}

func TestOversizedFrameDoesNotHoldTheStream(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	src := newSource(a.next(1))
	big := append(a.frame(2, a.commit()), make([]byte, 6_000_000)...)
	src.frames = append(src.frames, sent{seq: 2, raw: big})
	src.add(a.next(3))
	r.relay(host, src)
	r.start()
	r.until(host, "3")
	require.Len(t, r.uris(), 2)
	require.Equal(t, []string{a.did}, r.schedule.dids())
	require.Equal(t, "too_big", r.letters()[0]["reason"])
	require.InDelta(t, 1, r.metric("sluice_ingester_noticed_total", noticeTooBig), 0)
}

func TestDoubtAboutOurOwnStateStopsTheProcess(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	r.relay(host, newSource(a.next(1)))
	require.NoError(t, r.raw.Do(t.Context(), r.raw.B().Set().Key(r.prefix+liveStream).Value("x").Build()).Error())
	p, err := New(r.cfg, r.deps)
	require.NoError(t, err)
	require.ErrorIs(t, p.Run(t.Context()), redstream.ErrWrongType)
}

// unreachable is a KeySource whose directory is away until it is not.
type unreachable struct {
	keys
	mu   sync.Mutex
	away bool
}

func (u *unreachable) Identity(ctx context.Context, did string) (atproto.Identity, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.away {
		return atproto.Identity{}, errors.New("directory does not answer")
	}
	return u.keys.Identity(ctx, did)
}

func TestCommitsWaitForTheirKeys(t *testing.T) {
	t.Parallel()
	ks := &unreachable{keys: keys{}, away: true}
	a := newAuthor(t, ks.keys, "a")
	r := newRig(t, ks)
	r.relay(host, newSource(a.account(1, true, ""), a.next(2), a.account(3, true, "")))
	r.start()
	r.until(host, "1")
	require.Never(t, func() bool { return r.cursor(host) != "1" }, 200*time.Millisecond, 10*time.Millisecond)
	ks.mu.Lock()
	ks.away = false
	ks.mu.Unlock()
	r.until(host, "3")
	require.Len(t, r.uris(), 1)
	require.Empty(t, r.schedule.dids())
}

func TestCommitsPassWithoutKeysWhereConfigured(t *testing.T) {
	t.Parallel()
	ks := &unreachable{keys: keys{}, away: true}
	a := newAuthor(t, ks.keys, "a")
	r := newRig(t, ks)
	r.cfg.Identity = IdentityPolicy{Pass: true, Patience: 10 * time.Millisecond}
	r.relay(host, newSource(a.next(1)))
	r.start()
	r.until(host, "1")
	require.Len(t, r.uris(), 1)
	require.InDelta(t, 1, r.metric("sluice_ingester_unverified_commits_total"), 0)
}

func TestUnresolvableAccountDoesNotHoldTheStream(t *testing.T) {
	t.Parallel()
	ks := &unreachable{keys: keys{}, away: true}
	a := newAuthor(t, ks.keys, "a")
	r := newRig(t, ks)
	r.cfg.Identity.Patience = 20 * time.Millisecond
	r.relay(host, newSource(a.next(1), a.account(2, true, "")))
	r.start()
	r.until(host, "2")
	require.Empty(t, r.uris())
	require.Equal(t, []string{a.did}, r.schedule.dids(), "what could not be verified is fetched")
	require.InDelta(t, 1, r.metric("sluice_ingester_drops_total", string(event.ReasonNoIdentity)), 0)
}
