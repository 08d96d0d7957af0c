package backfill

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
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

// What Redis refuses for good of one job is no attempt at it: the job waits,
// uncharged, until it can be settled.
func TestBackfillUnsettledJobIsNotPoison(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	x := r.start(func(c *Config) { c.TroubleWait = 5 * time.Millisecond })
	s := &settler{cfg: x.settle.cfg, wait: 5 * time.Millisecond, doubt: x.doubt, states: x.states, tally: newTally(), m: x.m, log: quiet()}
	c, err := r.redis.NewConsumer(redstream.ConsumerConfig{
		Group: "g", Consumer: "c", Streams: []string{"other"}, Block: 10 * time.Millisecond, ClaimIdle: time.Hour, MaxDeliveries: maxDeliveries,
	})
	require.NoError(t, err)
	w, err := r.redis.NewWriter(redstream.WriterConfig{Stream: "other"})
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: "repo", Value: "{}"}}}}))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	tries := 0
	err = c.Run(ctx, func(_ context.Context, batch []redstream.Delivery) error {
		for _, d := range batch {
			tk := &task{from: &reader{consumer: c}, delivery: d, job: &event.RepoJob{DID: "did:plc:x"}}
			tries++
			if s.persist(ctx, tk, "test", func(context.Context) error {
				if tries <= 2*maxDeliveries {
					return fault.Permanentf("refused")
				}
				return nil
			}) {
				c.Ack(d)
				cancel()
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	require.Equal(t, 2*maxDeliveries+1, tries)
	n, err := r.redis.DeadLetters("other", "").Len(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}

// A ledger that is no ledger stops the process: its own state is in doubt.
func TestBackfillFatalWhileSettling(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.w.add(t, r.w.newHost(t), 10)
	b, err := New(testConfig(), Deps{Redis: r.open(nil), Directory: r.w.directory(t), HTTP: testHTTP(t), Log: quiet()})
	require.NoError(t, err)
	c, err := testkit.RedisClient(r.url)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Do(t.Context(), c.B().Set().Key(r.prefix+"repo_backfill:state:counts").Value("no hash").Build()).Error())
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context()) }()
	r.enumerate(a)
	select {
	case err = <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
	require.ErrorIs(t, err, redstream.ErrWrongType)
	require.False(t, r.idle(), "the job is still there")
}
