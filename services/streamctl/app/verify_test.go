package app

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/pg"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/world"
)

// auditTables are what verify repo reads.
const auditTables = `
CREATE SCHEMA {s}; CREATE SCHEMA {own};
CREATE TABLE {s}.record (uri text PRIMARY KEY, cid text, did text, rev text);
CREATE TABLE {s}.actor (did text, handle text, "upstreamStatus" text, "takedownRef" text, "indexedAt" text);
CREATE TABLE {s}.actor_sync (did text, "repoRev" text);
CREATE TABLE {own}.account (did text, deleted_rev text); CREATE TABLE {own}.tombstone (uri text, rev text);
`

type auditRig struct {
	*netRig

	// sql runs a statement; {s} and {own} are the schemas.
	sql func(q string, args ...any)
}

func newAuditRig(t *testing.T) *auditRig {
	t.Helper()
	r := newNetRig(t, world.Options{Seed: 3, Accounts: 8, Records: 400, NoAccountEvents: true})
	url, schema := testkit.Postgres(t)
	pool, err := pg.Open(t.Context(), pg.Config{URL: url})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	r.env = append(r.env, "DATABASE_URL="+url, "DATABASE_SCHEMA="+schema)
	names := strings.NewReplacer("{s}", schema, "{own}", schema+"_sluice")
	a := &auditRig{r, func(q string, args ...any) {
		t.Helper()
		_, err := pool.Exec(t.Context(), names.Replace(q), args...)
		require.NoError(t, err)
	}}
	a.sql(auditTables)
	return a
}

func (r *auditRig) audit(want int, args ...string) (out repoReport) {
	r.t.Helper()
	code, text, errs := r.run(append([]string{"verify", "repo", "--json", "--examples=1000"}, args...)...)
	require.Equal(r.t, want, code, "%s%s", text, errs)
	require.NoError(r.t, json.Unmarshal([]byte(text), &out))
	return out
}

func TestVerifyRepo(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	did := r.net.Truth().Accounts[0].DID
	first := r.audit(2, did)
	require.Positive(t, first.Missing)
	require.Equal(t, first.Records, first.Missing+first.Other+first.Refused)
	require.Len(t, first.Examples, int(first.Missing))
	for i, d := range first.Examples {
		require.Equal(t, "missing", string(d.Kind))
		rev := first.Rev + "~"
		if i%2 == 0 {
			rev = ""
		}
		r.sql(`INSERT INTO {s}.record VALUES ($1, $2, $3, $4)`, d.URI, d.Theirs, did, rev)
	}
	r.sql(`INSERT INTO {s}.record VALUES ('at://did:plc:other/app.bsky.feed.post/x', 'c', 'did:plc:other', '')`)
	whole := r.audit(0, did, "--repair")
	require.Equal(t, first.Missing, whole.Same)
	require.False(t, whole.Repair, "nothing to repair")
	require.Empty(t, r.jobs())

	// Each kind of difference, at the start, in the middle and at the end.
	uris := first.Examples
	n := len(uris)
	r.sql(`DELETE FROM {s}.record WHERE uri = ANY($1)`, []string{uris[0].URI, uris[n/2].URI, uris[n-1].URI})
	r.sql(`UPDATE {s}.record SET cid = 'other', rev = $2 WHERE uri = $1`, uris[1].URI, first.Rev+"|")
	for _, extra := range []string{"app.aaa/x", "app.bsky.feed.post/zzz", "zz.zz/x"} {
		r.sql(`INSERT INTO {s}.record VALUES ($1, 'c', $2, $3)`, "at://"+did+"/"+extra, did, "2222222222222")
	}
	// What is newer than the repository is no difference.
	r.sql(`INSERT INTO {s}.record VALUES ($1, 'c', $2, 'zzzzzzzzzzzzz')`, "at://"+did+"/app.bsky.feed.post/new", did)
	r.sql(`INSERT INTO {own}.tombstone VALUES ($1, 'zzzzzzzzzzzzz')`, uris[n/2].URI)
	r.sql(`UPDATE {s}.record SET cid = 'new', rev = 'zzzzzzzzzzzzz' WHERE uri = $1`, uris[2].URI)
	got := r.audit(2, did)
	require.Equal(t, []int64{2, 3, 1, 3}, []int64{got.Missing, got.Extra, got.Different, got.Newer})
	require.Equal(t, first.Missing-5, got.Same)
	code, out, _ := r.run("verify", "repo", did, "--examples=2")
	require.Equal(t, 2, code)
	require.Contains(t, out, "and 4 more")
	require.Contains(t, out, "behind the repository")
	for line := range strings.SplitSeq(out, "\n") {
		require.True(t, len(line) <= 80 || strings.Contains(line, "did:"), line)
	}
	require.True(t, r.audit(0, did, "--repair").Repair)
	require.Equal(t, map[string]int{did: 1}, dids(r.jobs()))
}

func TestVerifyRepoSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	for name, want := range map[string]string{
		"nonsense":                         "nonsense",
		"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa",
	} {
		code, _, errs := r.run("verify", "repo", name)
		require.Equal(t, 1, code, name)
		require.Contains(t, errs, want)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	guarded := *r.rig
	guarded.env = append(slices.Clip(guarded.env), "ALLOW_PRIVATE_NETWORK=")
	code, _, errs := guarded.run("verify", "repo", r.net.Truth().Accounts[0].DID)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "127.0.0.1", "an address of the network may not be ours")
}
