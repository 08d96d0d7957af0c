package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/services/indexer/internal/derive"
)

// SetHandle stores the handle that a look-up at the time of an event has found;
// nil when the account has none that points back. An older look-up never
// overwrites a newer one. Another account that holds the handle loses it.
func (s *Store) SetHandle(ctx context.Context, did string, handle *string, at string) error {
	at = derive.Datetime(at)
	if handle != nil {
		handle = new(strings.ToLower(*handle))
	}
	err := s.retry(ctx, func(ctx context.Context) error {
		// The lock keeps the deletion of the account from coming in between.
		return s.locked(ctx, did, func(tx pgx.Tx) error { return s.setHandle(ctx, tx, did, handle, at) })
	})
	if err != nil {
		return fmt.Errorf("set handle of %s: %w", did, err)
	}
	return nil
}

func (s *Store) setHandle(ctx context.Context, tx pgx.Tx, did string, handle *string, at string) error {
	// Swaps of handles meet here, so that they do not deadlock on rows.
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "sluice/"+s.cfg.Schema+"/handles"); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, s.q.names.Replace(`INSERT INTO {o}.handle_seen AS h (did, at)
SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM {o}.account WHERE did = $1 AND deleted_at >= $2)
ON CONFLICT (did) DO UPDATE SET at = EXCLUDED.at WHERE h.at <= EXCLUDED.at`), did, at)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	if handle != nil {
		if _, err := tx.Exec(ctx, s.q.names.Replace(`UPDATE {s}.actor SET handle = NULL WHERE handle = $1 AND did <> $2`), *handle, did); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, s.q.names.Replace(`INSERT INTO {s}.actor AS a (did, handle, "indexedAt") VALUES ($1, $2, $3)
ON CONFLICT (did) DO UPDATE SET handle = EXCLUDED.handle, "indexedAt" = EXCLUDED."indexedAt"`), did, handle, at)
	return err
}

// HandleCheck is a look-up that an event asked for.
type HandleCheck struct {
	DID, At string
	// Force: look past caches; the identity is said to have changed.
	Force bool
	// Fresh: the account had no actor row before this event.
	Fresh bool
	// Backfill: only a fetched repository asked for it.
	Backfill bool
	Attempts int
}

// TakeHandleChecks hands out the first look-up of up to n accounts that wait for
// one, and keeps them from other callers for the time of the lease. Those that a
// change of the identity or a live event asked for come first, those of fetched
// repositories when no other is due.
func (s *Store) TakeHandleChecks(ctx context.Context, n int, lease time.Duration) ([]HandleCheck, error) {
	const due = `SELECT c.did, c.at FROM {o}.handle_check c WHERE %s AND c.not_before <= now()
AND NOT EXISTS (SELECT 1 FROM {o}.handle_check o WHERE o.did = c.did AND (o.backfill, o.at) < (c.backfill, c.at))
ORDER BY c.not_before LIMIT %s FOR UPDATE SKIP LOCKED`
	rows, err := s.pool.Query(ctx, s.q.names.Replace(`WITH live AS (`+fmt.Sprintf(due, "NOT c.backfill", "$1")+`),
past AS (`+fmt.Sprintf(due, "c.backfill", "$1 - (SELECT count(*) FROM live)")+`),
due AS (SELECT did, at FROM live UNION ALL SELECT did, at FROM past)
UPDATE {o}.handle_check c SET not_before = now() + $2::interval, attempts = c.attempts + 1
FROM due WHERE c.did = due.did AND c.at = due.at RETURNING c.did, c.at, c.force, c.fresh, c.backfill, c.attempts`), n, lease)
	if err != nil {
		return nil, fmt.Errorf("take handle checks: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c HandleCheck, err error) {
		return c, row.Scan(&c.DID, &c.At, &c.Force, &c.Fresh, &c.Backfill, &c.Attempts)
	})
	if err != nil {
		return nil, fmt.Errorf("take handle checks: %w", err)
	}
	slices.SortStableFunc(out, func(a, b HandleCheck) int { return cmp.Compare(a.rank(), b.rank()) })
	return out, nil
}

// rank orders the look-ups of one round.
func (c HandleCheck) rank() int {
	switch {
	case c.Force:
		return 0
	case !c.Backfill:
		return 1
	default:
		return 2
	}
}

// HandleDue says whether a look-up is still called for by what is known now: it
// is forced, the account was never looked at, or the last look is too old.
func (s *Store) HandleDue(ctx context.Context, c HandleCheck) (bool, error) {
	if c.Force || c.Fresh {
		return true, nil
	}
	var a actorRow
	rows, err := s.pool.Query(ctx, s.q.names.Replace(`SELECT handle, "indexedAt" FROM {s}.actor WHERE did = $1`), c.DID)
	if err != nil {
		return false, fmt.Errorf("read actor %s: %w", c.DID, err)
	}
	found := false
	if _, err := pgx.ForEachRow(rows, []any{&a.Handle, &a.IndexedAt}, func() error { found = true; return nil }); err != nil {
		return false, fmt.Errorf("read actor %s: %w", c.DID, err)
	}
	return !found || due(&a, c.At), nil
}

// HandleChecked ends a look-up.
func (s *Store) HandleChecked(ctx context.Context, c HandleCheck) error {
	if _, err := s.pool.Exec(ctx, s.q.names.Replace(`DELETE FROM {o}.handle_check WHERE did = $1 AND at = $2`), c.DID, c.At); err != nil {
		return fmt.Errorf("end handle check of %s: %w", c.DID, err)
	}
	return nil
}

// HandleRetry puts a look-up off.
func (s *Store) HandleRetry(ctx context.Context, c HandleCheck, wait time.Duration) error {
	_, err := s.pool.Exec(ctx, s.q.names.Replace(`UPDATE {o}.handle_check SET not_before = now() + $3::interval WHERE did = $1 AND at = $2`), c.DID, c.At, wait)
	if err != nil {
		return fmt.Errorf("put off handle check of %s: %w", c.DID, err)
	}
	return nil
}

// ForgetActor removes the actor row of an account that cannot be resolved and
// never was: nothing but its own events vouches for it.
func (s *Store) ForgetActor(ctx context.Context, did string) error {
	_, err := s.pool.Exec(ctx, s.q.names.Replace(`DELETE FROM {s}.actor WHERE did = $1 AND handle IS NULL AND "takedownRef" IS NULL AND NOT "trustedVerifier"`), did)
	if err != nil {
		return fmt.Errorf("forget actor %s: %w", did, err)
	}
	return nil
}
