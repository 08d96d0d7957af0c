package store_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

// spare are the schemas of tests that have ended, emptied: making one takes
// longer than most tests. A test that changes tables takes one by
// testkit.Postgres instead.
var spare struct {
	sync.Mutex
	url     string
	schemas []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, schema := range spare.schemas {
		testkit.DropSchema(spare.url, schema)
	}
	os.Exit(code)
}

// takeSchema is a schema of this test alone with the tables in it.
func takeSchema(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	url := pool.Config().ConnString()
	schema := ""
	spare.Lock()
	if n := len(spare.schemas); n > 0 {
		schema, spare.schemas = spare.schemas[n-1], spare.schemas[:n-1]
	}
	spare.Unlock()
	if schema == "" {
		schema = "t" + testkit.RandomName()
		require.NoError(t, store.Migrate(context.Background(), pool, schema))
	}
	t.Cleanup(func() { leaveSchema(t, url, pool, schema) })
	return schema
}

// leaveSchema keeps the schema of a test for others, unless the test has failed,
// or has made functions in it.
func leaveSchema(t *testing.T, url string, pool *pgxpool.Pool, schema string) {
	t.Helper()
	var changed bool
	err := pool.QueryRow(context.Background(), `SELECT EXISTS (SELECT 1 FROM pg_proc WHERE pronamespace::regnamespace::text IN ($1, $2))`,
		schema, store.OwnSchema(schema)).Scan(&changed)
	if t.Failed() || err != nil || changed {
		testkit.DropSchema(url, schema)
		return
	}
	clearTables(t, pool, schema)
	spare.Lock()
	defer spare.Unlock()
	spare.url, spare.schemas = url, append(spare.schemas, schema)
}

// clearTables empties every table of a schema and of ours beside it.
func clearTables(t *testing.T, pool *pgxpool.Pool, schema string) {
	t.Helper()
	_, err := pool.Exec(context.Background(), `DO $$ DECLARE name text; full_ boolean; BEGIN
FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('`+schema+`', '`+store.OwnSchema(schema)+`')
	AND tablename NOT IN ('migration', 'kysely_migration', 'kysely_migration_lock') LOOP
	EXECUTE 'SELECT EXISTS (SELECT 1 FROM ' || name || ')' INTO full_;
	IF full_ THEN EXECUTE 'TRUNCATE ' || name || ' CASCADE'; END IF;
END LOOP; END $$`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}
