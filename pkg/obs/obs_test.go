package obs

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func TestLagOfAStage(t *testing.T) {
	t.Parallel()
	reg := NewRegistry("ingester", "v1")
	l := NewLag(reg, "read", "append")
	n, err := testutil.GatherAndCount(reg, "sluice_event_lag_seconds", "sluice_event_age_seconds", "sluice_event_timestamp_seconds")
	require.NoError(t, err)
	require.Equal(t, 6, n, "all stages are present from the first scrape")
	s := l.Stage("read")
	now := time.Unix(1_800_000_000, 0)
	s.now = func() time.Time { return now }
	s.Observe(now.Add(-3 * time.Second))
	require.InDelta(t, 3, testutil.ToFloat64(s.lag), 1e-9)
	require.InDelta(t, 1_799_999_997, testutil.ToFloat64(s.eventTime), 1e-3)
	require.Equal(t, now.Add(-3*time.Second).UnixNano(), s.Last().UnixNano())
	s.Observe(now.Add(time.Hour))
	require.Zero(t, testutil.ToFloat64(s.lag), "an event from the future is not behind")
	s.Observe(time.Time{})
	require.Equal(t, now.Add(time.Hour).Unix(), s.Last().Unix())
	none := l.Stage("no such stage")
	none.Observe(now)
	require.True(t, none.Last().IsZero())
	problems, err := testutil.GatherAndLint(reg, "sluice_build_info", "sluice_event_lag_seconds", "sluice_event_age_seconds", "sluice_event_timestamp_seconds")
	require.NoError(t, err)
	require.Empty(t, problems)
	NewLag(nil, "x").Stage("x").Observe(now)
}
