package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/pkg/fault"
	"sluice/pkg/pg"
)

// Sweep is a fetched repository whose end was read from a stream: once
// everything before that entry is finished, what the fetch did not have is to
// be deleted.
type Sweep struct {
	DID, Rev string
	// Stream and ID name the entry.
	Stream, ID string
}

// QueueSweeps puts snapshots on the list. The same again changes nothing.
func (s *Store) QueueSweeps(ctx context.Context, sweeps ...Sweep) error {
	n := len(sweeps)
	streams, dids, revs := make([]string, n), make([]string, n), make([]string, n)
	ms, seq := make([]int64, n), make([]int64, n)
	for i, w := range sweeps {
		var err error
		if ms[i], seq[i], err = splitID(w.ID); err != nil {
			return fault.As(fault.Permanent, fmt.Errorf("queue sweep of %s: %w", w.DID, err))
		}
		streams[i], dids[i], revs[i] = w.Stream, w.DID, w.Rev
	}
	const q = `INSERT INTO {o}.sweep (stream, ms, seq, did, rev)
SELECT u.stream, u.ms, u.seq, u.did, u.rev
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) u(stream, ms, seq, did, rev) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING`
	if _, err := s.pool.Exec(ctx, s.sweepSQL(q), streams, ms, seq, dids, revs); err != nil {
		return pg.Classify(fmt.Errorf("queue %d sweeps: %w", n, err))
	}
	return nil
}

// DueSweeps returns at most limit snapshots of the stream whose entry is below
// floor, the oldest first, and how many are on the list of the stream.
func (s *Store) DueSweeps(ctx context.Context, stream, floor string, limit int) (due []Sweep, waiting int, err error) {
	if floor != "" {
		ms, seq, err := splitID(floor)
		if err != nil {
			return nil, 0, fmt.Errorf("read sweeps below %s: %w", floor, err)
		}
		const q = `SELECT did, rev, ms::text || '-' || seq::text FROM {o}.sweep
WHERE stream = $1 AND (ms, seq) < ($2, $3) ORDER BY ms, seq LIMIT $4`
		rows, err := s.pool.Query(ctx, s.sweepSQL(q), stream, ms, seq, limit)
		if err != nil {
			return nil, 0, pg.Classify(fmt.Errorf("read sweeps: %w", err))
		}
		w := Sweep{Stream: stream}
		if _, err := pgx.ForEachRow(rows, []any{&w.DID, &w.Rev, &w.ID}, func() error {
			due = append(due, w)
			return nil
		}); err != nil {
			return nil, 0, pg.Classify(fmt.Errorf("read sweeps: %w", err))
		}
	}
	err = s.pool.QueryRow(ctx, s.sweepSQL(`SELECT count(*) FROM {o}.sweep WHERE stream = $1`), stream).Scan(&waiting)
	if err != nil {
		return nil, 0, pg.Classify(fmt.Errorf("count sweeps: %w", err))
	}
	return due, waiting, nil
}

// EndSweep takes a snapshot off the list, after SweepSnapshot.
func (s *Store) EndSweep(ctx context.Context, w Sweep) error {
	ms, seq, err := splitID(w.ID)
	if err != nil {
		return err
	}
	q := s.sweepSQL(`DELETE FROM {o}.sweep WHERE stream = $1 AND ms = $2 AND seq = $3`)
	if _, err := s.pool.Exec(ctx, q, w.Stream, ms, seq); err != nil {
		return pg.Classify(fmt.Errorf("end sweep of %s: %w", w.DID, err))
	}
	return nil
}

func (s *Store) sweepSQL(q string) string { return schemaNames(s.cfg.Schema).Replace(q) }

// splitID reads the two parts of the id of a stream entry.
func splitID(id string) (ms, seq int64, err error) {
	left, right, _ := strings.Cut(id, "-")
	if ms, err = strconv.ParseInt(left, 10, 64); err == nil && right != "" {
		seq, err = strconv.ParseInt(right, 10, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("entry id %q: %w", id, err)
	}
	return ms, seq, nil
}

// LockCapacity is how many locks all transactions of the server can hold
// together, by its settings.
func LockCapacity(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	var n int
	err := pool.QueryRow(ctx, `SELECT current_setting('max_locks_per_transaction')::int *
(current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)`).Scan(&n)
	if err != nil {
		return 0, pg.Classify(fmt.Errorf("read the size of the lock table: %w", err))
	}
	return n, nil
}
