package store_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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

// holder lets a test stop transactions where they insert a row of its choice.
type holder struct {
	t      *testing.T
	pool   *pgxpool.Pool
	conn   *pgxpool.Conn
	schema string
	g      errgroup.Group
}

// newHolder stops at rows of a table whose uri is one of the events'. It holds
// them by advisory locks of its session, which has no transaction id.
func newHolder(t *testing.T, pool *pgxpool.Pool, schema, table string, events ...*event.Event) *holder {
	t.Helper()
	ctx := context.Background()
	h := &holder{t: t, pool: pool, schema: schema}
	body := ""
	for _, e := range events {
		body += fmt.Sprintf("IF NEW.uri = '%s' THEN PERFORM pg_advisory_xact_lock(%d); END IF;\n", e.URI(), h.key(e))
	}
	_, err := pool.Exec(ctx, fmt.Sprintf(`CREATE FUNCTION %[1]s.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %[3]s RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE INSERT ON %[2]s FOR EACH ROW EXECUTE FUNCTION %[1]s.hold()`, schema, table, body))
	require.NoError(t, err)
	h.conn, err = pool.Acquire(ctx)
	require.NoError(t, err)
	t.Cleanup(h.conn.Release)
	return h
}

func (h *holder) key(e *event.Event) int64 {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(h.schema + e.URI()))
	return int64(sum.Sum64() >> 1)
}

// run starts a transaction, and returns when it is held at the row of e.
func (h *holder) run(e *event.Event, work func() error) {
	h.t.Helper()
	_, err := h.conn.Exec(context.Background(), "SELECT pg_advisory_lock($1)", h.key(e))
	require.NoError(h.t, err)
	h.g.Go(work)
	require.Eventually(h.t, func() bool {
		return count(h.t, h.pool, h.schema, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND ((classid::bigint << 32) | objid::bigint) = $1`, h.key(e)) == 1
	}, time.Minute, time.Millisecond)
}

func (h *holder) free(e *event.Event) {
	h.t.Helper()
	_, err := h.conn.Exec(context.Background(), "SELECT pg_advisory_unlock($1)", h.key(e))
	require.NoError(h.t, err)
}

func applyOne(st *store.Store, e *event.Event) error {
	_, err := st.Apply(context.Background(), []store.Change{{Event: e, Live: true}})
	return err
}

// TestRecheckWaitsForWhoeverDidNotSee: a reply commits while the transaction of
// its parent, which has read already and did not see it, but not written yet, is
// still open. The reply is judged when the parent is there too, not before.
func TestRecheckWaitsForWhoeverDidNotSee(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	root := m.post(1, nil, nil)
	parent := m.post(2, root, root)
	reply := m.post(3, root, parent)
	require.NoError(t, applyOne(st, root))
	settle(t, st)
	h := newHolder(t, pool, schema, schema+".record", parent, reply)
	h.run(reply, func() error { return applyOne(st, reply) })
	h.run(parent, func() error { return applyOne(st, parent) })
	h.free(reply)
	require.Eventually(t, func() bool {
		return count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1`, reply.URI()) == 1
	}, time.Minute, time.Millisecond)
	for range 3 {
		n, err := st.Recheck(ctx)
		require.NoError(t, err)
		require.Zero(t, n, "judged beside the transaction of the parent")
	}
	h.free(parent)
	require.NoError(t, h.g.Wait())
	settle(t, st)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`))
	noDrift(t, st)
}

// TestRecheckMeetsWhatItWaitsFor: a reply is judged again and found refused,
// because the root that mentions its author is not there, while the transaction
// of the root, which cannot see yet that somebody waits for it, goes through.
func TestRecheckMeetsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	root := m.create(1, "app.bsky.feed.post", "", fmt.Sprintf(`,"text":"@you","facets":[{"index":{"byteStart":0,"byteEnd":4},
"features":[{"$type":"app.bsky.richtext.facet#mention","did":%q}]}]`, did(2)))
	gate := m.create(1, "app.bsky.feed.threadgate", root.RKey,
		fmt.Sprintf(`,"post":%q,"allow":[{"$type":"app.bsky.feed.threadgate#mentionRule"}]`, root.URI()))
	reply := m.post(2, root, root)
	require.NoError(t, applyOne(st, reply))
	settle(t, st)
	require.NoError(t, applyOne(st, gate))
	h := newHolder(t, pool, schema, store.OwnSchema(schema)+".waiting", reply)
	h.run(reply, func() error {
		for {
			n, err := st.Recheck(context.Background())
			if n > 0 || err != nil {
				return err
			}
		}
	})
	require.NoError(t, applyOne(st, root))
	h.free(reply)
	require.NoError(t, h.g.Wait())
	settle(t, st)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot" OR "violatesThreadGate"`))
	noDrift(t, st)
}

// A round of judging again comes to an end although more is found to judge all
// the time.
func TestRecheckEnds(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	root := m.post(1, nil, nil)
	require.NoError(t, applyOne(st, m.post(2, root, m.post(3, root, root))))
	settle(t, st)
	own := store.OwnSchema(schema)
	_, err := pool.Exec(context.Background(), fmt.Sprintf(`CREATE FUNCTION %[1]s.again() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO %[2]s.recheck (uri, what, rev) VALUES (OLD.uri, OLD.what, OLD.rev); RETURN NULL; END $$;
CREATE TRIGGER again AFTER DELETE ON %[2]s.recheck FOR EACH ROW EXECUTE FUNCTION %[1]s.again();
INSERT INTO %[2]s.recheck (uri, what, rev) VALUES ('%[3]s', 1, '')`, schema, own, root.URI()))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.Eventually(t, func() bool {
		n, err := st.Recheck(ctx)
		return err == nil && n == 1
	}, time.Minute, time.Millisecond)
}

// A repository that somebody works on does not keep the others waiting.
func TestRecheckPassesOverOne(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	busy := m.post(7, nil, nil)
	h := newHolder(t, pool, schema, schema+".record", busy)
	own := store.OwnSchema(schema)
	// The rows are not due until the snapshot that sees them may be used.
	_, err := pool.Exec(ctx, fmt.Sprintf(`INSERT INTO %[1]s.recheck (uri, what, rev, not_before)
SELECT CASE n %% 200 WHEN 0 THEN '%[2]s' ELSE replace('%[2]s', '%[3]s', 'did:plc:' || lpad(n::text, 24, '2')) END, 1, '', 'infinity' FROM generate_series(1, 1000) n;
INSERT INTO %[1]s.recheck (uri, what, rev) VALUES ('%[2]s', 1, '')`, own, busy.URI(), did(7)))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		n, err := st.Recheck(ctx)
		return err == nil && n == 1
	}, time.Minute, time.Millisecond)
	h.run(busy, func() error { return applyOne(st, busy) })
	_, err = pool.Exec(ctx, "UPDATE "+own+".recheck SET not_before = '-infinity'")
	require.NoError(t, err)
	n, err := st.Recheck(ctx)
	require.NoError(t, err)
	require.Equal(t, 995, n)
	h.free(busy)
	require.NoError(t, h.g.Wait())
	settle(t, st)
}
