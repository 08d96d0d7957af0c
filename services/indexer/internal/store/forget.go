package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/pg"
)

// forgetSize is how many deletions one transaction forgets.
const forgetSize = 5000

// forgetSQL takes out the oldest deletions. Those of posts stay: replies below
// them are judged by them. One that is being written again is left.
const forgetSQL = `DELETE FROM {o}.tombstone WHERE uri = ANY (ARRAY(SELECT uri FROM {o}.tombstone
WHERE written < now() - $1::interval AND split_part(uri, '/', 4) <> 'app.bsky.feed.post' ORDER BY written LIMIT $2 FOR UPDATE SKIP LOCKED))`

// ForgetDeletions forgets deletions that were applied longer than age ago, but
// for those of posts and accounts, and returns how many there were. An older
// version of such a record that arrives after that is taken for a new one, so
// age has to be longer than an entry can wait in a stream or be replayed. One
// caller works at a time; the others return 0 at once.
func (s *Store) ForgetDeletions(ctx context.Context, age time.Duration) (int, error) {
	for total := 0; ; {
		n, err := s.forgetSome(ctx, age)
		total += n
		if err != nil {
			return total, pg.Classify(fmt.Errorf("forget deletions: %w", err))
		}
		if n < forgetSize {
			return total, nil
		}
	}
}

func (s *Store) forgetSome(ctx context.Context, age time.Duration) (n int, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		won, err := s.elect(ctx, tx, "forget")
		if err != nil || !won {
			return err
		}
		tag, err := tx.Exec(ctx, s.q.names.Replace(forgetSQL), age, forgetSize)
		n = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	s.metrics.forgotten.Add(float64(n))
	return n, nil
}
