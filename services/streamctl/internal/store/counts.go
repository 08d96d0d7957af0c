package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// counter is one column of an aggregate and the rows that it counts.
type counter struct {
	kind   int // of count_delta
	table  string
	key    string
	column string
	source string // SELECT key, n over the rows
}

// counters are the counts that the indexer keeps.
var counters = []counter{
	{1, "post_agg", "uri", "likeCount", `SELECT subject, count(*) FROM {s}."like" GROUP BY subject`},
	{2, "post_agg", "uri", "replyCount", `SELECT "replyParent", count(*) FROM {s}.post WHERE "replyParent" IS NOT NULL AND ("violatesThreadGate" IS NULL OR "violatesThreadGate" = false) GROUP BY "replyParent"`},
	{3, "post_agg", "uri", "repostCount", `SELECT subject, count(*) FROM {s}.repost GROUP BY subject`},
	{4, "post_agg", "uri", "quoteCount", `SELECT subject, count(*) FROM {s}.quote GROUP BY subject`},
	{5, "profile_agg", "did", "followersCount", `SELECT "subjectDid", count(*) FROM {s}.follow GROUP BY "subjectDid"`},
	{6, "profile_agg", "did", "followsCount", `SELECT creator, count(*) FROM {s}.follow GROUP BY creator`},
	{7, "profile_agg", "did", "postsCount", `SELECT creator, count(*) FROM {s}.post GROUP BY creator`},
}

// Drift is one count that differs from the rows it counts.
type Drift struct {
	Count string `json:"count"` // "likeCount"
	Key   string `json:"key"`
	// Kept is the aggregate with its pending deltas, Real the number of rows.
	Kept int64 `json:"kept"`
	Real int64 `json:"real"`
}

// CountReport is what VerifyCounts found.
type CountReport struct {
	// Checked is the number of keys compared, Drifted those that differ, by count.
	Checked map[string]int64 `json:"checked"`
	Drifted map[string]int64 `json:"drifted"`
	// Examples are the first of them.
	Examples []Drift `json:"examples,omitempty"`
	// Repaired is the number of corrections written.
	Repaired int64 `json:"repaired"`
}

// Total is the number of counts that differ.
func (r *CountReport) Total() (n int64) {
	for _, d := range r.Drifted {
		n += d
	}
	return n
}

// VerifyCounts compares the aggregates with the rows they count, in one
// snapshot, while the indexer works. With repair the difference of each is
// added as a count delta, which the indexer folds like any other; so it is
// right whatever happens at the same time.
func (s *Store) VerifyCounts(ctx context.Context, repair bool, examples int, progress func(count string)) (*CountReport, error) {
	mode := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	if !repair {
		mode.AccessMode = pgx.ReadOnly
	}
	tx, err := s.pool.BeginTx(ctx, mode)
	if err != nil {
		return nil, s.wrap("verify counts", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	r := &CountReport{Checked: map[string]int64{}, Drifted: map[string]int64{}}
	for _, c := range counters {
		if progress != nil {
			progress(c.column)
		}
		if err := s.verifyCounter(ctx, tx, c, r, repair, examples); err != nil {
			return nil, s.wrap("verify "+c.column, err)
		}
	}
	return r, s.wrap("verify counts", tx.Commit(ctx))
}

func (s *Store) verifyCounter(ctx context.Context, tx pgx.Tx, c counter, r *CountReport, repair bool, examples int) error {
	compare := strings.NewReplacer("{s}", s.schema, "{own}", s.own, "{table}", c.table, "{key}", c.key, "{column}", c.column).Replace(`
		WITH real (key, n) AS (` + c.source + `),
		kept (key, n) AS (
			SELECT key, sum(n) FROM (
				SELECT {key} AS key, "{column}" AS n FROM {s}.{table}
				UNION ALL SELECT key, n FROM {own}.count_delta WHERE kind = $1
			) x GROUP BY key)
		SELECT coalesce(kept.key, real.key) AS key, coalesce(kept.n, 0)::bigint AS kept, coalesce(real.n, 0)::bigint AS real
		FROM kept FULL JOIN real ON real.key = kept.key`)
	var checked, drifted int64
	err := tx.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE kept <> real) FROM (`+compare+`) v`, c.kind).Scan(&checked, &drifted)
	if err != nil {
		return err
	}
	r.Checked[c.column], r.Drifted[c.column] = checked, drifted
	if drifted == 0 {
		return nil
	}
	if room := examples - len(r.Examples); room > 0 {
		rows, err := tx.Query(ctx, `SELECT key, kept, real FROM (`+compare+`) v WHERE kept <> real ORDER BY abs(kept - real) DESC, key LIMIT $2`, c.kind, room)
		if err != nil {
			return err
		}
		d := Drift{Count: c.column}
		if _, err := pgx.ForEachRow(rows, []any{&d.Key, &d.Kept, &d.Real}, func() error { r.Examples = append(r.Examples, d); return nil }); err != nil {
			return err
		}
	}
	if !repair {
		return nil
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s.count_delta (kind, key, n) SELECT $1, key, (real - kept)::integer FROM (%s) v WHERE kept <> real`, s.own, compare), c.kind)
	if err != nil {
		return err
	}
	r.Repaired += tag.RowsAffected()
	return nil
}
