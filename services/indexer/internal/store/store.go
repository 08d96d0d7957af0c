package store

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/derive"
)

// Config of a Store.
type Config struct {
	// Schema of the AppView's tables. Default "bsky". Our own tables are in
	// Schema + "_sluice".
	Schema string
	// Validate checks a record against the lexicon of its collection.
	Validate func(collection string, recordJSON []byte) error
	// NotifyBackfill writes notifications for fetched records too.
	NotifyBackfill bool
	// QueueHandles writes a row for every handle that has to be looked up;
	// TakeHandleChecks hands them out.
	QueueHandles bool
	// Retry spaces the attempts of a transaction after a Transient error.
	// Default: until the context ends.
	Retry fault.Backoff
	// StatementTimeout bounds one statement. Default 30s.
	StatementTimeout time.Duration

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Store writes to one AppView database. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	cfg     Config
	derive  derive.Deriver
	q       queries
	metrics *metrics
	log     *slog.Logger
	horizon horizon
}

// New makes a Store on a pool. The schema must have been migrated.
func New(pool *pgxpool.Pool, cfg Config) (*Store, error) {
	if cfg.Schema == "" {
		cfg.Schema = "bsky"
	}
	if cfg.Validate == nil {
		return nil, errors.New("store: Validate is required")
	}
	if cfg.StatementTimeout == 0 {
		cfg.StatementTimeout = 30 * time.Second
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		pool: pool, cfg: cfg, log: log.With("component", "store"),
		derive: derive.Deriver{Validate: cfg.Validate},
		q:      newQueries(cfg.Schema), metrics: newMetrics(cfg.Registerer),
	}, nil
}

// Change is one event to apply.
type Change struct {
	Event *event.Event
	// Live: the event came from the live stream, so it notifies.
	Live bool
}

// Result says what became of one change.
type Result uint8

// The results.
const (
	// Applied: its rows are there.
	Applied Result = iota
	// Stale: something newer was there already, or the same.
	Stale
	// Ignored: its collection is not indexed; the account was seen.
	Ignored
	// Rejected: the record leaves no rows; Err is a *derive.RejectError.
	Rejected
)

// String names the result as it stands in metric labels.
func (r Result) String() string {
	return [...]string{"applied", "stale", "ignored", "rejected"}[r]
}

// ChangeResult is the result of one change of a batch.
type ChangeResult struct {
	Result Result
	Err    error
}

// Seen is a repository that the batch had events of.
type Seen struct {
	DID string
	// At is the time of the first event that asks for a look at the handle.
	At string
	// Force: an identity event asks for it whatever is known.
	Force bool
	// Fresh: the account had no actor row before.
	Fresh bool
	// Backfill: only a fetched repository asks for it.
	Backfill bool
}

// Outcome of a batch.
type Outcome struct {
	// Results, in the order of the batch.
	Results []ChangeResult
	// Seen are the handle look-ups that the batch asks for.
	Seen []Seen
	// Rows is how many rows were written, of all tables.
	Rows int
}

// schemaNames replaces {s} by the AppView's schema and {o} by our own.
func schemaNames(schema string) *strings.Replacer {
	return strings.NewReplacer(
		"{s}", pgx.Identifier{schema}.Sanitize(),
		"{o}", pgx.Identifier{OwnSchema(schema)}.Sanitize(),
	)
}

// OwnSchema is the name of the schema beside the AppView's that holds our own
// tables.
func OwnSchema(schema string) string { return schema + "_sluice" }
