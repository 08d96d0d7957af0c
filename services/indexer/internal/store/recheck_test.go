package store_test

import (
	"context"
	"hash/fnv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// TestRecheckPassesOverTheBusy: while somebody works on a repository, the
// rechecks of the others are done, and its own when it is free again.
func TestRecheckPassesOverTheBusy(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	post := m.post(1, nil, nil)
	var replies []*event.Event
	for i := range 20 {
		replies = append(replies, m.post(10+i, post, post))
	}
	applyParallel(t, []*store.Store{st}, 100, replies)
	settle(t, st)
	applyParallel(t, []*store.Store{st}, 100, []*event.Event{post})
	invalid := func() int {
		return count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`)
	}
	require.Equal(t, 20, invalid())

	conn, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	h := fnv.New64a()
	_, _ = h.Write([]byte(schema + "\x00repo\x00" + did(10)))
	_, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(h.Sum64()))
	require.NoError(t, err)
	var g errgroup.Group
	g.Go(func() error {
		for invalid() > 0 && ctx.Err() == nil {
			if _, err := st.Recheck(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	require.Eventually(t, func() bool { return invalid() == 1 }, time.Minute, 5*time.Millisecond)
	_, err = conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", int64(h.Sum64()))
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	require.Zero(t, invalid())
	noDrift(t, st)
}
