package status

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPace(t *testing.T) {
	t.Parallel()
	before := &Backfill{Jobs: 500, Totals: map[string]int64{"repos": 10, "records": 1000, "bytes": 5000}}
	after := &Backfill{Jobs: 380, Delayed: 20, Totals: map[string]int64{"repos": 90, "records": 9000, "bytes": 45_000, "gone": 20}}
	require.Equal(t, Pace{Repos: 8, Records: 800, Bytes: 4000, Remaining: 40}, after.PaceSince(before, 10*time.Second))
	require.Equal(t, Pace{Remaining: -1}, after.PaceSince(after, 10*time.Second), "at rest")
	done := &Backfill{Totals: map[string]int64{}}
	require.Equal(t, Pace{}, done.PaceSince(before, time.Second), "the totals were deleted")
}
