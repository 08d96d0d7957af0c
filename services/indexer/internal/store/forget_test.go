package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
)

const month = 30 * 24 * time.Hour

// aged makes deletions, and what was forgotten, older by some days.
func aged(t *testing.T, pool *pgxpool.Pool, schema string, days int, uris ...string) {
	t.Helper()
	_, err := pool.Exec(context.Background(), `UPDATE `+schema+`_sluice.tombstone SET written = now() - $1::int * interval '1 day' WHERE uri = ANY($2)`, days, uris)
	require.NoError(t, err)
	_, err = pool.Exec(context.Background(), `UPDATE `+schema+`_sluice.forgotten SET upto = least(upto, now() - $1::int * interval '1 day' - interval '1 minute')`, days)
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

// More than one transaction takes are forgotten, whatever the step of time.
func TestManyDeletionsAreForgotten(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	_, err := pool.Exec(ctx, `INSERT INTO `+schema+`_sluice.tombstone (uri, rev, at, was, born, root, parent, written)
SELECT 'at://did:plc:a/app.bsky.feed.like/' || i, '3', '', true, '', '', '', now() - interval '90 days' + i * interval '5 minutes' / 40 FROM generate_series(1, 12000) i`)
	require.NoError(t, err)
	aged(t, pool, schema, 90)
	n, err := st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Equal(t, 12000, n)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}_sluice.tombstone`))
}

// A deletion that is written again while it is to be forgotten stays.
func TestDeletionMadeAgainIsNotForgotten(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	like := m.like(2, m.post(1, nil, nil))
	require.NoError(t, applyOne(st, m.delete(like)))
	aged(t, pool, schema, 31, like.URI())
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, `UPDATE `+schema+`_sluice.tombstone SET written = now()`)
	require.NoError(t, err)
	var g errgroup.Group
	g.Go(func() error { _, err := st.ForgetDeletions(ctx, month); return err })
	require.Eventually(t, func() bool {
		return count(t, pool, schema, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%DELETE FROM "' || $1 || '_sluice".tombstone%'`, schema) == 1
	}, time.Minute, time.Millisecond)
	other, err := st.ForgetDeletions(ctx, month)
	require.NoError(t, err)
	require.Zero(t, other, "one works at a time")
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, g.Wait())
	require.Equal(t, 1, tombs(t, pool, schema, like))
}
