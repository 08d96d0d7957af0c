package pg

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/pkg/fault"
)

// Config describes a pool.
type Config struct {
	// URL is a postgres:// URL or a keyword/value string. search_path, options
	// and the pool_* and default_query_exec_mode parameters in it win over the
	// fields below.
	URL string
	// Setting is the name under which the operator gave URL, for messages.
	// Default DATABASE_URL.
	Setting string
	// Schema becomes the search_path when URL gives none. Empty leaves the
	// server's own.
	Schema string
	// AppName is the application_name shown by the server.
	AppName string
	// MaxConns bounds the pool. Default 20.
	MaxConns int
	// MinIdle is how many idle connections are kept. Default 0.
	MinIdle int
	// ConnectTimeout bounds one attempt to connect. Default 10s.
	ConnectTimeout time.Duration
	// StatementTimeout bounds one statement on the server. Default 60s; it
	// must be shorter than the claim time of the stream that feeds it.
	StatementTimeout time.Duration
	// LockTimeout bounds one wait for a lock. Default 10s.
	LockTimeout time.Duration
	// IdleInTxTimeout ends a transaction whose process has gone silent. Default 60s.
	IdleInTxTimeout time.Duration
	// Pooler says that a transaction pooler (PgBouncer) is in between: nothing
	// is set on the session, no statement is prepared under a name. Implied by
	// default_query_exec_mode=exec or simple_protocol in URL.
	Pooler bool
	// Log is told of waiting for a server that cannot be reached; nil is silent.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Setting == "" {
		c.Setting = "DATABASE_URL"
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 20
	}
	c.MinIdle = max(min(c.MinIdle, c.MaxConns), 0)
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.ConnectTimeout, 10 * time.Second}, {&c.StatementTimeout, time.Minute}, {&c.LockTimeout, 10 * time.Second}, {&c.IdleInTxTimeout, time.Minute}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return c
}

// Open returns a pool whose first connection works. While the server cannot be
// reached it waits, with a log line for each attempt, until ctx ends. A URL
// that cannot be read, a refused password or a missing database is Fatal.
func Open(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	cfg = cfg.withDefaults()
	pc, err := PoolConfig(cfg)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fault.Fatalf("%s=%s: %w", cfg.Setting, Redact(cfg.URL), err)
	}
	retry := fault.Backoff{Initial: 250 * time.Millisecond, Max: 5 * time.Second, Notify: func(err error, attempt int, wait time.Duration) {
		if cfg.Log != nil {
			cfg.Log.WarnContext(ctx, "waiting for PostgreSQL", "setting", cfg.Setting, "url", Redact(cfg.URL), "attempt", attempt, "retry_in", wait.String(), slog.Any("err", err))
		}
	}}
	err = fault.Retry(ctx, retry, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
		defer cancel()
		return Classify(pool.Ping(ctx))
	})
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("%s=%s: connect: %w", cfg.Setting, Redact(cfg.URL), err)
	}
	return pool, nil
}

// PoolConfig is the configuration that Open uses; it does not connect.
func PoolConfig(cfg Config) (*pgxpool.Config, error) {
	cfg = cfg.withDefaults()
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		// The error of the parser repeats the URL with its password.
		return nil, fault.Fatalf("%s=%s: want postgres://user@host:port/database", cfg.Setting, Redact(cfg.URL))
	}
	if !strings.Contains(cfg.URL, "pool_max_conns") {
		pc.MaxConns = int32(min(cfg.MaxConns, 1<<15))
	}
	if !strings.Contains(cfg.URL, "pool_min_idle_conns") {
		pc.MinIdleConns = min(int32(cfg.MinIdle), pc.MaxConns)
	}
	if !strings.Contains(cfg.URL, "connect_timeout") {
		pc.ConnConfig.ConnectTimeout = cfg.ConnectTimeout
	}
	if !strings.Contains(cfg.URL, "pool_max_conn_lifetime=") {
		pc.MaxConnLifetime = time.Hour
		pc.MaxConnLifetimeJitter = 10 * time.Minute
	}
	pc.MaxConnIdleTime = 5 * time.Minute
	session(pc.ConnConfig, cfg)
	return pc, nil
}

// session sets what every connection starts with.
func session(cc *pgx.ConnConfig, cfg Config) {
	params := cc.RuntimeParams
	if params["application_name"] == "" && cfg.AppName != "" {
		params["application_name"] = cfg.AppName
	}
	mode := cc.DefaultQueryExecMode
	if cfg.Pooler || mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol {
		if mode == pgx.QueryExecModeCacheStatement {
			cc.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 0, 0
		return
	}
	if params["search_path"] == "" && cfg.Schema != "" && !strings.Contains(params["options"], "search_path") {
		params["search_path"] = pgx.Identifier{cfg.Schema}.Sanitize()
	}
	for name, d := range map[string]time.Duration{
		"statement_timeout": cfg.StatementTimeout, "lock_timeout": cfg.LockTimeout, "idle_in_transaction_session_timeout": cfg.IdleInTxTimeout,
	} {
		if params[name] == "" && !strings.Contains(params["options"], name) {
			params[name] = strconv.FormatInt(d.Milliseconds(), 10)
		}
	}
}

// LocalTimeouts are the statements that bound a transaction where the session
// cannot be set because a pooler is in between.
func LocalTimeouts(cfg Config) string {
	cfg = cfg.withDefaults()
	return fmt.Sprintf("SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		cfg.StatementTimeout.Milliseconds(), cfg.LockTimeout.Milliseconds(), cfg.IdleInTxTimeout.Milliseconds())
}
