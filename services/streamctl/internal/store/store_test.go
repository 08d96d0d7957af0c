package store

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/pg"
	"sluice/pkg/testkit"
)

// tables are the columns that the checks read.
const tables = `
CREATE SCHEMA {s}; CREATE SCHEMA {own};
CREATE TABLE {s}."like" (uri text, subject text); CREATE TABLE {s}.repost (uri text, subject text);
CREATE TABLE {s}.follow (uri text, creator text, "subjectDid" text);
CREATE TABLE {s}.post (uri text, creator text, "replyParent" text, "violatesThreadGate" boolean);
CREATE TABLE {s}.quote (uri text, subject text);
CREATE TABLE {s}.post_agg (uri text PRIMARY KEY, "likeCount" bigint DEFAULT 0, "replyCount" bigint DEFAULT 0, "repostCount" bigint DEFAULT 0, "quoteCount" bigint DEFAULT 0);
CREATE TABLE {s}.profile_agg (did text PRIMARY KEY, "followersCount" bigint DEFAULT 0, "followsCount" bigint DEFAULT 0, "postsCount" bigint DEFAULT 0);
CREATE TABLE {own}.count_delta (kind smallint, key text, n integer);
CREATE TABLE {own}.recheck (id bigint); CREATE TABLE {own}.handle_check (did text, not_before timestamptz);
INSERT INTO {s}."like" VALUES ('l1', 'p1'), ('l2', 'p1'), ('l3', 'p2');
INSERT INTO {s}.post VALUES ('p1', 'd1', NULL, NULL), ('p2', 'd1', 'p1', false), ('p3', 'd2', 'p1', true);
INSERT INTO {s}.follow VALUES ('f1', 'd1', 'd2');
INSERT INTO {s}.post_agg (uri, "likeCount", "replyCount") VALUES ('p1', 1, 1), ('p2', 5, 0);
INSERT INTO {s}.profile_agg VALUES ('d1', 0, 1, 2), ('d2', 1, 0, 1);
INSERT INTO {own}.count_delta VALUES (1, 'p1', 1);
INSERT INTO {own}.handle_check VALUES ('d1', 'infinity');
`

func open(t *testing.T) *Store {
	t.Helper()
	url, schema := testkit.Postgres(t)
	pool, err := pg.Open(t.Context(), pg.Config{URL: url})
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), strings.NewReplacer("{s}", schema, "{own}", schema+"_sluice").Replace(tables))
	require.NoError(t, err)
	pool.Close()
	s, err := Open(t.Context(), Config{URL: url, Schema: schema})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func TestVerifyCountsSeesAndRepairsDrift(t *testing.T) {
	t.Parallel()
	s := open(t)
	r, err := s.VerifyCounts(t.Context(), false, 10, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Total(), "%+v", r)
	require.Equal(t, []Drift{{Count: "likeCount", Key: "p2", Kept: 5, Real: 1}}, r.Examples, "a pending delta is no drift, a gated reply does not count")
	r, err = s.VerifyCounts(t.Context(), true, 0, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Repaired)
	r, err = s.VerifyCounts(t.Context(), false, 10, nil)
	require.NoError(t, err)
	require.Zero(t, r.Total(), "the correction waits as a delta: %+v", r.Examples)
	require.EqualValues(t, 2, r.Checked["likeCount"])
}

func TestBacklogAndRows(t *testing.T) {
	t.Parallel()
	s := open(t)
	b, err := s.Backlog(t.Context())
	require.NoError(t, err)
	require.Equal(t, Backlog{CountDeltas: 1}, b, "a look-up that is not due does not count")
	rows, err := s.Rows(t.Context(), true)
	require.NoError(t, err)
	require.EqualValues(t, 3, rows["like"])
	require.NotContains(t, rows, "record")
	srv, err := s.Server(t.Context())
	require.NoError(t, err)
	require.Positive(t, srv.Locks)
	require.Less(t, srv.ClockSkew.Abs().Seconds(), 5.0)
}

func TestMissingTablesAreNamed(t *testing.T) {
	t.Parallel()
	url, schema := testkit.Postgres(t)
	s, err := Open(t.Context(), Config{URL: url, Schema: schema})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Backlog(t.Context())
	require.ErrorIs(t, err, ErrNoTables)
	require.ErrorContains(t, err, schema+"_sluice")
}
