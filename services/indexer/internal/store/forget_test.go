package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

const month = 30 * 24 * time.Hour

// aged makes deletions older.
func aged(t *testing.T, pool *pgxpool.Pool, schema string, days int, uris ...string) {
	t.Helper()
	_, err := pool.Exec(context.Background(), `UPDATE `+schema+`_sluice.tombstone SET written = now() - $1::int * interval '1 day' WHERE uri = ANY($2)`, days, uris)
	require.NoError(t, err)
}

func tombs(t *testing.T, pool *pgxpool.Pool, schema string, events ...*event.Event) (n int) {
	t.Helper()
	for _, e := range events {
		n += count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.tombstone WHERE uri = $1`, e.URI())
	}
	return n
}

// Old deletions are forgotten, but for those of posts, by which replies are
// judged. A younger one guards as before.
func TestOldDeletionsAreForgotten(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	root := m.post(1, nil, nil)
	old, young := m.like(2, root), m.like(3, root)
	for _, e := range []*event.Event{root, old, young, m.delete(old), m.delete(young), m.delete(root)} {
		require.NoError(t, applyOne(st, e))
	}
	n, err := st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Zero(t, n, "all of them are new")
	aged(t, pool, schema, 31, old.URI(), root.URI())
	aged(t, pool, schema, 29, young.URI())
	n, err = st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, tombs(t, pool, schema, old))
	require.Equal(t, 2, tombs(t, pool, schema, young, root))
	n, err = st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Zero(t, n)

	require.NoError(t, applyOne(st, young))
	require.NoError(t, applyOne(st, root))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.record`), "what is remembered does not come back")
	require.NoError(t, applyOne(st, old))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`), "what is forgotten is new")
}

// More than one transaction takes are forgotten, all of one moment too, and none
// of the posts between them.
func TestManyDeletionsAreForgotten(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	_, err := pool.Exec(ctx, `INSERT INTO `+schema+`_sluice.tombstone (uri, rev, at, was, born, root, parent, written)
SELECT 'at://did:plc:a/app.bsky.feed.' || CASE i % 4 WHEN 0 THEN 'post' ELSE 'like' END || '/' || i, '3', '', true, '', '', '', now() - interval '90 days'
FROM generate_series(1, 16000) i`)
	require.NoError(t, err)
	n, err := st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Equal(t, 12000, n)
	require.Equal(t, 4000, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.tombstone`))
}

// A deletion that is being written again is not waited for, and stays.
func TestDeletionMadeAgainIsNotForgotten(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	root := m.post(1, nil, nil)
	again, old := m.like(2, root), m.like(3, root)
	for _, e := range []*event.Event{m.delete(again), m.delete(old)} {
		require.NoError(t, applyOne(st, e))
	}
	aged(t, pool, schema, 31, again.URI(), old.URI())
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, `UPDATE `+schema+`_sluice.tombstone SET written = now() WHERE uri = $1`, again.URI())
	require.NoError(t, err)
	n, err := st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, tx.Commit(ctx))
	n, err = st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, 1, tombs(t, pool, schema, again))
}
