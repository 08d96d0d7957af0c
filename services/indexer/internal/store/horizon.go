package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// horizon tells which rows were committed so long ago that every transaction
// which ran beside theirs has ended. Transaction ids alone cannot tell: one that
// began later may have read before the row was committed. So a snapshot is kept
// until all that ran when it was taken have ended; what it sees may be taken.
// Transactions that read before they write get their id first (claimID).
type horizon struct {
	mu sync.Mutex
	// ended sees what may be taken, next waits for those that run beside it. Both
	// are snapshots as text, empty at first.
	ended, next string
}

// claimID gives a transaction its id, so that snapshots know of it.
const claimID = "SELECT pg_current_xact_id()"

// horizonSQL returns a new snapshot, whether nobody runs beside it, and whether
// all have ended that ran beside the one given.
const horizonSQL = `SELECT now::text, pg_snapshot_xmin(now) >= pg_snapshot_xmax(now),
coalesce(pg_snapshot_xmin(now) >= pg_snapshot_xmax(nullif($1::text, '')::pg_snapshot), true) FROM pg_current_snapshot() now`

// advance returns the newest snapshot whose rows may be taken, empty for none.
func (h *horizon) advance(ctx context.Context, conn batcher) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var now string
	var alone, ended bool
	b := &pgx.Batch{}
	b.Queue(horizonSQL, h.next).QueryRow(func(row pgx.Row) error { return row.Scan(&now, &alone, &ended) })
	if err := read(ctx, conn, b); err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	if ended {
		h.ended, h.next = h.next, now
	}
	if alone {
		h.ended = now
	}
	return h.ended, nil
}

// reset forgets the snapshots: after a crash or a failover of PostgreSQL, ids
// may be given again.
func (h *horizon) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended, h.next = "", ""
}

// takeRechecks takes rows that are due and whose neighbours have all ended.
func (s *Store) takeRechecks(ctx context.Context, conn batcher, t *taken, size int) error {
	ended, err := s.horizon.advance(ctx, conn)
	if err != nil || ended == "" {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(s.q.names.Replace(`SELECT id, uri, what, rev FROM {o}.recheck WHERE pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
AND not_before <= now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED`), size, ended).Query(func(rows pgx.Rows) error {
		return scanAll(rows, func(row pgx.CollectableRow) error {
			var id int64
			var r recheckRow
			err := row.Scan(&id, &r.URI, &r.What, &r.Rev)
			t.ids, t.rows = append(t.ids, id), append(t.rows, r)
			return err
		})
	})
	return read(ctx, conn, b)
}
