package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// gatedThread is a thread whose gate allows nobody, in the order of the stream:
// replies under replies, some of them deleted since, and replies that name its
// root under a post of another thread.
func gatedThread() (events []*event.Event, gate *event.Event) {
	m := newMaker()
	root := m.post(1, nil, nil)
	gate = m.create(1, "app.bsky.feed.threadgate", root.RKey, fmt.Sprintf(`,"post":%q,"allow":[]`, root.URI()))
	events = append(events, root, gate)
	parent := root
	var chain []*event.Event
	for i := range 9 {
		parent = m.post(10+i, root, parent)
		chain = append(chain, parent)
	}
	events = append(events, chain...)
	other := m.post(2, nil, nil)
	astray := m.post(3, root, other)
	under := m.post(4, root, astray)
	further := m.post(5, root, under)
	return append(events, other, astray, under, further, m.delete(chain[0]), m.delete(chain[4]), m.delete(under)), gate
}

// TestLateGate: a gate that comes after the replies judges each of them, however
// they hang together with its root.
func TestLateGate(t *testing.T) {
	t.Parallel()
	events, gate := gatedThread()
	late := append(slices.DeleteFunc(slices.Clone(events), func(e *event.Event) bool { return e == gate }), gate)
	orders := map[string][]*event.Event{"late": late}
	for seed := range uint64(5) {
		shuffled := slices.Clone(events)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		orders[fmt.Sprintf("seed %d", seed)] = shuffled
	}
	flags := func(t *testing.T, events []*event.Event, size int) []string {
		t.Helper()
		st, pool, schema := newStore(t)
		for batch := range slices.Chunk(events, size) {
			applyParallel(t, []*store.Store{st}, 100, batch)
			settle(t, st)
		}
		noDrift(t, st)
		rows, err := pool.Query(context.Background(), `SELECT p.uri, coalesce("invalidReplyRoot", false), coalesce("violatesThreadGate", false),
coalesce((SELECT a."replyCount" FROM `+schema+`.post_agg a WHERE a.uri = p.uri), 0) FROM `+schema+`.post p ORDER BY p.uri`)
		require.NoError(t, err)
		defer rows.Close()
		var out []string
		for rows.Next() {
			var uri string
			var invalid, violates bool
			var replies int
			require.NoError(t, rows.Scan(&uri, &invalid, &violates, &replies))
			out = append(out, fmt.Sprintf("%s invalid=%t violates=%t replies=%d", uri, invalid, violates, replies))
		}
		require.NoError(t, rows.Err())
		return out
	}
	want := flags(t, events, len(events))
	require.Len(t, want, 11)
	for name, order := range orders {
		for _, size := range []int{1, 5} {
			t.Run(fmt.Sprintf("%s, %d at once", name, size), func(t *testing.T) {
				t.Parallel()
				require.Equal(t, want, flags(t, order, size))
			})
		}
	}
}
