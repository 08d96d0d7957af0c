package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/pg"
)

// Drift is what VerifyCounts found.
type Drift struct {
	// Rows is how many aggregates differ from a recount of the rows.
	Rows int
	// Repaired: the differences were queued as deltas; FoldCounts adds them.
	Repaired bool
	// Sample names some of them, as "kind key: stored, counted".
	Sample []string
}

// sampleSize bounds Drift.Sample.
const sampleSize = 20

// driftSQL compares the aggregates, with the deltas that are not folded yet,
// with a recount, counter by counter.
const driftSQL = `WITH stored AS (
SELECT k.kind, a.uri AS key, k.n FROM {s}.post_agg a, LATERAL (VALUES (1, a."likeCount"), (2, a."replyCount"), (3, a."repostCount"), (4, a."quoteCount")) k(kind, n)
UNION ALL SELECT k.kind, a.did, k.n FROM {s}.profile_agg a, LATERAL (VALUES (5, a."followersCount"), (6, a."followsCount"), (7, a."postsCount")) k(kind, n)
UNION ALL SELECT kind, key, n FROM {o}.count_delta
), counted AS (
SELECT 1 AS kind, subject AS key, count(*) AS n FROM {s}."like" GROUP BY subject
UNION ALL SELECT 2, "replyParent", count(*) FROM {s}.post WHERE "replyParent" IS NOT NULL AND "violatesThreadGate" IS NOT TRUE GROUP BY "replyParent"
UNION ALL SELECT 3, subject, count(*) FROM {s}.repost GROUP BY subject
UNION ALL SELECT 4, subject, count(*) FROM {s}.quote GROUP BY subject
UNION ALL SELECT 5, "subjectDid", count(*) FROM {s}.follow GROUP BY "subjectDid"
UNION ALL SELECT 6, creator, count(*) FROM {s}.follow GROUP BY creator
UNION ALL SELECT 7, creator, count(*) FROM {s}.post GROUP BY creator
), drift AS (
SELECT x.kind, x.key, sum(x.stored)::bigint AS stored, sum(x.counted)::bigint AS counted FROM (
SELECT kind, key, n AS stored, 0 AS counted FROM stored UNION ALL SELECT kind, key, 0, n FROM counted) x
GROUP BY x.kind, x.key HAVING sum(x.stored) <> sum(x.counted))
SELECT kind, key, stored, counted FROM drift`

// VerifyCounts counts all rows again, on one snapshot, and compares with the
// aggregates and the deltas that are still to be folded. With repair it queues
// the differences. It reads every table in full.
func (s *Store) VerifyCounts(ctx context.Context, repair bool) (d Drift, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, s.q.names.Replace(driftSQL))
		if err != nil {
			return err
		}
		var kind int16
		var key string
		var stored, counted int64
		var kinds []int16
		var keys []string
		var ns []int64
		_, err = pgx.ForEachRow(rows, []any{&kind, &key, &stored, &counted}, func() error {
			d.Rows++
			if len(d.Sample) < sampleSize {
				d.Sample = append(d.Sample, fmt.Sprintf("%d %s: %d, %d", kind, key, stored, counted))
			}
			kinds, keys, ns = append(kinds, kind), append(keys, key), append(ns, counted-stored)
			return nil
		})
		if err != nil || !repair || d.Rows == 0 {
			return err
		}
		d.Repaired = true
		_, err = tx.Exec(ctx, s.q.names.Replace(`INSERT INTO {o}.count_delta (kind, key, n) SELECT u.kind, u.key, u.n FROM unnest($1::smallint[], $2::text[], $3::int[]) u(kind, key, n)`), kinds, keys, ns)
		return err
	})
	if err != nil {
		return Drift{}, pg.Classify(fmt.Errorf("verify counts: %w", err))
	}
	return d, nil
}
