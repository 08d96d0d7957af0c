package app

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/config"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func load(t *testing.T, environ ...string) (Config, error) {
	t.Helper()
	var c Config
	l := config.Loader{Service: "indexer", Environ: environ}
	err := l.Load(nil, &c)
	return c, err
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(t)
	require.NoError(t, err)
	require.Equal(t, []string{"firehose_live", "firehose_backfill"}, c.Streams)
	require.Equal(t, "all", c.Mode)
	require.Equal(t, "firehose_group", c.Group)
	require.Equal(t, 16, c.Concurrency)
	require.Equal(t, 500, c.BatchSize)
	require.Equal(t, 20, c.PoolMax)
	require.True(t, c.ResolveDIDs)
	require.False(t, c.DebugWait)
	name, err := c.consumer()
	require.NoError(t, err)
	require.NotEmpty(t, name)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]string{
		"INDEXER_STREAMS=,":                           "INDEXER_STREAMS",
		"INDEXER_STREAMS=firehose_live,label_live":    "INDEXER_LABEL_STREAM",
		"DB_POOL_MIN_IDLE=21":                         "DB_POOL_MIN_IDLE",
		"INDEXER_STREAMS=firehose_live,firehose_live": "INDEXER_STREAMS",
	} {
		_, err := load(t, env)
		require.ErrorContains(t, err, want, env)
	}
	_, err := load(t, "INDEXER_STREAMS=,", "INDEXER_MODE=label")
	require.NoError(t, err)
}

// Every lane has a connection, and the workers have theirs.
func TestLanesFitThePool(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		concurrency, pool int
		streams           []string
		want              map[string]int
	}{
		{16, 20, []string{"firehose_live", "firehose_backfill"}, map[string]int{"firehose_live": 8, "firehose_backfill": 8}},
		{16, 9, []string{"firehose_live", "firehose_backfill"}, map[string]int{"firehose_live": 3, "firehose_backfill": 2}},
		{1, 20, []string{"a", "b"}, map[string]int{"a": 1, "b": 1}},
		{5, 20, []string{"a"}, map[string]int{"a": 5}},
	} {
		require.Equal(t, c.want, lanes(Config{Concurrency: c.concurrency, PoolMax: c.pool, Streams: c.streams}))
	}
}

func TestBatchFitsTheLockTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ capacity, replicas, want int }{
		{512 * 300, 1, 500}, {64 * 100, 1, 66}, {64 * 100, 2, 33}, {64 * 100, 100, minBatch},
	} {
		a := &App{log: slog.New(slog.DiscardHandler), cfg: Config{
			Concurrency: 16, PoolMax: 20, BatchSize: 500, Replicas: c.replicas, Streams: []string{"firehose_live", "firehose_backfill"},
		}}
		a.fitBatch(t.Context(), c.capacity, 0)
		require.Equal(t, c.want, a.cfg.BatchSize, "%+v", c)
	}
}

// Members that are at work count, though nobody said that there are so many.
func TestBatchFitsWithTheOthersAtWork(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	a := &App{log: slog.New(slog.DiscardHandler), cfg: Config{
		RedisURL: url, KeyPrefix: prefix, Group: "g", Consumer: "c0", Mode: "stream", Streams: []string{"firehose_live", "firehose_backfill"},
		Concurrency: 16, PoolMax: 20, BatchSize: 500, Replicas: 1,
	}}
	var err error
	a.redis, err = redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(a.redis.Close)
	for _, name := range []string{"c0", "c1", "c2"} { // c0: this member, before its restart
		c, err := a.redis.NewConsumer(redstream.ConsumerConfig{Group: "g", Consumer: name, Streams: a.cfg.Streams})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- c.Run(ctx, func(_ context.Context, batch []redstream.Delivery) error {
				c.Ack(batch...)
				return nil
			})
		}()
		t.Cleanup(func() {
			stop()
			require.NoError(t, <-ended)
			require.NoError(t, c.Close(context.Background()))
		})
	}
	require.Eventually(t, func() bool { return a.others(t.Context(), "c0") == 2 }, 60*time.Second, 10*time.Millisecond)
	a.fitBatch(t.Context(), 64*100, a.others(t.Context(), "c0"))
	require.Equal(t, 22, a.cfg.BatchSize)
}

func TestArgs(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"indexer", "migrate", "--indexer-migrate-check"}, Args([]string{"indexer", "migrate", "--check"}))
	require.Equal(t, []string{"indexer", "--check"}, Args([]string{"indexer", "--check"}))
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		floor, id string
		want      bool
	}{
		{"5-1", "5-0", true}, {"5-0", "5-0", false}, {"10-0", "9-7", true}, {"", "1-0", false}, {"6-0", "5", true},
	} {
		got, err := above(c.floor, c.id)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%+v", c)
	}
	_, err := above("1-0", "soon")
	require.Error(t, err)
}
