package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is what PostgreSQL says of itself.
type Server struct {
	Version string `json:"version"`
	// Locks is the number of entries of the lock table that the settings ask
	// for: max_locks_per_transaction × (max_connections + max_prepared_transactions).
	Locks          int64         `json:"lock_table"`
	MaxConnections int64         `json:"max_connections"`
	Connections    int64         `json:"connections"`
	SharedBuffers  int64         `json:"shared_buffers_bytes"`
	OldestTx       time.Duration `json:"oldest_transaction_ns"`
	// Blocked is the number of sessions that wait for a lock.
	Blocked int64 `json:"blocked_sessions"`
	// ClockSkew is our clock minus theirs, give or take the round trip.
	ClockSkew time.Duration `json:"clock_skew_ns"`
	// Durable says that a commit survives a crash of PostgreSQL.
	Fsync bool `json:"fsync"`
	// SynchronousCommit off may lose the last commits, which the streams have forgotten by then.
	SynchronousCommit string `json:"synchronous_commit"`
	ReadOnly          bool   `json:"read_only"`
}

// Server asks for the settings and the state of the server.
func (s *Store) Server(ctx context.Context) (out Server, err error) {
	before := time.Now()
	var now time.Time
	var age float64
	err = s.pool.QueryRow(ctx, `SELECT current_setting('server_version'),
		current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint),
		current_setting('max_connections')::bigint,
		(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
		pg_size_bytes(current_setting('shared_buffers')),
		coalesce((SELECT extract(epoch FROM max(now() - xact_start)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)::float8,
		(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'),
		clock_timestamp(), current_setting('fsync')::boolean, current_setting('synchronous_commit'), pg_is_in_recovery()`).Scan(
		&out.Version, &out.Locks, &out.MaxConnections, &out.Connections, &out.SharedBuffers, &age, &out.Blocked, &now, &out.Fsync, &out.SynchronousCommit, &out.ReadOnly)
	if err != nil {
		return out, s.wrap("ask PostgreSQL", err)
	}
	middle := before.Add(time.Since(before) / 2)
	out.ClockSkew = middle.Sub(now)
	out.OldestTx = time.Duration(age * float64(time.Second))
	return out, nil
}

// Record is what is known of one record or account.
type Record struct {
	URI       string `json:"uri"`
	CID       string `json:"cid,omitempty"`
	Rev       string `json:"rev,omitempty"`
	IndexedAt string `json:"indexed_at,omitempty"`
	// Tombstone is the rev of its newest deletion.
	Tombstone string `json:"tombstone,omitempty"`
	// DuplicateOf is the record that holds its unique key.
	DuplicateOf string `json:"duplicate_of,omitempty"`
	Found       bool   `json:"found"`
}

// Record looks up one uri.
func (s *Store) Record(ctx context.Context, uri string) (Record, error) {
	r := Record{URI: uri}
	err := s.pool.QueryRow(ctx, `SELECT r.uri IS NOT NULL, coalesce(r.cid, ''), left(coalesce(r.rev, ''), 13), coalesce(r."indexedAt", ''), left(coalesce(t.rev, ''), 13), coalesce(d."duplicateOf", '')
		FROM (SELECT $1::text AS uri) q LEFT JOIN `+s.schema+`.record r ON r.uri = q.uri
		LEFT JOIN `+s.own+`.tombstone t ON t.uri = q.uri LEFT JOIN `+s.schema+`.duplicate_record d ON d.uri = q.uri`, uri).
		Scan(&r.Found, &r.CID, &r.Rev, &r.IndexedAt, &r.Tombstone, &r.DuplicateOf)
	return r, s.wrap("look up "+uri, err)
}

// Account is what is known of one DID.
type Account struct {
	DID       string           `json:"did"`
	Handle    string           `json:"handle,omitempty"`
	Status    string           `json:"upstream_status,omitempty"`
	Takedown  string           `json:"takedown,omitempty"`
	IndexedAt string           `json:"indexed_at,omitempty"`
	Rev       string           `json:"rev,omitempty"`
	Deleted   string           `json:"deleted_rev,omitempty"`
	Records   map[string]int64 `json:"records"`
	Found     bool             `json:"found"`
}

// Account looks up one DID with the number of its records by collection.
func (s *Store) Account(ctx context.Context, did string) (Account, error) {
	a := Account{DID: did, Records: map[string]int64{}}
	err := s.pool.QueryRow(ctx, `SELECT a.did IS NOT NULL, coalesce(a.handle, ''), coalesce(a."upstreamStatus", ''), coalesce(a."takedownRef", ''),
		coalesce(a."indexedAt", ''), coalesce(y."repoRev", ''), coalesce(o.deleted_rev, '')
		FROM (SELECT $1::text AS did) q LEFT JOIN `+s.schema+`.actor a ON a.did = q.did
		LEFT JOIN `+s.schema+`.actor_sync y ON y.did = q.did LEFT JOIN `+s.own+`.account o ON o.did = q.did`, did).
		Scan(&a.Found, &a.Handle, &a.Status, &a.Takedown, &a.IndexedAt, &a.Rev, &a.Deleted)
	if err != nil {
		return a, s.wrap("look up "+did, err)
	}
	rows, err := s.pool.Query(ctx, `SELECT split_part(uri, '/', 4), count(*) FROM `+s.schema+`.record WHERE did = $1 GROUP BY 1`, did)
	if err != nil {
		return a, s.wrap("count the records of "+did, err)
	}
	var collection string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&collection, &n}, func() error { a.Records[collection] = n; return nil })
	return a, s.wrap("count the records of "+did, err)
}
