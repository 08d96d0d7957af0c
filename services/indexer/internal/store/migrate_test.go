package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/fault"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

func emptySchema(t *testing.T) (*pgxpool.Pool, string) {
	t.Helper()
	url, schema := testkit.Postgres(t)
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, schema
}

// TestMigrateEmpty: several at once make one schema, after which nothing is
// left to do, neither for us nor for the TypeScript migrator.
func TestMigrateEmpty(t *testing.T) {
	t.Parallel()
	pool, schema := emptySchema(t)
	ctx := context.Background()
	steps, err := store.Check(ctx, pool, schema)
	require.NoError(t, err)
	require.NotEmpty(t, steps)
	var g errgroup.Group
	for range 3 {
		g.Go(func() error { return store.Migrate(ctx, pool, schema) })
	}
	require.NoError(t, g.Wait())
	steps, err = store.Check(ctx, pool, schema)
	require.NoError(t, err)
	require.Empty(t, steps)
	require.Equal(t, 59, count(t, pool, schema, `SELECT count(*) FROM {s}.kysely_migration`))
	require.Equal(t, 55, count(t, pool, schema, `SELECT count(*) FROM pg_tables WHERE schemaname = '{s}'`))
}

// TestMigrateForeign: on a database that the TypeScript data plane made, at its
// last or last but one migration or at those of a newer version, only our column
// and our schema are added.
func TestMigrateForeign(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "before", "0.0.280"} {
		pool, schema := emptySchema(t)
		ctx := context.Background()
		require.NoError(t, store.Migrate(ctx, pool, schema))
		undo := `ALTER TABLE ` + schema + `.record DROP COLUMN rev; DROP SCHEMA ` + schema + `_sluice CASCADE;`
		switch version {
		case "0.0.280":
			undo += `ALTER TABLE ` + schema + `.actor_state DROP COLUMN "lastSeenPriorityNotifs"; CREATE TABLE ` + schema + `.reference_list_opt_out (uri varchar PRIMARY KEY);
INSERT INTO ` + schema + `.kysely_migration (name, "timestamp") VALUES ('_20260827T200000000Z', '2026-08-27'), ('_20260904T130000000Z', '2026-09-04');`
		case "before":
			undo += `DROP INDEX ` + schema + `.like_subject_sort_at_creator_idx; DELETE FROM ` + schema + `.kysely_migration WHERE name = '_20260819T170000000Z';`
		}
		_, err := pool.Exec(ctx, undo)
		require.NoError(t, err)
		before := count(t, pool, schema, `SELECT count(*) FROM pg_indexes WHERE schemaname = '{s}'`)
		steps, err := store.Check(ctx, pool, schema)
		require.NoError(t, err)
		require.Contains(t, steps, "add column rev to "+schema+".record")
		require.NotContains(t, steps, "create the AppView's tables in schema "+schema)
		require.NoError(t, store.Migrate(ctx, pool, schema))
		require.Equal(t, before, count(t, pool, schema, `SELECT count(*) FROM pg_indexes WHERE schemaname = '{s}'`))
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM information_schema.columns WHERE table_schema = '{s}' AND table_name = 'record' AND column_name = 'rev' AND is_nullable = 'YES'`))
		st := newStoreOn(t, pool, schema)
		require.NoError(t, applyOne(st, newMaker().post(1, nil, nil)))
		require.NoError(t, st.DeleteAccount(ctx, did(1), "2026-09-01T00:00:00.000Z"))
	}
}

// TestMigrateWrongSchema: a column that is missing is named, and nothing is
// changed.
func TestMigrateWrongSchema(t *testing.T) {
	t.Parallel()
	pool, schema := emptySchema(t)
	ctx := context.Background()
	require.NoError(t, store.Migrate(ctx, pool, schema))
	_, err := pool.Exec(ctx, `ALTER TABLE `+schema+`.post DROP COLUMN "hasPostGate"`)
	require.NoError(t, err)
	err = store.Migrate(ctx, pool, schema)
	require.ErrorContains(t, err, "post.hasPostGate is missing")
	require.Equal(t, fault.Fatal, fault.ClassOf(err))
	_, err = store.Check(ctx, pool, schema)
	require.ErrorContains(t, err, "post.hasPostGate")
}

// TestMigrateBehindALongReader: the column waits for a transaction that reads
// the table, and lets the AppView's other readers go on meanwhile.
func TestMigrateBehindALongReader(t *testing.T) {
	t.Parallel()
	pool, schema := emptySchema(t)
	ctx := t.Context()
	require.NoError(t, store.Migrate(ctx, pool, schema))
	_, err := pool.Exec(ctx, `ALTER TABLE `+schema+`.record DROP COLUMN rev`)
	require.NoError(t, err)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	_, err = tx.Exec(ctx, `SELECT count(*) FROM `+schema+`.record`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- store.Migrate(ctx, pool, schema) }()
	require.Eventually(t, func() bool {
		return count(t, pool, schema, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{s}.record'::regclass`) > 0
	}, 60*time.Second, 5*time.Millisecond, "it waits")
	other, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = pool.Exec(other, `SELECT count(*) FROM `+schema+`.record`)
	require.NoError(t, err, "another reader, while the first one is not done")
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-done)
	steps, err := store.Check(ctx, pool, schema)
	require.NoError(t, err)
	require.Empty(t, steps)
}
