package redstream_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func TestRangeNewestAndCursors(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	defer c.Close()
	w, err := c.NewWriter(redstream.WriterConfig{Stream: "s"})
	require.NoError(t, err)
	defer w.Close()
	for _, v := range []string{"a", "b", "c"} {
		require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: v}}}}))
	}
	all, err := c.Range(t.Context(), "s", "-", "+", 10)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, "a", all[0].Fields[0].Value)
	after, err := c.Range(t.Context(), "s", "("+all[0].ID, "+", 1)
	require.NoError(t, err)
	require.Equal(t, []redstream.Entry{all[1]}, after)
	newest, err := c.Newest(t.Context(), "s", 1)
	require.NoError(t, err)
	require.Equal(t, []redstream.Entry{all[2]}, newest)
	_, err = c.Range(t.Context(), "s", "x", "+", 1)
	require.ErrorIs(t, err, redstream.ErrBadID)

	require.NoError(t, c.SetCursor(t.Context(), "s:cursor:relay.example:443", "17"))
	require.NoError(t, c.SetCursor(t.Context(), "s:cursor:other", "18"))
	require.NoError(t, c.SetCursor(t.Context(), "s2:cursor:other", "19"))
	got, err := c.Cursors(t.Context(), "s")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"relay.example:443": "17", "other": "18"}, got)
}
