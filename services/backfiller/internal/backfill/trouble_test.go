package backfill

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// Trouble of our own, however long it lasts, makes no job look like poison.
func TestBackfillOwnTroubleChargesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.w.newHost(t)
	a := r.w.add(t, h, 3000)
	dir := filepath.Join(t.TempDir(), "volume")
	x := r.start(func(c *Config) {
		c.TempDir, c.MemoryLimit, c.Retry.Max, c.TroubleWait = dir, 1, 0, 10*time.Millisecond
	})
	r.enumerate(a)
	eventually(t, 30*time.Second, "many attempts in vain", func() bool {
		return h.requests(a.did) > 2*maxDeliveries || len(r.dead()) > 0
	})
	require.Empty(t, r.dead())
	require.NoError(t, os.Mkdir(dir, 0o700))
	r.drained(20 * time.Second)
	r.complete(a)
	require.Empty(t, r.dead())
	require.Zero(t, x.metric("backfiller_repos_failed_total"))
}

// What no retry can help stops the process also while no job is there that
// could start.
func TestBackfillFatalStopsWhileNothingIsReady(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fetched := make(chan struct{})
	h := r.w.newHost(t, func(_ httpWriter, req *httpRequest, _ *testHost, _ *account) bool {
		select {
		case <-fetched:
		case <-req.Context().Done():
		}
		return false
	})
	a := r.w.add(t, h, 10)
	b, err := New(testConfig(), Deps{Redis: r.open(nil), Directory: r.w.directory(t), HTTP: testHTTP(t), Log: quiet()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, redstream.ErrWrongType) {
			t.Errorf("run: %v", err)
		}
	}()
	r.enumerate(a)
	eventually(t, 10*time.Second, "in flight", func() bool { return h.requests(a.did) == 1 })
	c, err := testkit.RedisClient(r.url)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Do(ctx, c.B().Set().Key(r.prefix+"firehose_backfill").Value("no stream").Build()).Error())
	close(fetched)
	select {
	case err = <-done:
		done <- err
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	require.ErrorIs(t, err, redstream.ErrWrongType)
	require.False(t, r.idle(), "the job is still there")
}

// The dead letters may have a name of their own.
func TestBackfillCountsItsDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	x := r.start(func(c *Config) { c.DeadLetters = "graveyard" })
	r.raw("repo", "{")
	q := r.redis.DeadLetters("repo_backfill", "graveyard")
	eventually(t, 10*time.Second, "dead letter", func() bool {
		n, err := q.Len(t.Context())
		return err == nil && n == 1
	})
	require.NoError(t, x.monitor.Round(t.Context()))
	require.Equal(t, int64(1), x.monitor.Stats("repo_backfill").DeadLetters)
}
