package app

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

// TestTopOnce takes one frame of a sluice that is behind.
func TestTopOnce(t *testing.T) {
	t.Parallel()
	s := behindStage(t, testkit.StartPostgres(t, "fsync=on", "synchronous_commit=off").URL)
	out := s.ok("top", "--once", "--every", "500ms")
	for _, want := range []string{"▲ Behind", "because the oldest entry of firehose_live waits for 4m0", "firehose_live", "CLOSED", "indexer-1", "reading", "parked: 12 of firehose_live, bad_record"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "\x1b")
	for line := range strings.SplitSeq(out, "\n") {
		require.LessOrEqual(t, len([]rune(line)), 80, line)
	}
	var v struct {
		Verdict struct{ State string }
		Streams []struct {
			Name   string
			Closed bool `json:"gate_closed"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.ok("top", "--json", "--every", "500ms")), &v))
	require.Len(t, v.Streams, 4)
	require.NotEmpty(t, v.Verdict.State)
	t.Log("\n" + out)
}

func TestTopRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for want, args := range map[string][]string{
		"top needs a terminal: use streamctl top --once": {"top"},
		"--every=1ms: want 100ms or more":                {"top", "--every", "1ms"},
		"--width=10: want 60 to 500":                     {"top", "--once", "--width", "10"},
		"Redis cannot be seen: REDIS_URL=":               {"top", "--once", "--redis-url", "redis://127.0.0.1:1"},
	} {
		code, _, errs := r.run(args...)
		require.Equal(t, 1, code, args)
		require.Contains(t, errs, want)
		require.Equal(t, 1, strings.Count(strings.TrimSpace(errs), "\n")+1, "one line: %s", errs)
	}
}
