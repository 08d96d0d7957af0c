package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/pkg/proc"
	"sluice/services/indexer/internal/store"
)

// pool is the configuration of the connections of the indexer.
func (c Config) pool(log *slog.Logger) pg.Config {
	return pg.Config{
		URL: c.DatabaseURL, Schema: c.DatabaseSchema, AppName: "sluice-indexer",
		MaxConns: c.PoolMax, MinIdle: c.PoolMin, Pooler: c.Pooler,
		StatementTimeout: min(30*time.Second, c.ClaimIdle), Log: log,
	}
}

// Migrate is the command that brings the database up to date, or says what
// that would take.
func Migrate(ctx context.Context, cfg Config, d proc.Deps) error {
	pool, err := pg.Open(ctx, cfg.pool(d.Log))
	if err != nil {
		return err
	}
	defer pool.Close()
	steps, err := store.Check(ctx, pool, cfg.DatabaseSchema)
	if err != nil {
		return err
	}
	if cfg.Check {
		d.Log.InfoContext(ctx, "database checked", "schema", cfg.DatabaseSchema, "missing", len(steps))
		return list(steps)
	}
	if err := store.Migrate(ctx, pool, cfg.DatabaseSchema); err != nil {
		return err
	}
	d.Log.InfoContext(ctx, "database migrated", "schema", cfg.DatabaseSchema, "steps", strings.Join(steps, "; "))
	return nil
}

// list writes what would be done for people, one step a line.
func list(steps []string) error {
	if len(steps) == 0 {
		_, err := fmt.Fprintln(os.Stdout, "nothing is left to do")
		return err
	}
	_, err := fmt.Fprintln(os.Stdout, strings.Join(steps, "\n"))
	return err
}

// migrate brings the tables up to date, or refuses to start on tables that are
// not.
func (a *App) migrate(ctx context.Context, check func(context.Context) ([]string, error), migrate func(context.Context) error) error {
	if a.cfg.Migrate {
		return migrate(ctx)
	}
	missing, err := check(ctx)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fault.Fatalf("DATABASE_SCHEMA=%s is not up to date (%s): run `indexer migrate`, or set INDEXER_MIGRATE=true",
		a.cfg.DatabaseSchema, strings.Join(missing, "; "))
}

// locksPerEntry is the most that an entry locks: a post its repository, the
// thread that it replies to and the posts that quote what it quotes.
const locksPerEntry = 3

// fitBatch lowers the batch so that all lanes of all replicas find room in the
// lock table of PostgreSQL: beyond the end of the table transactions fail.
// others is how many members are at work besides this one.
func (a *App) fitBatch(ctx context.Context, capacity, others int) {
	total := 0
	for _, n := range lanes(a.cfg) {
		total += n
	}
	replicas := max(a.cfg.Replicas, others+1)
	// Half of the table is left to relations and to others.
	fits := max(capacity/2/(max(total, 1)*replicas*locksPerEntry), minBatch)
	if a.cfg.BatchSize <= fits {
		return
	}
	a.log.WarnContext(ctx, "batches are smaller than asked for: raise max_locks_per_transaction of PostgreSQL",
		"setting", "INDEXER_BATCH_SIZE", "asked", a.cfg.BatchSize, "used", fits, "lanes", total, "replicas", replicas, "locks", capacity)
	a.cfg.BatchSize = fits
}

// others counts the members at work besides the one named: the most of any
// stream of events. Redis need not answer; then there is what the settings say.
func (a *App) others(ctx context.Context, name string) int {
	most := 0
	if !a.events() {
		return 0
	}
	for _, stream := range a.cfg.Streams {
		st, err := a.redis.Stats(ctx, stream, a.cfg.Group)
		if err != nil {
			a.log.WarnContext(ctx, "members at work not counted", "stream", stream, slog.Any("err", err))
			continue
		}
		for _, g := range st.Groups {
			if g.Name != a.cfg.Group {
				continue
			}
			alive := 0
			for _, c := range g.Consumers {
				if c.Alive && c.Name != name {
					alive++
				}
			}
			most = max(most, alive)
		}
	}
	return most
}

// minBatch is the least that the check of the lock table leaves.
const minBatch = 20
