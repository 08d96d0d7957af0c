// Package store asks PostgreSQL what the operator wants to know: how much is
// there, what waits to be worked off, whether the counts are right, and
// whether the server is set up for the load.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/pkg/pg"
)

// Config says where the tables are.
type Config struct {
	URL    string
	Schema string // of the AppView; the indexer's own is Schema + "_sluice"
	Pooler bool
}

// Store is a connection to the database of the AppView.
type Store struct {
	pool   *pgxpool.Pool
	schema string // quoted
	own    string // quoted
	names  [2]string
}

// ErrNoTables says that the indexer has not made its tables there.
var ErrNoTables = errors.New("there are no tables of the indexer (indexer migrate makes them)")

// Open connects within ten seconds.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pool, err := pg.Open(ctx, pg.Config{
		URL: cfg.URL, AppName: "streamctl", MaxConns: 2, StatementTimeout: time.Hour, LockTimeout: 10 * time.Second, Pooler: cfg.Pooler,
	})
	if err != nil {
		return nil, err
	}
	own := cfg.Schema + "_sluice"
	return &Store{
		pool: pool, schema: pgx.Identifier{cfg.Schema}.Sanitize(), own: pgx.Identifier{own}.Sanitize(), names: [2]string{cfg.Schema, own},
	}, nil
}

// Close ends the connections.
func (s *Store) Close() { s.pool.Close() }

func (s *Store) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	if state := pg.State(err); state == "42P01" || state == "3F000" {
		return fmt.Errorf("%s: schema %s: %w", what, s.names[1], ErrNoTables)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Backlog is work that is in the database and not done yet.
type Backlog struct {
	// CountDeltas are changes of counts not folded into the aggregates.
	CountDeltas int64 `json:"count_deltas"`
	// Rechecks are facts between repositories to judge again.
	Rechecks int64 `json:"rechecks"`
	// Handles are look-ups of handles that are due.
	Handles int64 `json:"handles_due"`
}

// Empty says that nothing waits.
func (b Backlog) Empty() bool { return b == Backlog{} }

// Backlog counts what waits.
func (s *Store) Backlog(ctx context.Context) (b Backlog, err error) {
	err = s.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM `+s.own+`.count_delta),
		(SELECT count(*) FROM `+s.own+`.recheck),
		(SELECT count(*) FROM `+s.own+`.handle_check WHERE not_before <= now())`).Scan(&b.CountDeltas, &b.Rechecks, &b.Handles)
	return b, s.wrap("count the backlog", err)
}

// Tables lists the tables that the indexer fills, in the order of the road.
func Tables() []string {
	return []string{
		"record", "actor", "actor_sync", "duplicate_record", "profile", "post", "feed_item", "post_embed_image", "post_embed_gallery_image",
		"post_embed_external", "post_embed_record", "post_embed_video", "quote", "like", "repost", "follow", "actor_block", "list", "list_item",
		"list_block", "feed_generator", "labeler", "starter_pack", "thread_gate", "post_gate", "verification", "op_thread_reply", "label",
		"post_agg", "profile_agg", "notification",
	}
}

// Rows counts the rows of the tables: exactly, or as PostgreSQL estimates them.
// A table that does not exist is left out.
func (s *Store) Rows(ctx context.Context, exact bool) (map[string]int64, error) {
	out := map[string]int64{}
	rows, err := s.pool.Query(ctx, `SELECT c.relname, greatest(c.reltuples, 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relname = ANY($2)`, s.names[0], Tables())
	if err != nil {
		return nil, s.wrap("list tables", err)
	}
	var name string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { out[name] = n; return nil }); err != nil {
		return nil, s.wrap("list tables", err)
	}
	if !exact {
		return out, nil
	}
	for name := range out {
		if err := s.pool.QueryRow(ctx, "SELECT count(*) FROM "+s.schema+"."+pgx.Identifier{name}.Sanitize()).Scan(&n); err != nil {
			return nil, s.wrap("count "+name, err)
		}
		out[name] = n
	}
	return out, nil
}
