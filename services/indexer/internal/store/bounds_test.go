package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/derive"
	"sluice/services/indexer/internal/store"
)

// noise is text that does not shrink when it is compressed.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for range n {
		b.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[r.IntN(62)])
	}
	return b.String()
}

// TestLongSubject: a like of an overlong uri that is deleted in the same batch
// leaves nothing that blocks the counts.
func TestLongSubject(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	long := *post
	long.DID = "did:web:" + noise(2000)
	long.Collection = "com." + strings.Repeat("abcdefghijklmnopqrstuvwxyz.", 8) + "post"
	long.RKey = noise(512)
	bad, good := m.like(2, &long), m.like(3, post)
	ctx := context.Background()
	out, err := st.Apply(ctx, []store.Change{{Event: bad}, {Event: m.delete(bad)}, {Event: good}})
	require.NoError(t, err)
	var why *derive.RejectError
	require.ErrorAs(t, out.Results[0].Err, &why)
	require.Equal(t, derive.KeyTooLong, why.Reason)
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
}

// TestBadDelta: a delta that does not fit into the aggregates is dropped, and
// the others are folded.
func TestBadDelta(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	for i := range 40 {
		key := fmt.Sprintf("at://did:plc:a/app.bsky.feed.post/%d", i)
		if i == 11 || i == 30 {
			key += noise(6000)
		}
		_, err := pool.Exec(ctx, `INSERT INTO `+store.OwnSchema(schema)+`.count_delta (kind, key, n) VALUES (1, $1, 1)`, key)
		require.NoError(t, err)
	}
	settle(t, st)
	require.Equal(t, 38, count(t, pool, schema, `SELECT sum("likeCount") FROM {s}.post_agg`))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.count_delta`))
}

// TestLongListInGate: a gate that names a list by an overlong uri refuses
// replies, and nothing else fails.
func TestLongListInGate(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	list := "at://did:web:" + noise(2000) + "/com." + strings.Repeat("abcdefghijklmnopqrstuvwxyz.", 8) + "list/" + noise(512)
	gate := m.create(1, "app.bsky.feed.threadgate", post.RKey, `,"post":"`+post.URI()+`","allow":[{"$type":"app.bsky.feed.threadgate#listRule","list":"`+list+`"}]`)
	reply := m.post(2, post, post)
	out, err := st.Apply(context.Background(), []store.Change{{Event: post}, {Event: gate}, {Event: reply}})
	require.NoError(t, err)
	for _, r := range out.Results {
		require.Equal(t, store.Applied, r.Result)
	}
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "violatesThreadGate"`))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.waiting WHERE length(key) < 100`))
}

// neverAlone runs short transactions of which one is always open.
func neverAlone(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	open := func() (pgx.Tx, error) {
		tx, err := pool.Begin(context.Background())
		if err == nil {
			_, err = tx.Exec(context.Background(), "SELECT pg_current_xact_id()")
		}
		return tx, err
	}
	tx, err := open()
	require.NoError(t, err)
	var g errgroup.Group
	g.Go(func() error {
		for ctx.Err() == nil {
			next, err := open()
			if err != nil {
				return err
			}
			if err := tx.Rollback(context.Background()); err != nil {
				return err
			}
			tx = next
			_ = fault.Sleep(ctx, 2*time.Millisecond) // ends with ctx
		}
		return tx.Rollback(context.Background())
	})
	t.Cleanup(func() {
		stop()
		require.NoError(t, g.Wait())
	})
}

// TestManyReplies: a post with many replies, reposts and quotes that arrives or
// goes is judged in small transactions, and one row that fails does not block
// the others, though somebody always writes beside it.
func TestManyReplies(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	neverAlone(t, pool)
	m := newMaker()
	post := m.post(1, nil, nil)
	var events []*event.Event
	for i := range 120 {
		events = append(events, m.post(10+i, post, post),
			m.create(200+i, "app.bsky.feed.repost", "", `,"subject":{"uri":"`+post.URI()+`","cid":"`+post.CID+`"}`),
			m.create(400+i, "app.bsky.feed.post", "", `,"text":"","embed":{"$type":"app.bsky.embed.record","record":{"uri":"`+post.URI()+`","cid":"`+post.CID+`"}}`))
	}
	applyParallel(t, []*store.Store{st}, 100, events)
	settle(t, st)
	_, err := pool.Exec(ctx, fmt.Sprintf(`CREATE FUNCTION %[1]s_sluice.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.uri = '%[2]s' THEN RAISE EXCEPTION 'by the test'; END IF; RETURN NEW; END $$;
CREATE TRIGGER fail BEFORE UPDATE ON %[1]s.post FOR EACH ROW EXECUTE FUNCTION %[1]s_sluice.fail()`, schema, events[60].URI()))
	require.NoError(t, err)
	applyParallel(t, []*store.Store{st}, 100, []*event.Event{post})
	require.Eventually(t, func() bool {
		_, err := st.Recheck(ctx)
		require.NoError(t, err)
		return count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`) == 1 &&
			count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.recheck WHERE attempts = 0`) == 0
	}, time.Minute, 5*time.Millisecond)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.recheck WHERE attempts > 0 AND uri = $1`, events[60].URI()))
	_, err = pool.Exec(ctx, `DROP TRIGGER fail ON `+schema+`.post`)
	require.NoError(t, err)
	applyParallel(t, []*store.Store{st}, 100, []*event.Event{m.delete(post)})
	settle(t, st)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.feed_item WHERE type = 'repost'`))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.quote`))
	noDrift(t, st)
}

// TestManyRecords: a repository of many records is swept and deleted in pages,
// none of which reads what the others have done.
func TestManyRecords(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	const n = 10000
	_, err := pool.Exec(ctx, `INSERT INTO `+schema+`.record (uri, cid, did, json, "indexedAt", rev)
SELECT 'at://' || $1 || '/chat.bsky.actor.declaration/' || i, '', $1, '{}', '', CASE WHEN i % 10 = 0 THEN '3zzzzzzzzzzzz' ELSE '3aaaaaaaaaaaa' END
FROM generate_series(1, $2) i`, did(1), n)
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `INSERT INTO `+schema+`.notification (did, "recordUri", "recordCid", author, reason, "sortAt")
SELECT CASE WHEN i % 2 = 0 THEN $1 ELSE $2 END, 'at://x/' || i, '', CASE WHEN i % 2 = 0 THEN $2 ELSE $1 END, 'like', '' FROM generate_series(1, 2000) i`, did(1), did(2))
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `ANALYZE `+schema+`.record`)
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, st.SweepSnapshot(ctx, did(1), "3bbbbbbbbbbbb"))
	t.Log("swept in", time.Since(start))
	require.Equal(t, n/10, count(t, pool, schema, `SELECT count(*) FROM {s}.record`))
	require.Equal(t, n*9/10, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.tombstone`))
	require.NoError(t, st.DeleteAccount(ctx, did(1), "2100-01-01T00:00:00Z"))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE rev < '3zzz'`))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
}
