// Package app puts the backfiller together from its settings.
package app

import (
	"errors"
	"fmt"
	"os"
	"time"

	"sluice/pkg/event"
	"sluice/services/backfiller/internal/backfill"
)

// Config holds the settings of the backfiller.
type Config struct {
	RedisURL  string `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis of the streams; also rediss://, redis+sentinel://, redis+cluster://"`
	KeyPrefix string `env:"STREAM_KEY_PREFIX" help:"goes before every key, for several deployments on one Redis"`
	Encoding  string `env:"STREAM_ENCODING" default:"json" oneof:"json,protobuf" help:"form of the entries written; both are read"`
	// MetricsPort has an alias of its own here.
	MetricsPort int `env:"METRICS_PORT,BACKFILLER_METRICS_PORT" default:"9090" min:"0" max:"65535" help:"port of /metrics, /healthz, /readyz and /debug/pprof; 0 takes any free port"`

	PLCURL         string   `env:"PLC_URL" default:"https://plc.directory" help:"directory of did:plc"`
	PrivateNetwork []string `env:"ALLOW_PRIVATE_NETWORK" help:"prefixes, or all: private and loopback addresses that the network may name"`

	PLCRate     float64       `env:"BACKFILLER_PLC_RATE" default:"100" min:"0.1" max:"100000" help:"requests per second to the PLC directory"`
	Identities  int           `env:"BACKFILLER_IDENTITY_CACHE" default:"20000" min:"1000" help:"identities kept in memory"`
	Shared      int           `env:"IDENTITY_CACHE_SHARED" default:"200000" min:"1000" help:"identities kept in Redis for all processes, about 300 bytes each"`
	IdentityTTL time.Duration `env:"BACKFILLER_IDENTITY_TTL_SECS" unit:"s" default:"86400" min:"1" help:"time after which an identity is looked up again"`

	Consumer    string `env:"BACKFILLER_CONSUMER" help:"name in the consumer groups; the host name when empty"`
	Group       string `env:"BACKFILLER_GROUP" default:"repo_backfill_group" help:"consumer group of enumerated jobs; urgent jobs have the group of this name and _urgent"`
	Jobs        string `env:"BACKFILLER_BACKFILL_STREAM" default:"repo_backfill" help:"stream of jobs"`
	Output      string `env:"BACKFILLER_FIREHOSE_STREAM" default:"firehose_backfill" help:"stream that gets the events"`
	DeadLetters string `env:"BACKFILLER_DLQ_STREAM" default:"repo_backfill_dlq" help:"stream of jobs that were given up"`
	HighWater   int64  `env:"BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK" default:"500000" min:"1" help:"entries in the output stream at which the backfill waits; it goes on at 80 %"`

	Concurrency int      `env:"BACKFILLER_CONCURRENCY" default:"50" min:"1" max:"10000" help:"repositories in flight"`
	Window      int      `env:"BACKFILLER_WINDOW" default:"0" min:"0" help:"jobs of each class held in memory; 0 is 40 times the concurrency, at least 1000"`
	Collections []string `env:"BACKFILLER_COLLECTIONS" default:"app.bsky.*,chat.bsky.*" help:"collections emitted, wildcard at NSID segment ends; indexed declarations of other namespaces are added"`
	SkipSigs    bool     `env:"BACKFILLER_SKIP_SIGNATURE_VERIFICATION" default:"false" help:"leave commit signatures unchecked"`
	MemoryLimit int64    `env:"BACKFILLER_MEMORY_BYTES" default:"268435456" min:"1048576" help:"what all repositories in flight may hold of their blocks; the rest goes to temporary files"`
	TempDir     string   `env:"BACKFILLER_TEMP_DIR" help:"directory for what does not fit in memory of large repositories; the system's when empty"`

	HTTPTimeout time.Duration `env:"BACKFILLER_HTTP_TIMEOUT_SECS" unit:"s" default:"60" min:"1" help:"wait for the answer of a host, and for each further piece of it; the whole may take as long as it moves"`
	MinRate     int64         `env:"BACKFILLER_MIN_BYTES_PER_SEC" default:"1024" min:"1" help:"a host that sends less over 20 s of waiting is given up for now"`
	MaxBytes    int64         `env:"BACKFILLER_MAX_REPO_BYTES" default:"2147483648" min:"1024" help:"largest repository in bytes; larger ones go to the dead letters"`

	HostConcurrency int           `env:"BACKFILLER_HOST_CONCURRENCY" default:"16" min:"1" help:"repositories in flight from one host"`
	HostRate        float64       `env:"BACKFILLER_HOST_RATE" default:"50" min:"0.001" help:"requests per second to one host; its RateLimit headers come on top"`
	HostParkMax     time.Duration `env:"BACKFILLER_HOST_PARK_MAX_SECS" unit:"s" default:"300" min:"1" help:"longest time that a host in trouble is left alone, unless it asks for more"`
	HostDeadAfter   time.Duration `env:"BACKFILLER_HOST_DEAD_AFTER_SECS" unit:"s" default:"1800" min:"1" help:"a host without an answer for so long has its waiting jobs charged an attempt"`

	MaxRetries     int           `env:"BACKFILLER_MAX_RETRIES" default:"3" min:"0" help:"further attempts of a job before the dead letters"`
	InitialBackoff time.Duration `env:"BACKFILLER_RETRY_INITIAL_BACKOFF_MS" unit:"ms" default:"1000" min:"1" help:"delay before the first further attempt, doubled with each"`
	MaxBackoff     time.Duration `env:"BACKFILLER_RETRY_MAX_BACKOFF_MS" unit:"ms" default:"30000" min:"1" help:"longest delay between attempts"`
	ClaimIdle      time.Duration `env:"BACKFILLER_CLAIM_IDLE_SECS" unit:"s" default:"60" min:"1" help:"time after which another process takes over the jobs of a dead one"`
}

// Validate checks what the tags cannot.
func (c Config) Validate() error {
	var errs []error
	if _, err := backfill.NewFilter(c.Collections); err != nil {
		errs = append(errs, fmt.Errorf("BACKFILLER_COLLECTIONS: %w", err))
	}
	if c.MaxBackoff < c.InitialBackoff {
		errs = append(errs, fmt.Errorf("BACKFILLER_RETRY_MAX_BACKOFF_MS=%d is below BACKFILLER_RETRY_INITIAL_BACKOFF_MS=%d",
			c.MaxBackoff.Milliseconds(), c.InitialBackoff.Milliseconds()))
	}
	for name, v := range map[string]string{
		"BACKFILLER_GROUP": c.Group, "BACKFILLER_BACKFILL_STREAM": c.Jobs,
		"BACKFILLER_FIREHOSE_STREAM": c.Output, "BACKFILLER_DLQ_STREAM": c.DeadLetters,
	} {
		if v == "" {
			errs = append(errs, fmt.Errorf("%s is empty", name))
		}
	}
	if c.Jobs == c.Output || c.Jobs == c.DeadLetters || c.Output == c.DeadLetters {
		errs = append(errs, errors.New("BACKFILLER_BACKFILL_STREAM, BACKFILLER_FIREHOSE_STREAM and BACKFILLER_DLQ_STREAM must differ"))
	}
	return errors.Join(errs...)
}

// consumer is the name in the groups: as set, else the host name.
func (c Config) consumer() (string, error) {
	if c.Consumer != "" {
		return c.Consumer, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("BACKFILLER_CONSUMER is empty and the host has no name: %w", err)
	}
	return name, nil
}

func (c Config) backfill(consumer string, grace time.Duration, userAgent string) backfill.Config {
	return backfill.Config{
		Jobs: c.Jobs, Output: c.Output, DeadLetters: c.DeadLetters, Group: c.Group, Consumer: consumer,
		Concurrency: c.Concurrency, Window: c.Window, ClaimIdle: c.ClaimIdle, HighWater: c.HighWater,
		SkipSignatures: c.SkipSigs, Collections: c.Collections, Encoding: event.Encoding(c.Encoding),
		MemoryLimit: c.MemoryLimit, TempDir: c.TempDir, Grace: grace,
		Fetch: backfill.FetchConfig{Timeout: c.HTTPTimeout, MinRate: c.MinRate, MaxBytes: c.MaxBytes, UserAgent: userAgent},
		Host: backfill.HostConfig{
			Concurrency: c.HostConcurrency, Rate: c.HostRate, ParkMax: c.HostParkMax, DeadAfter: c.HostDeadAfter,
		},
		Retry: backfill.RetryConfig{Max: c.MaxRetries, Initial: c.InitialBackoff, MaxBackoff: c.MaxBackoff},
	}
}
