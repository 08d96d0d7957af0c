package repos

import (
	"math"
	"strconv"
	"testing"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit/repo"
)

// A sequence number that is none is a frame that cannot be used: it leaves no
// entry and no state, and neither moves the cursor nor ends the process.
func TestOddSequenceNumbersAreDropped(t *testing.T) {
	t.Parallel()
	for _, seq := range []int64{math.MinInt64, -1, 0, 1 << 53, math.MaxInt64} {
		ks := keys{}
		a, b := newAuthor(t, ks, "a"), newAuthor(t, ks, "b")
		r := newRig(t, ks)
		odd := a.commit()
		unknown, err := repo.Frame("#later", &comatproto.SyncSubscribeRepos_Identity{Did: a.did, Seq: seq, Time: frameTime})
		require.NoError(t, err)
		frames := [][]byte{b.next(1), a.frame(seq, odd), b.next(2), a.sync(seq), a.account(seq, true, ""), a.identityFrame(seq, ""), unknown, a.frame(3, odd), b.next(4)}
		r.relay(host, newSource(frames...))
		r.start()
		r.until(host, "4")
		require.Len(t, r.uris(), 4, "seq %d", seq)
		require.InDelta(t, 5, r.metric("sluice_ingester_drops_total", string(event.ReasonBadFrame)), 0, "seq %d", seq)
		require.Empty(t, r.schedule.dids())
		require.InDelta(t, 0, r.metric("sluice_ingester_duplicate_frames_total"), 0)
	}
}

// One number that is nonsense, from a relay that lies or errs, does not take the
// cursor to where nothing comes after it; a relay that counts anew is followed.
func TestAbsurdSequenceNumberDoesNotTakeTheCursor(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	src := newSource(a.next(1), a.next(2), a.next(1<<53-1), a.next(3))
	r.relay(host, src)
	stop := r.start()
	r.until(host, "3")
	require.Len(t, r.uris(), 4, "the frame itself is taken")
	require.Empty(t, r.schedule.dids())
	stop()
	src.mu.Lock()
	src.frames = nil
	src.mu.Unlock()
	const anew = 1 << 50
	src.add(many(a, anew, 150)...)
	r.start()
	r.until(host, strconv.Itoa(anew+149))
	require.Equal(t, []int64{0, 3}, src.cursors())
	require.Len(t, r.uris(), 154)
	require.Empty(t, r.schedule.dids())
}
