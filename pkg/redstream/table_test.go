package redstream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

func TestTableKeepsAndForgetsWithinItsBound(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	table := c.NewTable("s", ":t", 8192*16)

	var names, values []string
	for i := range 1200 {
		names, values = append(names, fmt.Sprint("did:plc:", i)), append(values, fmt.Sprint("rev\x00\xff", i))
	}
	require.NoError(t, table.Put(t.Context(), names, values))
	got, err := table.Get(t.Context(), names)
	require.NoError(t, err)
	require.Equal(t, values, got)
	got, err = table.Get(t.Context(), []string{"nobody"})
	require.NoError(t, err)
	require.Equal(t, []string{""}, got)
	require.NoError(t, table.Delete(t.Context(), names[:1]))
	got, err = table.Get(t.Context(), names[:2])
	require.NoError(t, err)
	require.Equal(t, []string{"", values[1]}, got)

	table = c.NewTable("s", ":small", 8192*2)
	names, values = nil, nil
	for i := range 100_000 {
		names, values = append(names, fmt.Sprint("x", i)), append(values, "v")
	}
	require.NoError(t, table.Put(t.Context(), names, values))
	got, err = table.Get(t.Context(), names)
	require.NoError(t, err)
	kept := 0
	for _, v := range got {
		if v != "" {
			kept++
		}
	}
	require.LessOrEqual(t, kept, 8192*2)
	require.Greater(t, kept, 8192)
	last, err := table.Get(t.Context(), names[len(names)-1:])
	require.NoError(t, err)
	require.Equal(t, []string{"v"}, last, "what was stored last is there")
}

func TestCacheForgetsWhatIsOld(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	cache := c.NewCache("identity", 100_000)
	require.NoError(t, cache.Set(t.Context(), "a", []byte("one two"), time.Hour))
	require.NoError(t, cache.Set(t.Context(), "b", []byte("x"), -time.Hour))
	got, found, err := cache.Get(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "one two", string(got))
	for _, name := range []string{"b", "c"} {
		_, found, err = cache.Get(t.Context(), name)
		require.NoError(t, err)
		require.False(t, found)
	}
}

func TestAppendNotingIsOneStep(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	w, err := c.NewWriter(redstream.WriterConfig{Stream: "s"})
	require.NoError(t, err)
	t.Cleanup(w.Close)
	table := c.NewTable("s", ":state", 100_000)
	var items []redstream.Item
	for i := range 2500 { // more than one call carries
		items = append(items, redstream.Item{Seq: int64(i / 3), Fields: []redstream.Field{{Name: "event", Value: fmt.Sprint(i)}}})
	}
	names, values := []string{"did:a", "did:b"}, []string{"1", "2\x00"}
	added, err := w.AppendSeqNoting(t.Context(), "s:cursor:h", items, 900, table, names, values)
	require.NoError(t, err)
	require.Equal(t, 2500, added)
	added, err = w.AppendSeqNoting(t.Context(), "s:cursor:h", items, 900, table, names, values)
	require.NoError(t, err)
	require.Zero(t, added, "a repeat adds nothing")
	added, err = w.AppendSeqNoting(t.Context(), "s:cursor:h", nil, 901, table, names[:1], []string{"3"})
	require.NoError(t, err)
	require.Zero(t, added)
	got, err := table.Get(t.Context(), names)
	require.NoError(t, err)
	require.Equal(t, []string{"3", "2\x00"}, got)
	_, err = w.AppendSeqNoting(t.Context(), "s:cursor:i", nil, 7, table, names, []string{"2", "2\x01"})
	require.NoError(t, err)
	got, err = table.Get(t.Context(), names)
	require.NoError(t, err)
	require.Equal(t, []string{"3", "2\x01"}, got, "another writer that is behind leaves the higher value")
	n, err := c.Len(t.Context(), "s")
	require.NoError(t, err)
	require.EqualValues(t, 2500, n)
	cursor, _, err := c.Cursor(t.Context(), "s:cursor:h")
	require.NoError(t, err)
	require.Equal(t, "901", cursor)
	require.NoError(t, c.SetCursor(t.Context(), "s:cursor:h", "5"))
	_, err = w.AppendSeqNoting(t.Context(), "s:cursor:h", nil, 902, table, names[:1], []string{"4"})
	require.ErrorIs(t, err, redstream.ErrCursorMoved)
	got, err = table.Get(t.Context(), names[:1])
	require.NoError(t, err)
	require.Equal(t, []string{"3"}, got, "nothing is noted when nothing is appended")
}
