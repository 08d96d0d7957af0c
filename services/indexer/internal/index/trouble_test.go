package index_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/index"
	"sluice/services/indexer/internal/store"
)

// While the database is away nothing is parked and nothing lost, however long
// it takes.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	for i := range 50 {
		b.append(like(t, event.JSON, i, int64(i+1)))
	}
	var away atomic.Bool
	away.Store(true)
	var failures atomic.Int64
	m := &memory{fail: func([]store.Change) error {
		if away.Load() {
			failures.Add(1)
			return errors.New("connection refused")
		}
		return nil
	}}
	cfg := config()
	cfg.Attempts = 1
	cfg.Ping = func(context.Context) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "several attempts", func() bool { return failures.Load() > 20 })
	require.Zero(t, m.count())
	away.Store(false)
	eventually(t, "applied", func() bool { return m.count() == 50 && b.finished(stream, group) })
	require.Zero(t, b.deadLetters(stream))
}

// A server that answers but is in trouble of its own, as without a connection
// or a disk to give, is waited for like one that is away: no entry is to blame.
func TestTroubleElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	for i := range 50 {
		b.append(like(t, event.JSON, i, int64(i+1)))
	}
	errFull := errors.New("no connection left")
	var full atomic.Bool
	full.Store(true)
	var failures atomic.Int64
	m := &memory{fail: func([]store.Change) error {
		if full.Load() {
			failures.Add(1)
			return fmt.Errorf("apply: %w", errFull)
		}
		return nil
	}}
	cfg := config()
	cfg.Attempts, cfg.Batch = 1, 10
	cfg.PutBack = 10 * time.Millisecond
	cfg.Elsewhere = func(err error) bool { return errors.Is(err, errFull) }
	metrics := prometheus.NewRegistry()
	p, err := index.Events(b.client, cfg, true, index.Sinks{Apply: m, Sweeps: m, Delete: m}, index.NewMetrics(metrics), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	start(t, p)
	eventually(t, "many attempts", func() bool { return failures.Load() > 5 })
	require.NoError(t, testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP sluice_index_splits_total Batches halved to find the entry at fault.
# TYPE sluice_index_splits_total counter
sluice_index_splits_total{stage="live"} 0
`), "sluice_index_splits_total"))
	full.Store(false)
	eventually(t, "applied", func() bool { return m.count() == 50 && b.finished(stream, group) })
	require.Zero(t, b.deadLetters(stream))
}

// A stop while the database is away hands everything over within the grace time.
func TestStopWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	for i := range 200 {
		b.append(like(t, event.JSON, i, int64(i+1)))
	}
	m := &memory{fail: func([]store.Change) error { return errors.New("connection refused") }}
	cfg := config()
	cfg.Grace, cfg.Batch = 300*time.Millisecond, 20
	cfg.Ping = func(context.Context) error { return errors.New("connection refused") }
	stop := start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "read", func() bool {
		st, err := b.client.Stats(t.Context(), stream, group)
		return err == nil && st.Pending > 0
	})
	begun := time.Now()
	stop()
	require.Less(t, time.Since(begun), 8*time.Second)
	well := &memory{}
	second := config()
	second.Consumer.Consumer = "two"
	start(t, b.events(second, index.Sinks{Apply: well, Sweeps: well, Delete: well}))
	eventually(t, "finished", func() bool { return b.finished(stream, group) })
	require.Equal(t, 200, well.count())
	require.Zero(t, b.deadLetters(stream))
}

func TestFatalErrorStopsThePipeline(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(like(t, event.JSON, 1, 1))
	m := &memory{fail: func([]store.Change) error { return fault.Fatalf("column does not exist") }}
	err := b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m}).Run(t.Context())
	require.Equal(t, fault.Fatal, fault.ClassOf(err))
	require.ErrorContains(t, err, "column does not exist")
}
