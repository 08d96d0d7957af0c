package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Migrations are numbered SQL files in the form of goose.
type Migrations struct {
	// Files holds NNNNN_name.sql at its root.
	Files fs.FS
	// Schema is created if need be and becomes the search_path of the files.
	Schema string
	// Log is told of each file applied; nil is silent.
	Log *slog.Logger
}

// versionTable records in Migrations.Schema what has been applied.
const versionTable = "migration"

// Migrate applies the files that are missing, in order, each in a transaction
// of its own. Several processes may call it at once: a session lock lets one
// work while the others wait. cfg must reach the server without a transaction
// pooler. It returns how many files were applied.
func Migrate(ctx context.Context, cfg Config, m Migrations) (int, error) {
	cfg.Schema = m.Schema
	// A migration may rewrite a large table, and waits for its siblings.
	cfg.StatementTimeout, cfg.LockTimeout, cfg.IdleInTxTimeout = 24*time.Hour, time.Minute, 24*time.Hour
	pool, err := Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{m.Schema}.Sanitize()); err != nil && State(err) != "23505" {
		return 0, Classify(fmt.Errorf("create schema %s: %w", m.Schema, err))
	}
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	p, err := newProvider(db, m)
	if err != nil {
		return 0, err
	}
	done, err := p.Up(ctx)
	if err != nil {
		var partial *goose.PartialError
		if errors.As(err, &partial) && partial.Failed != nil {
			return len(partial.Applied), Classify(fmt.Errorf("migrate schema %s: %s: %w", m.Schema, partial.Failed.Source.Path, partial.Err))
		}
		return 0, Classify(fmt.Errorf("migrate schema %s: %w", m.Schema, err))
	}
	for _, r := range done {
		if m.Log != nil {
			m.Log.InfoContext(ctx, "migration applied", "schema", m.Schema, "file", r.Source.Path, "took", r.Duration.String())
		}
	}
	return len(done), nil
}

// MigrationsPending says how many files of m have not been applied.
func MigrationsPending(ctx context.Context, cfg Config, m Migrations) (int, error) {
	cfg.Schema = m.Schema
	pool, err := Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	p, err := newProvider(db, m)
	if err != nil {
		return 0, err
	}
	all, err := p.Status(ctx)
	if err != nil {
		return 0, Classify(fmt.Errorf("read the migrations of schema %s: %w", m.Schema, err))
	}
	n := 0
	for _, s := range all {
		if s.State == goose.StatePending {
			n++
		}
	}
	return n, nil
}

func newProvider(db *sql.DB, m Migrations) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(
		lock.WithLockID(int64(crc32.ChecksumIEEE([]byte("sluice/"+m.Schema)))), lock.WithLockTimeout(1, 600))
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, m.Files,
		goose.WithTableName(m.Schema+"."+versionTable), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("read the migrations of schema %s: %w", m.Schema, err)
	}
	return p, nil
}
