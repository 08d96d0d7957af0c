package redstream

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

func TestRegisterCountsByFirstByte(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := Open(t.Context(), Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	r := c.NewRegister("jobs", ":state", 7)
	for i := range 50 {
		name := fmt.Sprintf("n%d", i)
		for _, v := range []string{"a", "a", "w why", "a", "d3lqjiw43pui3a"} { // repeats change no count
			require.NoError(t, r.Set(t.Context(), name, v))
		}
	}
	require.NoError(t, r.Set(t.Context(), "n7", "g"))
	require.Error(t, r.Set(t.Context(), "n7", ""))
	counts, err := r.Counts(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"a": 0, "w": 0, "d": 49, "g": 1}, counts)

	got, err := r.Get(t.Context(), "n7", "absent", "n8")
	require.NoError(t, err)
	require.Equal(t, []string{"g", "", "d3lqjiw43pui3a"}, got)

	seen := map[string]string{}
	require.NoError(t, r.Scan(t.Context(), func(name, value string) error {
		seen[name] = value
		return nil
	}))
	require.Len(t, seen, 50)
	require.Equal(t, "g", seen["n7"])
}

func TestTotalsAndFlags(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := Open(t.Context(), Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	by := map[string]int64{}
	for i := range 2500 { // more than one step
		by[fmt.Sprint(i)] = int64(i)
	}
	require.NoError(t, c.AddTotals(t.Context(), "jobs", ":totals", by))
	require.NoError(t, c.AddTotals(t.Context(), "jobs", ":totals", map[string]int64{"3": -1}))
	got, err := c.Totals(t.Context(), "jobs", ":totals")
	require.NoError(t, err)
	by["3"] = 2
	require.Equal(t, by, got)

	for _, on := range []bool{true, false} {
		require.NoError(t, c.SetFlag(t.Context(), "jobs", ":paused", on))
		set, err := c.Flag(t.Context(), "jobs", ":paused")
		require.NoError(t, err)
		require.Equal(t, on, set)
	}
}
