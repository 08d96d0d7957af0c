package store_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/derive"
	"sluice/services/indexer/internal/store"
)

// difference is one thing that is done otherwise than by the published indexer.
// Every difference is named here; a quirk that is not listed is matched.
type difference struct {
	quirk, what string
	// tables that differ from the published rows and are checked by check; all
	// others are as in expected_improved, or else as published.
	tables []string
	check  func(t *testing.T, pool *pgxpool.Pool, schema string, s *scenario)
}

var differences = []difference{
	{quirk: "all-notifications-muted", what: "a record whose notifications are all muted is indexed"},
	{quirk: "empty-images-embed", what: "a post with an empty images embed is indexed"},
	{quirk: "duplicate-reposts-feed-items", what: "only the repost that counts has a feed item"},
	{quirk: "second-promotion", what: "duplicates are promoted any number of times"},
	{quirk: "gate-before-post", what: "flags of gates are set when the post arrives"},
	{quirk: "edited-gated-post", what: "an edit keeps the flags of gates"},
	{quirk: "edited-op-reply", what: "an edit revives the place in the author's thread"},
	{quirk: "edited-quoted-post", what: "an edit keeps the quotes of a post"},
	{quirk: "edited-reposted-post", what: "an edit keeps the reposts of a post in the feeds"},
	{quirk: "quote-count-by-cid", what: "quotes are counted by uri"},
	{quirk: "declaration-update-first", what: "an update of a declaration that was never seen is an insert"},
	{quirk: "create-over-existing", what: "a newer create replaces"},
	{quirk: "reply-before-parent", what: "a reply is judged again when its parent arrives"},
	{quirk: "rev-goes-back", what: "actor_sync moves forward only"},
	{quirk: "stale-update", what: "the highest rev wins"},
	{quirk: "stale-create-after-delete", what: "a delete stops resurrection"},
	{quirk: "replay-repeats-notifications", what: "a repeated delivery changes nothing"},
	{quirk: "profile-created-at-raw", what: "profile.createdAt is normalised"},
	{quirk: "unknown-account-status", what: "an account event without a known status is refused and counted"},
	{
		quirk: "update-into-conflict", what: "a like that is changed into a duplicate is one, its record is the new one",
		tables: []string{"record", "like", "duplicate_record", "notification", "post_agg"}, check: checkConflict,
	},
	{
		quirk: "quote-count-of-deleted-post", what: "quoteCount of a deleted post counts the rows that are left",
		tables: []string{"post_agg"}, check: checkCounts,
	},
	{
		quirk: "post-recreated-under-replies", what: "quoteCount counts the rows that are left",
		tables: []string{"post_agg"}, check: checkCounts,
	},
	{
		quirk: "account-deletion-leftovers", what: "nothing is left of a deleted account, and counts are those of the rows",
		tables: []string{"feed_item", "quote", "starter_pack", "verification", "duplicate_record", "post_agg", "profile_agg", "actor_sync", "op_thread_reply"},
		check:  checkLeftovers,
	},
}

// TestQuirks: every intended difference by its name, and nothing else.
func TestQuirks(t *testing.T) {
	t.Parallel()
	named := map[string]difference{}
	for _, d := range differences {
		named[d.quirk] = d
	}
	quirks := loadAll(t, func(s *scenario) bool { return s.kind == "quirk" })
	st, pool, schema := newStore(t)
	for _, s := range quirks {
		setUp(t, pool, schema, s)
		applyInOrder(t, st, s, 7)
		lookUpHandles(t, st, s)
	}
	settle(t, st)
	for _, s := range quirks {
		t.Run(s.name, func(t *testing.T) {
			d := named[s.name]
			for _, table := range s.tables(t) {
				if strings.Contains(" "+strings.Join(d.tables, " ")+" ", " "+table+" ") {
					continue
				}
				missing, extra := diff(s.ignore(table, expectedRows(t, s, table)), s.ignore(table, s.own(rowsOf(t, pool, schema, table))))
				if len(missing)+len(extra) > 0 {
					t.Errorf("%s: %s\n- %s\n+ %s", d.what, table, strings.Join(missing, "\n- "), strings.Join(extra, "\n+ "))
				}
			}
			if d.check != nil {
				d.check(t, pool, schema, s)
			}
		})
	}
}

var anyDID = regexp.MustCompile(`did:plc:[a-z2-7]{24}`)

// own keeps the rows that belong to a scenario: scenarios share no account.
func (s *scenario) own(rows []map[string]any) []map[string]any {
	dids := map[string]bool{}
	for _, e := range s.events {
		for _, did := range anyDID.FindAllString(e.DID+string(e.Record), -1) {
			dids[did] = true
		}
	}
	var out []map[string]any
	for _, row := range rows {
		for _, did := range anyDID.FindAllString(canonical(row), -1) {
			if dids[did] {
				out = append(out, row)
				break
			}
		}
	}
	return out
}

func count(t *testing.T, pool *pgxpool.Pool, schema, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(context.Background(), strings.ReplaceAll(sql, "{s}", schema), args...).Scan(&n))
	return n
}

func checkConflict(t *testing.T, pool *pgxpool.Pool, schema string, s *scenario) {
	t.Helper()
	last := s.events[len(s.events)-1]
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE uri = $1 AND cid = $2`, last.URI(), last.CID))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.duplicate_record WHERE uri = $1`, last.URI()))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}."like" WHERE uri = $1`, last.URI()))
}

func checkCounts(t *testing.T, pool *pgxpool.Pool, schema string, _ *scenario) {
	t.Helper()
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post_agg a WHERE "quoteCount" <> (SELECT count(*) FROM {s}.quote q WHERE q.subject = a.uri)`))
}

func checkLeftovers(t *testing.T, pool *pgxpool.Pool, schema string, s *scenario) {
	t.Helper()
	did := s.events[len(s.events)-1].DID
	for _, q := range []string{
		`SELECT count(*) FROM {s}.feed_item WHERE "originatorDid" = $1 OR "postUri" LIKE 'at://' || $1 || '/%'`,
		`SELECT count(*) FROM {s}.quote WHERE uri LIKE 'at://' || $1 || '/%'`,
		`SELECT count(*) FROM {s}.starter_pack WHERE creator = $1`,
		`SELECT count(*) FROM {s}.verification WHERE creator = $1`,
		`SELECT count(*) FROM {s}.duplicate_record WHERE uri LIKE 'at://' || $1 || '/%'`,
		`SELECT count(*) FROM {s}.record WHERE did = $1`,
		`SELECT count(*) FROM {s}.actor WHERE did = $1`,
	} {
		require.Zero(t, count(t, pool, schema, q, did), q)
	}
	checkCounts(t, pool, schema, s)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.profile_agg a WHERE "postsCount" <> (SELECT count(*) FROM {s}.post p WHERE p.creator = a.did)
OR "followsCount" <> (SELECT count(*) FROM {s}.follow f WHERE f.creator = a.did)`))
}

// TestRejected: what the published indexer refuses is refused, with a reason,
// and nothing else is.
func TestRejected(t *testing.T) {
	t.Parallel()
	all := loadAll(t, func(s *scenario) bool { return s.kind == "curated" })
	st, _, _ := newStore(t)
	for _, s := range all {
		want := map[string]bool{}
		for _, r := range s.meta.Rejected {
			if r.Step == "record" {
				want[fmt.Sprint(r.Seq, r.URI)] = true
			}
		}
		for i, res := range applyInOrder(t, st, s, 500) {
			e := s.events[i]
			refused := res.Result == store.Rejected
			if touches := e.Type == event.Create || e.Type == event.Update; touches && refused != want[fmt.Sprint(e.Seq, e.URI())] {
				t.Errorf("%s: seq %d %s: rejected %v, want %v: %v", s.name, e.Seq, e.URI(), refused, !refused, res.Err)
			}
			if refused {
				var why *derive.RejectError
				require.ErrorAs(t, res.Err, &why)
			}
		}
	}
	testkit.Shared(t, "fixtures/appview")
}
