package app

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit/world"
)

func newReplayRig(t *testing.T) (r *netRig, relay string, first, last int64) {
	t.Helper()
	r = newNetRig(t, world.Options{Seed: 9, Accounts: 12, Records: 300})
	first, last = r.net.World.Seqs()
	require.Greater(t, last-first, int64(100))
	return r, r.net.RelayHost, first, last
}

func TestReplayShowsEvents(t *testing.T) {
	t.Parallel()
	r, relay, first, last := newReplayRig(t)
	out := r.ok("replay", "--relay", relay, "--from", itoa(first), "--to", itoa(first+20))
	require.Contains(t, out, "did:plc:")
	seqs := map[int64]bool{}
	text := r.ok("replay", "--relay", relay, "--from", itoa(first), "--to", itoa(last), "--json")
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		var e struct {
			Type string `json:"type"`
			Seq  int64  `json:"seq"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		seqs[e.Seq] = true
	}
	require.True(t, seqs[first] && seqs[last], "both ends belong to the range")
	code, _, errs := r.run("replay", "--relay", relay, "--from", itoa(last+10), "--to", itoa(last+20), "--quiet", "1s")
	require.Equal(t, 1, code)
	require.NotEmpty(t, errs)
	code, _, errs = r.run("replay", "--relay", relay, "--from", itoa(first), "--to", itoa(last), "--limit", "5")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "go on with --from=")
}

func TestReplayKeepsFrames(t *testing.T) {
	t.Parallel()
	r, relay, first, _ := newReplayRig(t)
	file := filepath.Join(t.TempDir(), "frames.bin")
	args := []string{"replay", "--relay", relay, "--from", itoa(first), "--to", itoa(first + 30), "--out", file}
	r.ok(args...)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	n := first
	for len(raw) > 0 {
		size := binary.LittleEndian.Uint32(raw)
		f, err := atproto.ParseFrame(raw[4 : 4+size])
		require.NoError(t, err)
		require.GreaterOrEqual(t, f.Seq, n)
		n = f.Seq
		raw = raw[4+size:]
	}
	require.Equal(t, first+30, n)
	code, _, errs := r.run(args...)
	require.Equal(t, 1, code, "a file that is there is kept")
	require.Contains(t, errs, "exists")
}

func TestReplayEmitsWhatTheIngesterWould(t *testing.T) {
	t.Parallel()
	r, relay, first, last := newReplayRig(t)
	args := []string{"replay", "--relay", relay, "--from", itoa(first), "--to", itoa(last), "--emit"}
	code, _, errs := r.run(args...)
	require.Equal(t, 1, code, "it asks first")
	require.Contains(t, errs, "not confirmed")
	c := r.client()
	n, err := c.Len(t.Context(), "firehose_live")
	require.NoError(t, err)
	require.Zero(t, n)
	code, out, errs := r.run(append(args, "--yes", "--json")...)
	require.Contains(t, []int{0, 2}, code, errs)
	var got replayReport
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Positive(t, got.Events)
	entries, err := c.Range(t.Context(), "firehose_live", "-", "+", 100_000)
	require.NoError(t, err)
	require.Len(t, entries, int(got.Events))
	types, seq := map[event.Type]int{}, int64(0)
	for _, e := range entries {
		ev, err := event.DecodeEvent(e.Get)
		require.NoError(t, err)
		require.GreaterOrEqual(t, ev.Seq, seq, "in the order of the relay")
		seq = ev.Seq
		types[ev.Type]++
	}
	require.Positive(t, types[event.Create])
	require.Positive(t, types[event.Delete])
	cursors, err := c.Cursors(t.Context(), "firehose_live")
	require.NoError(t, err)
	require.Empty(t, cursors, "no cursor is made or moved")
}

func TestReplayRefusesNonsense(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for args, want := range map[string]string{
		"":                                      "--relay is missing",
		"--relay x":                             "--from=0",
		"--relay x --from 5 --to 4":             "--to not before --from",
		"--relay x --from 1 --to 4 --limit 0":   "--limit=0",
		"--relay x --from 1 --to 4 --quiet 1ms": "--quiet=1ms",
		"--relay x --from 1 --to 4 --emit --out f":   "want one of them",
		"--relay x --from 1 --to 4 --verify most":    "want off, structure or full",
		"--relay ftp://x --from 1 --to 4":            "--relay=ftp://x",
		"--relay x --from 1 --to 4 --out /nowhere/f": "--out",
	} {
		code, _, errs := r.run(append([]string{"replay"}, strings.Fields(args)...)...)
		require.Equal(t, 1, code, args)
		require.Contains(t, errs, want, args)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
}

// What it plays is tested where it is, and run by scripts/incident.sh.
func TestIncidentAsksFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	code, _, errs := r.run("incident", "--entries", "3")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "--entries=3")
	code, _, errs = r.run("incident")
	require.Equal(t, 1, code, "it asks first")
	require.Contains(t, errs, "not confirmed")
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
