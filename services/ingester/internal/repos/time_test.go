package repos

import (
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"
)

func TestTimesOfFramesAreNotAheadOfTheClock(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gaps{}
	r.deps.Gaps = g
	ahead := time.Now().Add(1000 * time.Hour).UTC().Format(time.RFC3339Nano)
	src := newSource(a.frame(1, a.commit(), func(m *comatproto.SyncSubscribeRepos_Commit) { m.Time = ahead }))
	r.relay(host, src)
	r.start()
	r.until(host, "1")
	src.add(infoFrame(t, "OutdatedCursor"), a.next(2))
	r.until(host, "2")
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Len(t, g.since, 1)
	require.False(t, g.since[0].After(time.Now()))
}
