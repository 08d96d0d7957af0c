package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// Behind a transaction pooler with fewer connections than the indexer asks
// for, the tables end up the same. Migrations go past it, as documented.
func TestThroughTransactionPooler(t *testing.T) {
	t.Parallel()
	n := history(t)
	calm := newSuite(t)
	calm.send("firehose_live", event.JSON, n.events...)
	calm.wait(calm.start(calm.config("one")))
	want := calm.rows(allTables...)

	s := newSuite(t)
	first := s.start(s.config("migrates"))
	first.stop()
	pooled := testkit.StartPgBouncer(t, s.dbURL, 3)
	cfg := s.config("one")
	cfg.DatabaseURL, cfg.Pooler, cfg.Migrate, cfg.BatchSize = pooled, true, false, 20
	in := s.start(cfg)
	s.send("firehose_live", event.JSON, n.events...)
	s.wait(in)
	letters, err := s.client.Len(t.Context(), "firehose_live_dlq")
	require.NoError(t, err)
	require.Zero(t, letters)
	sameTables(t, want, s.rows(allTables...))
}
