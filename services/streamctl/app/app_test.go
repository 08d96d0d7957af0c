package app

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/streamctl/internal/letters"
)

// rig runs command lines against a Redis prefix and a schema of one test.
type rig struct {
	t   *testing.T
	env []string
	in  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	redis, prefix := testkit.Redis(t)
	url, schema := testkit.Postgres(t)
	return &rig{t: t, env: []string{"REDIS_URL=" + redis, "STREAM_KEY_PREFIX=" + prefix, "DATABASE_URL=" + url, "DATABASE_SCHEMA=" + schema}}
}

func (r *rig) run(args ...string) (code int, out, errs string) {
	r.t.Helper()
	var o, e bytes.Buffer
	tl := &tool{version: "v1", environ: r.env, in: strings.NewReader(r.in), out: &o, err: &e}
	code = tl.run(r.t.Context(), args)
	return code, o.String(), e.String()
}

func (r *rig) ok(args ...string) string {
	r.t.Helper()
	code, out, errs := r.run(args...)
	require.Equal(r.t, 0, code, "%v: %s%s", args, out, errs)
	return out
}

func (r *rig) client() *redstream.Client {
	r.t.Helper()
	tl := &tool{environ: r.env, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	require.NoError(r.t, tl.load(tl.root().PersistentFlags()))
	c, err := tl.client(r.t.Context())
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

func (r *rig) add(c *redstream.Client, stream string, values ...string) {
	r.t.Helper()
	w, err := c.NewWriter(redstream.WriterConfig{Stream: stream})
	require.NoError(r.t, err)
	defer w.Close()
	for _, v := range values {
		require.NoError(r.t, w.Append(r.t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: v}}}}))
	}
}

func TestStatusOfAnEmptySluice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out := r.ok("status", "--every", "10ms")
	require.Contains(t, out, "firehose_live")
	require.Contains(t, out, "no consumers")
	for line := range strings.SplitSeq(out, "\n") {
		require.LessOrEqual(t, len([]rune(line)), 80, line)
	}
	var p struct {
		Streams []map[string]any `json:"streams"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.ok("status", "--every=10ms", "--json")), &p))
	require.Len(t, p.Streams, 4)
	require.Equal(t, "firehose_live", p.Streams[0]["name"])
	require.Contains(t, p.Streams[0], "oldest_pending_seconds")
}

func TestEntriesThatNobodyReadsAreFound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	r.add(c, "firehose_live", `{"type":"repo","seq":1,"time":"2026-01-01T00:00:00Z","did":"did:plc:a","commit":"c","rev":"3l"}`, "{bad")
	require.NoError(t, c.EnsureGroup(t.Context(), "firehose_live", "firehose_group"))
	require.NoError(t, c.EnsureGroup(t.Context(), "firehose_live", "stray"))
	code, out, _ := r.run("doctor", "--for", "10ms", "-v")
	require.Equal(t, 2, code)
	require.Contains(t, out, "nobody reads firehose_live for firehose_group; 2 entries wait")
	require.Contains(t, out, "unknown group stray on firehose_live")
	require.Contains(t, out, "redis-cli XGROUP DESTROY firehose_live stray")
	code, out, _ = r.run("doctor", "--for=10ms", "--json")
	require.Equal(t, 2, code)
	require.True(t, json.Valid([]byte(out)))

	out = r.ok("peek", "firehose_live")
	require.Contains(t, out, `"did":"did:plc:a"`)
	require.Contains(t, out, "unreadable")
	out = r.ok("trim", "firehose_live", "--dry-run")
	require.Contains(t, out, "firehose_group")
}

func TestRepairMakesGroupsAndLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	r.add(c, "label_live", "a", "b")
	require.Contains(t, r.ok("repair", "--dry-run"), "make the group")
	st, err := c.Stats(t.Context(), "label_live")
	require.NoError(t, err)
	require.Empty(t, st.Groups, "a dry run does nothing")
	require.Contains(t, r.ok("repair", "--yes"), "make the group")
	require.Contains(t, r.ok("repair"), "nothing to mend")
	n, err := c.Len(t.Context(), "label_live")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}

func TestCursors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.Contains(t, r.ok("cursor", "get"), "no cursors")
	r.in = "n\n"
	code, _, errs := r.run("cursor", "set", "firehose_live", "relay.example", "17")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "nothing was changed")
	r.in = "y\n"
	require.Contains(t, r.ok("cursor", "set", "firehose_live", "relay.example", "17"), "(none) -> 17")
	require.Contains(t, r.ok("cursor", "get"), "relay.example  17")
	code, _, errs = r.run("cursor", "set", "firehose_live", "relay.example", "soon", "-y")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "want a sequence number")
	r.ok("cursor", "rm", "firehose_live", "relay.example", "-y")
	require.Contains(t, r.ok("cursor", "get"), "no cursors")
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	require.Contains(t, r.ok("dlq", "ls"), "no dead letters")
	w, err := c.NewWriter(redstream.WriterConfig{Stream: "firehose_live_dlq"})
	require.NoError(t, err)
	defer w.Close()
	for _, reason := range []string{"bad_record", "bad_record", "database"} {
		fields := []redstream.Field{{Name: "event", Value: "{}"}, {Name: "reason", Value: reason}, {Name: "error", Value: "it broke"}, {Name: "attempts", Value: "1"}, {Name: "first_seen", Value: "2026-01-01T00:00:00Z"}, {Name: "parked_at", Value: "2026-01-01T00:00:00Z"}, {Name: "source_id", Value: "1-1"}}
		require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: fields}}))
	}
	out := r.ok("dlq", "ls")
	require.Contains(t, out, "firehose_live  bad_record        2")
	var list []letters.Letter
	require.NoError(t, json.Unmarshal([]byte(r.ok("dlq", "ls", "firehose_live", "--reason", "database", "--json")), &list))
	require.Len(t, list, 1)
	require.Contains(t, r.ok("dlq", "show", "firehose_live", list[0].ID), "it broke")
	code, _, errs := r.run("dlq", "redrive", "firehose_live")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "say which")
	require.Contains(t, r.ok("dlq", "redrive", "firehose_live", "--reason", "bad_record", "-y"), "redrive: 2")
	n, err := c.Len(t.Context(), "firehose_live")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.Contains(t, r.ok("dlq", "drop", "firehose_live", list[0].ID, "-y"), "drop: 1")
	require.Contains(t, r.ok("dlq", "ls"), "no dead letters")
}

func TestBackfillJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok("backfill", "add", "did:plc:abc", "did:web:example.com")
	require.Contains(t, r.ok("peek", "repo_backfill"), `"reason":"manual"`)
	code, _, errs := r.run("backfill", "add", "alice")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `"alice" is neither a DID nor a handle`)
	r.ok("backfill", "pause")
	require.Contains(t, r.ok("backfill", "status", "--for", "0"), "PAUSED")
	r.ok("backfill", "resume")
	require.NotContains(t, r.ok("backfill", "status", "--hosts", "--for", "10ms"), "PAUSED")
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for want, args := range map[string][]string{
		`unknown stream "firehose"`:             {"peek", "firehose"},
		`unknown command "statu"`:               {"statu"},
		"unknown flag: --watsch":                {"status", "--watsch"},
		"--count=0: want 1 to 10000":            {"peek", "firehose_live", "-n", "0"},
		"malformed stream id":                   {"dlq", "show", "firehose_live", "x"},
		"want a DID":                            {"why", "alice"},
		"there are no tables of the indexer":    {"verify", "counts"},
		"REDIS_URL=redis://u:xxxxx@127.0.0.1:1": {"status", "--redis-url", "redis://u:pw@127.0.0.1:1"},
		"INGESTER_HIGH_WATER_MARK=many":         {"status", "--ingester-high-water-mark", "many"},
	} {
		code, _, errs := r.run(args...)
		if want == "INGESTER_HIGH_WATER_MARK=many" {
			want = "--ingester-high-water-mark=many: want a whole number"
		}
		require.Equal(t, 1, code, args)
		require.Contains(t, errs, want)
		require.NotContains(t, errs, "pw@")
	}
}

func TestHelpAndCompletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out := r.ok("--help")
	for _, name := range []string{"status", "doctor", "trim", "dlq", "cursor", "peek", "why", "verify", "backfill", "repair", "completion"} {
		require.Contains(t, out, "  "+name)
	}
	require.Contains(t, r.ok("completion", "bash"), "streamctl")
	require.Contains(t, r.ok("--version"), "v1")
	require.Contains(t, r.ok("config"), "database_schema: t")
	require.Contains(t, r.ok("config", "names"), "REDIS_URL\n")
}
