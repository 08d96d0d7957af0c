package store

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/pg"
)

// horizon tells which rows were committed so long ago that every transaction
// which ran beside theirs has ended. The id of a row alone cannot tell: a
// transaction with a higher one may have read before the row was committed. So
// a snapshot is kept, with an id that was given after it, until all lower ids
// have ended; what the snapshot sees may be taken. Transactions that read before
// they write get their id first (claimID).
type horizon struct {
	mu sync.Mutex
	// ended sees what may be taken; next is to follow it once all below nextID
	// have ended. All are text as PostgreSQL writes it, empty at first.
	ended, next, nextID string
}

// claimID gives a transaction its id.
const claimID = "SELECT pg_current_xact_id()"

// What advance asks: whether all below an id have ended; for a snapshot and an
// id after it, if there is anything to take; whether all below that id have
// ended too. (The end of a snapshot, pg_snapshot_xmax, is no such id: it is the
// first after those that have ended, and higher ones may run.)
const (
	horizonEnded = `SELECT coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= nullif($1::text, '')::xid8, true)`
	horizonNext  = `SELECT pg_current_snapshot()::text, pg_current_xact_id()::text WHERE EXISTS (SELECT FROM {o}.recheck WHERE not_before <= now())`
	horizonAlone = `SELECT coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= pg_current_xact_id_if_assigned(), false)`
)

// advance returns the newest snapshot whose rows may be taken, empty for none.
func (h *horizon) advance(ctx context.Context, conn batcher, names *strings.Replacer) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var now, id string
	var ended, alone bool
	b := &pgx.Batch{}
	b.Queue(horizonEnded, h.nextID).QueryRow(func(row pgx.Row) error { return row.Scan(&ended) })
	b.Queue(names.Replace(horizonNext)).Query(func(rows pgx.Rows) error {
		return scanAll(rows, func(row pgx.CollectableRow) error { return row.Scan(&now, &id) })
	})
	b.Queue(horizonAlone).QueryRow(func(row pgx.Row) error { return row.Scan(&alone) })
	if err := read(ctx, conn, b); err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	if now == "" {
		return "", nil
	}
	switch {
	case alone:
		h.ended, h.next, h.nextID = now, now, id
	case idBelow(id, h.nextID):
		h.ended, h.next, h.nextID = "", now, id // given again
	case ended:
		h.ended, h.next, h.nextID = h.next, now, id
	}
	return h.ended, nil
}

// idBelow compares ids as text, which has no leading zeros.
func idBelow(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

// mayHaveRestarted tells errors after which ids may be given again: a connection
// is lost, or the server shuts down or starts.
func mayHaveRestarted(err error) bool {
	state := pg.State(err)
	return state == "" || strings.HasPrefix(state, "08") || strings.HasPrefix(state, "57P")
}

// reset forgets the snapshots.
func (h *horizon) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended, h.next, h.nextID = "", "", ""
}

// takeRechecks takes rows that are due and whose neighbours have all ended.
func (s *Store) takeRechecks(ctx context.Context, conn batcher, t *taken, size int) error {
	ended, err := s.horizon.advance(ctx, conn, s.q.names)
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
	err = read(ctx, conn, b)
	t.found = len(t.ids)
	return err
}
