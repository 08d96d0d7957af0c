package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/crash"
	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/services/indexer/internal/derive"
)

// eraseSize is how many records one transaction takes out.
const eraseSize = 500

// listSize is how many records are listed at once before they are taken out.
const listSize = 100_000

// DeleteAccount takes an account and all its records out, as of a time: what is
// younger stays, and what is older and comes later is refused. It is safe to
// call again, and finishes what an earlier call began.
func (s *Store) DeleteAccount(ctx context.Context, did, at string) error {
	at = derive.Datetime(at)
	rev := tidAfter(at)
	err := s.retry(ctx, func(ctx context.Context) error { return s.buryAccount(ctx, did, rev, at) })
	if err == nil {
		err = s.eraseAll(ctx, did, rev+markFetched, "")
	}
	if err == nil {
		err = s.forgetAccount(ctx, did, rev, at)
	}
	if err != nil {
		return fmt.Errorf("delete account %s: %w", did, err)
	}
	return nil
}

// SweepSnapshot takes out the records of a repository that a fetch as of rev
// did not have. Everything of the fetch must have been applied before.
func (s *Store) SweepSnapshot(ctx context.Context, did, rev string) error {
	if err := s.eraseAll(ctx, did, rev, rev); err != nil {
		return fmt.Errorf("sweep %s as of %s: %w", did, rev, err)
	}
	return nil
}

func (s *Store) retry(ctx context.Context, step func(context.Context) error) error {
	return fault.Retry(ctx, s.cfg.Retry, func(ctx context.Context) error { return pg.Classify(step(ctx)) })
}

// buryAccount leaves the tombstone, so that nothing older comes back while the
// records are taken out.
func (s *Store) buryAccount(ctx context.Context, did, rev, at string) error {
	return s.locked(ctx, did, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.q.names.Replace(`INSERT INTO {o}.account AS a (did, deleted_rev, deleted_at) VALUES ($1, $2, $3)
ON CONFLICT (did) DO UPDATE SET deleted_rev = EXCLUDED.deleted_rev, deleted_at = EXCLUDED.deleted_at WHERE a.deleted_rev < EXCLUDED.deleted_rev`), did, rev, at)
		return err
	})
}

// eraseAll takes out the records of a repository below a revision, some in one
// transaction. tomb is the revision of the tombstones, empty for none. The
// records are listed first, many at once, so that what stays, and what has gone
// already, is not read again for every transaction.
func (s *Store) eraseAll(ctx context.Context, did, below, tomb string) error {
	for {
		var listed []string
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			listed, err = s.listBelow(ctx, did, below)
			return err
		})
		if err != nil {
			return fmt.Errorf("list records: %w", err)
		}
		for page := range slices.Chunk(listed, eraseSize) {
			err := s.retry(ctx, func(ctx context.Context) error { return s.eraseSome(ctx, did, below, tomb, page) })
			if err != nil {
				return err
			}
		}
		if len(listed) < listSize {
			return nil
		}
	}
}

// listBelow lists records of a repository below a revision, in order as far as
// they are listed.
func (s *Store) listBelow(ctx context.Context, did, below string) (uris []string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, settings, strconv.FormatInt(s.cfg.StatementTimeout.Milliseconds(), 10)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, s.q.names.Replace(`SELECT uri FROM {s}.record
WHERE did = $1 AND (rev IS NULL OR rev COLLATE "C" < $2) LIMIT $3`), did, below, listSize)
		if err != nil {
			return err
		}
		uris, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	slices.Sort(uris)
	return uris, err
}

func (s *Store) eraseSome(ctx context.Context, did, below, tomb string, page []string) error {
	l := newLocks(s.cfg.Schema)
	l.repo(did)
	var doomed []recRow
	open := func(ctx context.Context, conn batcher) (*locks, error) {
		doomed = nil
		b := &pgx.Batch{}
		b.Queue(s.q.names.Replace(`SELECT uri, cid, did, "indexedAt", coalesce(rev, '') FROM {s}.record
WHERE uri = ANY($1) AND (rev IS NULL OR rev COLLATE "C" < $2)`), page, below).Query(func(rows pgx.Rows) error {
			return scanAll(rows, func(row pgx.CollectableRow) error {
				var r recRow
				err := row.Scan(&r.URI, &r.CID, &r.DID, &r.IndexedAt, &r.Rev)
				doomed = append(doomed, r)
				return err
			})
		})
		return nil, read(ctx, conn, b)
	}
	at := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	if tomb == "" {
		at = ""
	}
	_, _, err := s.transact(ctx, task{locks: l, open: open, tolerant: true, work: func(sm *sim) {
		for i := range doomed {
			sm.sweep(&doomed[i], tomb, at)
		}
	}})
	crash.Point(crash.AfterSweepBeforeCommit)
	return err
}

// sweep takes out one record. Its tombstone, if there is to be one, has the
// revision of the snapshot that did not have the record.
func (s *sim) sweep(cur *recRow, tomb, at string) {
	kind := derive.KindOf(derive.ParseURI(cur.URI).Collection)
	s.rec(cur.URI)
	rev := tomb
	if rev != "" {
		if own := s.tomb(cur.URI); own.Rev < rev {
			own.Rev, own.At, own.Replaced = rev, at, false
			s.tombs[cur.URI] = own
		}
	} else {
		rev = s.account(cur.DID).DeletedRev
	}
	if kind == derive.Post {
		s.recheck(cur.URI, recheckGone, rev)
	}
	s.erase(cur, kind, at, false)
}

// forgetAccount removes what is left of an account besides its records: the
// notifications by and for it, some in one transaction, then its actor.
func (s *Store) forgetAccount(ctx context.Context, did, rev, at string) error {
	for _, column := range []string{"author", "did"} {
		if err := s.forgetNotifications(ctx, column, did, rev, at); err != nil {
			return err
		}
	}
	return s.retry(ctx, func(ctx context.Context) error {
		return s.locked(ctx, did, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, s.q.names.Replace(`DELETE FROM {s}.actor a WHERE a.did = $1 AND a."indexedAt" <= $3
AND NOT EXISTS (SELECT 1 FROM {s}.actor_sync y WHERE y.did = a.did AND y."repoRev" COLLATE "C" > $2)`), did, rev, at)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, s.q.names.Replace(`DELETE FROM {o}.handle_check WHERE did = $1 AND at <= $2`), did, at)
			return err
		})
	})
}

// forgetNotifications deletes the notifications that name an account in a
// column, but for those of versions that are younger than its deletion. Where
// the version is gone, or known from a fetch, the time of the notification says.
func (s *Store) forgetNotifications(ctx context.Context, column, did, rev, at string) error {
	list := s.q.names.Replace(`SELECT n.id FROM {s}.notification n LEFT JOIN {s}.record r ON r.uri = n."recordUri" AND r.cid = n."recordCid" AND r.rev = rtrim(r.rev, '~|')
WHERE n.` + column + ` = $1 AND coalesce(r.rev COLLATE "C" < $2, n."sortAt" COLLATE "C" <= $3) LIMIT $4`)
	for {
		var listed []int64
		err := s.retry(ctx, func(ctx context.Context) error {
			rows, err := s.pool.Query(ctx, list, did, rev, at, listSize)
			if err != nil {
				return err
			}
			listed, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
		if err != nil {
			return fmt.Errorf("list notifications: %w", err)
		}
		for page := range slices.Chunk(listed, eraseSize) {
			err := s.retry(ctx, func(ctx context.Context) error {
				return s.locked(ctx, did, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, s.q.writes.notifDelete, page)
					return err
				})
			})
			if err != nil {
				return fmt.Errorf("delete notifications: %w", err)
			}
		}
		if len(listed) < listSize {
			return nil
		}
	}
}

// locked runs a transaction under the lock of a repository.
func (s *Store) locked(ctx context.Context, did string, work func(pgx.Tx) error) error {
	l := newLocks(s.cfg.Schema)
	l.repo(did)
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		l.queue(b)
		if err := read(ctx, tx, b); err != nil {
			return err
		}
		return work(tx)
	})
}
