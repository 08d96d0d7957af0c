package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/pg"
)

const (
	// forgetStep is the time whose deletions one transaction looks through, and
	// forgetSize how many it forgets at most.
	forgetStep = 10 * time.Minute
	forgetSize = 5000
)

// forgetSQL takes deletions out that were written in a part of time. Those of
// posts stay: replies below them are judged by them. One that has been written
// again since it was found is left.
const forgetSQL = `DELETE FROM {o}.tombstone WHERE written >= $1 AND written < $2 AND ctid = ANY (ARRAY(
SELECT ctid FROM {o}.tombstone WHERE written >= $1 AND written < $2 AND split_part(uri, '/', 4) <> 'app.bsky.feed.post' LIMIT $3))`

// ForgetDeletions forgets deletions that were applied longer than age ago, but
// for those of posts and accounts, and returns how many there were. An older
// version of such a record that arrives after that is taken for a new one, so
// age has to be longer than an entry can wait in a stream or be replayed. One
// caller works at a time; the others return 0 at once.
func (s *Store) ForgetDeletions(ctx context.Context, age time.Duration) (int, error) {
	total := 0
	for more := true; more; {
		var n int
		var err error
		if n, more, err = s.forgetSome(ctx, age); err != nil {
			return total, pg.Classify(fmt.Errorf("forget deletions: %w", err))
		}
		total += n
	}
	return total, nil
}

// forgetSome looks through the next part of time.
func (s *Store) forgetSome(ctx context.Context, age time.Duration) (n int, more bool, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		n, more = 0, false
		won, err := s.elect(ctx, tx, "forget")
		if err != nil || !won {
			return err
		}
		var from, to time.Time
		err = tx.QueryRow(ctx, s.q.names.Replace(`SELECT upto, least(upto + $1::interval, now() - $2::interval) FROM {o}.forgotten`), forgetStep, age).Scan(&from, &to)
		if err != nil || !to.After(from) {
			return err
		}
		tag, err := tx.Exec(ctx, s.q.names.Replace(forgetSQL), from, to, forgetSize)
		if err != nil {
			return err
		}
		n, more = int(tag.RowsAffected()), to.Sub(from) >= forgetStep
		if n == forgetSize {
			more = true // there may be others in this part
			return nil
		}
		_, err = tx.Exec(ctx, s.q.names.Replace(`UPDATE {o}.forgotten SET upto = $1`), to)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	s.metrics.forgotten.Add(float64(n))
	return n, more, nil
}
