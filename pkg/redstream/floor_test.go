package redstream_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFloorIsAnEntry: the floor of a group that has read everything it was
// given is the next entry that exists, and as old as that one, however long
// ago the last one was given to it.
func TestFloorIsAnEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	hour := strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10) + "-5"
	b.must("XADD", b.key("s"), hour, "f", "v")
	b.must("XGROUP", "CREATE", b.key("s"), "never", "0")
	h, err := b.Holder(t.Context(), "s")
	require.NoError(t, err)
	require.Equal(t, hour, h.Floor, "a group at 0 needs the first entry, not the year 1970")
	require.InDelta(t, time.Hour, h.Age, float64(time.Minute))

	b.must("XGROUP", "SETID", b.key("s"), "never", hour)
	h, err = b.Holder(t.Context(), "s")
	require.NoError(t, err)
	require.Zero(t, h.Age, "nothing is outstanding")
	now := b.must("XADD", b.key("s"), "*", "f", "v")
	h, err = b.Holder(t.Context(), "s")
	require.NoError(t, err)
	require.Equal(t, now, h.Floor)
	require.Less(t, h.Age, time.Minute, "an entry that has just come is not as old as the one before it")
}
