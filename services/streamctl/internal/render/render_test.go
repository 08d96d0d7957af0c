package render

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	t.Parallel()
	table := NewTable("NAME", ">N", "")
	table.Row("a", "1,000", "x")
	table.Row("längst", "5")
	var b strings.Builder
	require.NoError(t, table.Write(&b))
	require.Equal(t, "NAME        N\na       1,000  x\nlängst      5\n", b.String())
}

func TestShortForms(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1,234,567": Count(1234567), "?": Count(-1), "999": Count(999), "-": Age(0), "5ms": Age(5 * time.Millisecond),
		"59.0s": Age(59 * time.Second), "2m05s": Age(125 * time.Second), "3h00m": Age(3 * time.Hour), "2d02h": Age(50 * time.Hour),
		"1.5 KiB": Bytes(1536), "12 B": Bytes(12), "0.5/s": Rate(0.5), "1,200/s": Rate(1200), "ab…": Clip("abcdef", 3),
	} {
		require.Equal(t, want, got)
	}
}
