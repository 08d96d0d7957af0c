package index_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/index"
)

// slowDeleter deletes when it is let go.
type slowDeleter struct {
	memory
	free chan struct{}
	err  error
}

func (s *slowDeleter) DeleteAccount(ctx context.Context, did, at string) error {
	select {
	case <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.err != nil {
		return s.err
	}
	return s.memory.DeleteAccount(ctx, did, at)
}

// While a large account is deleted everything else goes on; its entry is
// acknowledged when it is gone.
func TestLongDeletionHoldsUpNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(like(t, event.JSON, 1, 1), account(t, 2, 2, false, "deleted"), like(t, event.JSON, 3, 3))
	m := &slowDeleter{free: make(chan struct{})}
	cfg := config()
	cfg.Ordered, cfg.Lanes = true, 1
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	pending := func() int64 {
		st, err := b.client.Stats(t.Context(), stream, group)
		if err != nil || st.Lag != 0 {
			return -1
		}
		return st.Pending
	}
	eventually(t, "the others of the batch are acknowledged", func() bool { return pending() == 1 })
	b.append(like(t, event.JSON, 4, 4))
	eventually(t, "what follows is acknowledged", func() bool { return m.count() == 4 && pending() == 1 })
	require.Empty(t, m.deleted)
	close(m.free)
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, []string{did(2)}, m.deleted)
}

// A stop does not wait longer than the grace time for a deletion; another member
// does it again.
func TestStopDuringALongDeletion(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(account(t, 2, 1, false, "deleted"))
	m := &slowDeleter{free: make(chan struct{})}
	cfg := config()
	cfg.Grace = 1
	stop := start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "begun", func() bool { return m.count() == 1 })
	stop()
	second := config()
	second.Consumer.Consumer = "two"
	well := &memory{}
	start(t, b.events(second, index.Sinks{Apply: well, Sweeps: well, Delete: well}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, []string{did(2)}, well.deleted)
}

func TestFatalDeletionStopsThePipeline(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(account(t, 2, 1, false, "deleted"))
	m := &slowDeleter{free: make(chan struct{}), err: fault.Fatalf("column does not exist")}
	close(m.free)
	p, err := index.Events(b.client, config(), true, index.Sinks{Apply: m, Sweeps: m, Delete: m}, index.NewMetrics(nil), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = p.Run(ctx)
	require.Equal(t, fault.Fatal, fault.ClassOf(err))
}
