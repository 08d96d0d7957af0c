package render

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

func TestTablesFitATerminal(t *testing.T) {
	t.Parallel()
	table := NewTable("STREAM", ">TRIMMED", "FLOOR", "HELD BY", ">FOR")
	table.Row("firehose_backfill", "1,234,567", "1767225600000-12345", "firehose_group/0123456789ab-indexer-of-somebody", "12m30s")
	table.Row("firehose_live", "7", "1767225600000-1", "firehose_group", "1.2s")
	var b strings.Builder
	require.NoError(t, table.Write(&b))
	for line := range strings.SplitSeq(b.String(), "\n") {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 80, line)
	}
	require.Contains(t, b.String(), "1,234,567")
	require.Contains(t, b.String(), "…")
	require.Contains(t, b.String(), "firehose_group ", "what is short stays whole")
}
