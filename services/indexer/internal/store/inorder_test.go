package store_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/lexicon"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/store"
)

func newStore(t *testing.T, adjust ...func(*store.Config)) (*store.Store, *pgxpool.Pool, string) {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), testkit.PostgresURL(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	schema := takeSchema(t, pool)
	return newStoreOn(t, pool, schema, adjust...), pool, schema
}

func newStoreOn(t *testing.T, pool *pgxpool.Pool, schema string, adjust ...func(*store.Config)) *store.Store {
	t.Helper()
	catalog, err := lexicon.New(lexicon.Options{})
	require.NoError(t, err)
	cfg := store.Config{Schema: schema, Validate: catalog.Validate}
	for _, a := range adjust {
		a(&cfg)
	}
	st, err := store.New(pool, cfg)
	require.NoError(t, err)
	return st
}

func soak() bool { return os.Getenv("SLUICE_SOAK") != "" }

// TestInOrder: in stream order the rows are exactly those of the fixtures,
// whatever the size of a batch.
func TestInOrder(t *testing.T) {
	t.Parallel()
	all := loadAll(t, func(s *scenario) bool { return s.kind != "quirk" && (soak() || len(s.events) < 5000) })
	for _, size := range []int{1, 7, 500} {
		t.Run("batches of "+strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			inOrder(t, all, size)
		})
	}
}

// TestLongHistory is TestInOrder for the longest history.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	inOrder(t, loadAll(t, func(s *scenario) bool { return len(s.events) >= 5000 }), 500)
}

func loadAll(t *testing.T, pick func(*scenario) bool) []*scenario {
	t.Helper()
	root := testkit.Shared(t, "fixtures/appview")
	var out []*scenario
	for _, dir := range scenarios(t) {
		if s := loadScenario(t, root, dir); pick(s) {
			out = append(out, s)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// inOrder applies scenarios side by side in one schema; they share no account.
func inOrder(t *testing.T, all []*scenario, size int) {
	t.Helper()
	st, pool, schema := newStore(t)
	for _, s := range all {
		setUp(t, pool, schema, s)
		applyInOrder(t, st, s, size)
		lookUpHandles(t, st, s)
	}
	settle(t, st)
	compare(t, pool, schema, all...)
}

// compare compares every table with the rows of all scenarios.
func compare(t *testing.T, pool *pgxpool.Pool, schema string, all ...*scenario) {
	t.Helper()
	for _, table := range all[0].tables(t) {
		var want []map[string]any
		have := rowsOf(t, pool, schema, table)
		for _, s := range all {
			want = append(want, s.ignore(table, expectedRows(t, s, table))...)
			have = s.ignore(table, have)
		}
		missing, extra := diff(want, have)
		if len(missing)+len(extra) > 0 {
			t.Errorf("%s: %d rows missing, %d too many\n- %s\n+ %s", table, len(missing), len(extra),
				strings.Join(head(missing), "\n- "), strings.Join(head(extra), "\n+ "))
		}
	}
}

func head(list []string) []string { return list[:min(len(list), 6)] }
