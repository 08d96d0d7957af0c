package index_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/index"
)

// While a server cannot be reached, its accounts are asked about more often than
// an entry may be delivered, and nothing is parked for that.
func TestUnreachableServerParksNothingSoon(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(account(t, 1, 1, false, "takendown"), account(t, 2, 2, false, "deleted"))
	a := &answers{calls: map[string]int{}, say: func(_ string, call int) (bool, error) {
		if call <= 8 {
			return false, errors.New("connection refused")
		}
		return true, nil
	}}
	m := &memory{}
	cfg := config()
	cfg.CheckAgain = time.Millisecond
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m, Accounts: a}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Zero(t, b.deadLetters(stream))
	require.Equal(t, map[string][]int64{did(1): {1}, did(2): {2}}, m.seqs())
	require.Equal(t, map[string]int{did(1): 9, did(2): 9}, a.calls)
}

// After a long time without an answer what can be taken back is applied, and
// what cannot is parked.
func TestUnreachableServerIsDecidedWithout(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(account(t, 1, 1, false, "takendown"), account(t, 2, 2, false, "deleted"))
	a := &answers{calls: map[string]int{}, say: func(string, int) (bool, error) { return false, errors.New("connection refused") }}
	m := &memory{}
	cfg := config()
	cfg.CheckAgain, cfg.CheckLimit = 5*time.Millisecond, 200*time.Millisecond
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m, Accounts: a}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, map[string][]int64{did(1): {1}}, m.seqs())
	require.Empty(t, m.deleted)
	list, err := b.client.DeadLetters(stream, "").List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, string(index.ReasonUnreachable), list[0].Reason)
}

// stuck answers nothing until it is let go.
type stuck struct {
	asked atomic.Int64
	free  chan struct{}
}

func (s *stuck) Confirm(ctx context.Context, _, _ string) (bool, error) {
	s.asked.Add(1)
	select {
	case <-s.free:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// A burst of account events, more than there is room for, parks nothing and
// does not hold up others.
func TestBurstOfAccountEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	const burst = 350
	fields := make([]redstream.Field, 0, burst+1)
	for i := range burst {
		fields = append(fields, account(t, i, int64(i+1), false, "takendown"))
	}
	b.append(append(fields, like(t, "json", 999, burst+1))...)
	a := &stuck{free: make(chan struct{})}
	m := &memory{}
	cfg := config()
	cfg.CheckAgain = 5 * time.Millisecond
	cfg.Consumer.Window = 1000
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m, Accounts: a}))
	eventually(t, "the other is applied", func() bool { return len(m.seqs()[did(999)]) == 1 })
	begun := time.Now()
	eventually(t, "put off often", func() bool { return time.Since(begun) > 300*time.Millisecond && a.asked.Load() >= 8 })
	close(a.free)
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Zero(t, b.deadLetters(stream))
	require.Equal(t, burst+1, m.count())
}
