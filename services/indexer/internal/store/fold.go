package store

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/crash"
	"sluice/pkg/fault"
	"sluice/pkg/pg"
)

// foldSize is how many deltas one transaction of FoldCounts takes.
const foldSize = 20000

const foldSQL = `WITH d AS (
DELETE FROM {o}.count_delta WHERE ctid = ANY (ARRAY(SELECT ctid FROM {o}.count_delta LIMIT $1)) RETURNING kind, key, n
), p AS (
INSERT INTO {s}.post_agg AS a (uri, "likeCount", "replyCount", "repostCount", "quoteCount")
SELECT key, coalesce(sum(n) FILTER (WHERE kind = 1), 0), coalesce(sum(n) FILTER (WHERE kind = 2), 0),
coalesce(sum(n) FILTER (WHERE kind = 3), 0), coalesce(sum(n) FILTER (WHERE kind = 4), 0)
FROM d WHERE kind <= 4 GROUP BY key ORDER BY key
ON CONFLICT (uri) DO UPDATE SET "likeCount" = a."likeCount" + EXCLUDED."likeCount", "replyCount" = a."replyCount" + EXCLUDED."replyCount",
"repostCount" = a."repostCount" + EXCLUDED."repostCount", "quoteCount" = a."quoteCount" + EXCLUDED."quoteCount"
), f AS (
INSERT INTO {s}.profile_agg AS a (did, "followersCount", "followsCount", "postsCount")
SELECT key, coalesce(sum(n) FILTER (WHERE kind = 5), 0), coalesce(sum(n) FILTER (WHERE kind = 6), 0), coalesce(sum(n) FILTER (WHERE kind = 7), 0)
FROM d WHERE kind >= 5 GROUP BY key ORDER BY key
ON CONFLICT (did) DO UPDATE SET "followersCount" = a."followersCount" + EXCLUDED."followersCount",
"followsCount" = a."followsCount" + EXCLUDED."followsCount", "postsCount" = a."postsCount" + EXCLUDED."postsCount"
)
SELECT count(*) FROM d`

// FoldCounts adds the count deltas that are committed to the aggregates, each
// one exactly once, and returns how many there were. One caller works at a
// time; the others return 0 at once. A delta that PostgreSQL refuses is found
// by halving and dropped.
func (s *Store) FoldCounts(ctx context.Context) (int, error) {
	total := 0
	for size := foldSize; ; {
		n, err := s.foldSome(ctx, size)
		total += n
		switch {
		case err == nil && n < size:
			return total, nil
		case err == nil:
			size = min(size*2, foldSize)
		case fault.ClassOf(err) != fault.Permanent || ctx.Err() != nil:
			return total, fmt.Errorf("fold counts: %w", err)
		case size > 1:
			size /= 2
		default:
			if err := s.dropDelta(ctx, err); err != nil {
				return total, fmt.Errorf("drop count delta: %w", err)
			}
			size = foldSize
		}
	}
}

func (s *Store) foldSome(ctx context.Context, size int) (n int, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		won, err := s.elect(ctx, tx, "fold")
		if err != nil || !won {
			return err
		}
		var any bool
		if err := tx.QueryRow(ctx, s.q.names.Replace("SELECT EXISTS (SELECT 1 FROM {o}.count_delta)")).Scan(&any); err != nil || !any {
			return err
		}
		if err := tx.QueryRow(ctx, s.q.names.Replace(foldSQL), size).Scan(&n); err != nil {
			return err
		}
		crash.Point(crash.AfterFoldBeforeCommit)
		return nil
	})
	if err != nil {
		return 0, pg.Classify(err)
	}
	s.metrics.folded.Add(float64(n))
	return n, nil
}

// dropDelta takes out the delta that is next if it is refused alone, so that it
// does not block those behind it.
func (s *Store) dropDelta(ctx context.Context, cause error) error {
	var kind int16
	var key string
	var delta int64
	dropped := false
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		dropped = false
		won, err := s.elect(ctx, tx, "fold")
		if err != nil || !won {
			return err
		}
		err = pgx.BeginFunc(ctx, tx, func(probe pgx.Tx) error {
			var n int
			return probe.QueryRow(ctx, s.q.names.Replace(foldSQL), 1).Scan(&n)
		})
		if err = pg.Classify(err); fault.ClassOf(err) != fault.Permanent {
			return err // it was folded
		}
		dropped = true
		return tx.QueryRow(ctx, s.q.names.Replace(`DELETE FROM {o}.count_delta WHERE ctid = ANY (ARRAY(SELECT ctid FROM {o}.count_delta LIMIT 1))
RETURNING kind, left(key, 200), n`)).Scan(&kind, &key, &delta)
	})
	if err != nil || !dropped {
		return pg.Classify(err)
	}
	s.metrics.droppedDeltas.Inc()
	s.log.ErrorContext(ctx, "count delta dropped", slog.Int("kind", int(kind)), slog.String("key", key), slog.Int64("n", delta), slog.Any("err", cause))
	return nil
}

// elect takes the lock of a background duty until the transaction ends.
func (s *Store) elect(ctx context.Context, tx pgx.Tx, duty string) (won bool, err error) {
	err = tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", "sluice/"+s.cfg.Schema+"/"+duty).Scan(&won)
	return won, err
}

// Pending says what background work is left.
type Pending struct {
	// Deltas: there are count deltas to fold.
	Deltas bool
	// Rechecks: there are posts to judge again.
	Rechecks bool
	// Handles: there are handles to look up.
	Handles bool
}

// Any says whether anything is left.
func (p Pending) Any() bool { return p.Deltas || p.Rechecks || p.Handles }

// Pending looks for background work that is left.
func (s *Store) Pending(ctx context.Context) (p Pending, err error) {
	err = s.pool.QueryRow(ctx, s.q.names.Replace(`SELECT EXISTS (SELECT 1 FROM {o}.count_delta), EXISTS (SELECT 1 FROM {o}.recheck), EXISTS (SELECT 1 FROM {o}.handle_check)`)).
		Scan(&p.Deltas, &p.Rechecks, &p.Handles)
	if err != nil {
		return p, pg.Classify(fmt.Errorf("look for work that is left: %w", err))
	}
	return p, nil
}
