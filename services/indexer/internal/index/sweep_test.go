package index_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"sluice/pkg/fault"
	"sluice/services/indexer/internal/index"
	"sluice/services/indexer/internal/store"
)

// sweepList is a list of sweeps in memory; fail decides about each one.
type sweepList struct {
	list  []store.Sweep
	tried map[string]int
	fail  func(did string) error
}

func (l *sweepList) DueSweeps(_ context.Context, _, _ string, limit int) ([]store.Sweep, int, error) {
	return append([]store.Sweep(nil), l.list[:min(limit, len(l.list))]...), len(l.list), nil
}

func (l *sweepList) SweepSnapshot(_ context.Context, did, _ string) error {
	l.tried[did]++
	return l.fail(did)
}

func (l *sweepList) EndSweep(_ context.Context, w store.Sweep) error {
	for i, e := range l.list {
		if e == w {
			l.list = append(l.list[:i:i], l.list[i+1:]...)
			return nil
		}
	}
	return errors.New("not on the list")
}

func (*sweepList) Floor(context.Context, string) (string, string, error) { return "9-0", "", nil }

func newSweepList(n int, fail func(string) error) *sweepList {
	l := &sweepList{tried: map[string]int{}, fail: fail}
	for i := range n {
		l.list = append(l.list, store.Sweep{DID: did(i), Stream: "firehose_backfill", ID: fmt.Sprintf("%d-0", i)})
	}
	return l
}

func sweeper(l *sweepList, reg prometheus.Registerer) *index.Sweeper {
	return index.NewSweeper([]string{"firehose_backfill"}, time.Millisecond, l, l, index.NewMetrics(reg), slog.New(slog.DiscardHandler))
}

// One repository that cannot be swept is put off; the others are swept.
func TestSweepThatFailsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	l := newSweepList(450, func(who string) error {
		if who == did(0) {
			return errors.New("statement timeout")
		}
		return nil
	})
	reg := prometheus.NewRegistry()
	s := sweeper(l, reg)
	_, err := s.Round(t.Context())
	require.ErrorContains(t, err, "statement timeout")
	for range 3 {
		_, err := s.Round(t.Context())
		require.NoError(t, err)
	}
	require.Len(t, l.list, 1)
	require.Equal(t, 1, l.tried[did(0)], "it waits for its time")
	n, err := testutil.GatherAndCount(reg, "sluice_index_sweeps_waiting")
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// While the database is away a round gives up soon, and a Fatal error at once.
func TestSweepRoundEndsWithTheDatabase(t *testing.T) {
	t.Parallel()
	l := newSweepList(50, func(string) error { return errors.New("connection refused") })
	_, err := sweeper(l, nil).Round(t.Context())
	require.ErrorContains(t, err, "connection refused")
	require.Len(t, l.tried, 3)
	l = newSweepList(50, func(string) error { return fault.Fatalf("no such column") })
	_, err = sweeper(l, nil).Round(t.Context())
	require.Equal(t, fault.Fatal, fault.ClassOf(err))
	require.Len(t, l.tried, 1)
}
