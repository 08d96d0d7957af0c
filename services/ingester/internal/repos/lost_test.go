package repos

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Redis that has lost everything is filled from the earliest that the relay
// has, and what is before that is noted as a gap.
func TestRedisThatLostEverythingIsFilledAgain(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gaps{}
	r.deps.Gaps = g
	src := newSource(many(a, 1, 30)...)
	r.relay(host, src)
	r.start()
	r.until(host, "30")
	ctx := context.Background()
	names, err := r.raw.Do(ctx, r.raw.B().Keys().Pattern(r.prefix+"*").Build()).AsStrSlice()
	require.NoError(t, err)
	require.NoError(t, r.raw.Do(ctx, r.raw.B().Del().Key(names...).Build()).Error())
	src.add(many(a, 31, 5)...)
	r.until(host, "35")
	require.Len(t, r.uris(), 35)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Len(t, g.since, 1)
	require.InDelta(t, 1, r.metric("sluice_ingester_gaps_total", "lost_cursor"), 0)
	require.Eventually(t, func() bool { return r.metric("ingester_events_in_memory") == 0 }, 60*time.Second, time.Millisecond)
}
