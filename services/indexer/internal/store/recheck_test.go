package store_test

import (
	"context"
	"fmt"
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

// TestRecheckWaitsForWhoeverDidNotSee: a reply commits while the transaction of
// its parent, which has read already and did not see it, is still open. The
// reply is judged when the parent is there too, not before.
func TestRecheckWaitsForWhoeverDidNotSee(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	root := m.post(1, nil, nil)
	parent := m.post(2, root, root)
	reply := m.post(3, root, parent)
	applyParallel(t, []*store.Store{st}, 1, []*event.Event{root})
	settle(t, st)

	// A post is written only when its lock is free. An advisory lock of a session
	// has no transaction id of its own.
	key := func(e *event.Event) int64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(schema + e.URI()))
		return int64(h.Sum64() >> 1)
	}
	_, err := pool.Exec(ctx, `CREATE FUNCTION `+schema+`.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.uri = '`+reply.URI()+`' THEN PERFORM pg_advisory_xact_lock(`+fmt.Sprint(key(reply))+`); END IF;
IF NEW.uri = '`+parent.URI()+`' THEN PERFORM pg_advisory_xact_lock(`+fmt.Sprint(key(parent))+`); END IF;
RETURN NEW; END $$`)
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `CREATE TRIGGER hold BEFORE INSERT ON `+schema+`.post FOR EACH ROW EXECUTE FUNCTION `+schema+`.hold()`)
	require.NoError(t, err)
	conn, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	lock := func(does string, e *event.Event) {
		_, err := conn.Exec(ctx, "SELECT "+does+"($1)", key(e))
		require.NoError(t, err)
	}
	var g errgroup.Group
	applyHeld := func(e *event.Event) {
		lock("pg_advisory_lock", e)
		g.Go(func() error {
			_, err := st.Apply(ctx, []store.Change{{Event: e, Live: true}})
			return err
		})
		require.Eventually(t, func() bool {
			return count(t, pool, schema, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND ((classid::bigint << 32) | objid::bigint) = $1`, key(e)) == 1
		}, time.Minute, time.Millisecond)
	}
	applyHeld(reply)
	applyHeld(parent)
	lock("pg_advisory_unlock", reply)
	require.Eventually(t, func() bool {
		return count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1`, reply.URI()) == 1
	}, time.Minute, time.Millisecond)
	for range 3 {
		n, err := st.Recheck(ctx)
		require.NoError(t, err)
		require.Zero(t, n, "judged beside the transaction of the parent")
	}
	lock("pg_advisory_unlock", parent)
	require.NoError(t, g.Wait())
	settle(t, st)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`))
	noDrift(t, st)
}
