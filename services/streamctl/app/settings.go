// Package app is the command line of streamctl.
package app

import (
	"cmp"

	"sluice/services/streamctl/internal/status"
)

// Settings are those that streamctl shares with the services, so that it can
// be run in their environment.
type Settings struct {
	RedisURL  string `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis of the streams; also rediss://, sentinel and cluster forms"`
	KeyPrefix string `env:"STREAM_KEY_PREFIX" help:"goes before every key, for several deployments on one Redis"`

	DatabaseURL    string `env:"DATABASE_URL" default:"postgres://localhost/bsky" secret:"true" help:"PostgreSQL of the AppView"`
	DatabaseSchema string `env:"DATABASE_SCHEMA" default:"bsky" help:"schema of the AppView tables"`
	Pooler         bool   `env:"DB_TRANSACTION_POOLER" default:"false" help:"a transaction pooler (PgBouncer) stands between us and PostgreSQL"`

	LabelStream string `env:"INDEXER_LABEL_STREAM" default:"label_live" help:"stream of labels"`
	Group       string `env:"INDEXER_GROUP" default:"firehose_group" help:"consumer group on the streams of events"`
	LabelGroup  string `env:"INDEXER_LABEL_GROUP" default:"label_group" help:"consumer group on the stream of labels"`
	Jobs        string `env:"BACKFILLER_BACKFILL_STREAM" default:"repo_backfill" help:"stream of repository jobs"`
	Output      string `env:"BACKFILLER_FIREHOSE_STREAM" default:"firehose_backfill" help:"stream of backfilled events"`
	JobGroup    string `env:"BACKFILLER_GROUP" default:"repo_backfill_group" help:"consumer group of the repository jobs"`

	HighWater      int64    `env:"INGESTER_HIGH_WATER_MARK" default:"100000" min:"1" help:"entries at which the ingester waits"`
	LiveMark       int64    `env:"INGESTER_FIREHOSE_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for firehose_live alone; 0 takes INGESTER_HIGH_WATER_MARK"`
	LabelMark      int64    `env:"INGESTER_LABEL_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for label_live alone"`
	JobMark        int64    `env:"INGESTER_REPO_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for repo_backfill alone"`
	BackfillMark   int64    `env:"BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK" default:"500000" min:"1" help:"entries at which the backfill waits"`
	LegacyBlobs    bool     `env:"INDEXER_LEGACY_BLOBS" default:"false" help:"records whose blobs have the old form {cid, mimeType} are indexed"`
	IndexerLanes   int      `env:"INDEXER_CONCURRENCY" default:"16" min:"1" max:"512" help:"lanes of one indexer, for the check of the lock table"`
	IndexerBatch   int      `env:"INDEXER_BATCH_SIZE" default:"500" min:"1" help:"most events of one transaction, for the check of the lock table"`
	PoolMax        int      `env:"DB_POOL_MAX_SIZE" default:"20" min:"1" help:"most connections of one indexer, for the check of max_connections"`
	PLCURL         string   `env:"PLC_URL" default:"https://plc.directory" help:"the PLC directory"`
	HandleResolver string   `env:"HANDLE_RESOLVER_URL" help:"XRPC service that resolves handles, in place of DNS and HTTPS"`
	PrivateNetwork []string `env:"ALLOW_PRIVATE_NETWORK" help:"prefixes, or all: private and loopback addresses that the network may name"`
	Identities     int      `env:"IDENTITY_CACHE_SHARED" default:"200000" min:"1000" help:"identities kept in Redis for all processes, about 300 bytes each"`
	DeadLetters    string   `env:"BACKFILLER_DLQ_STREAM" default:"repo_backfill_dlq" help:"stream of repository jobs that were given up"`
	Encoding       string   `env:"STREAM_ENCODING" default:"json" oneof:"json,protobuf" help:"form of the entries written"`
	MetricsTargets []string `env:"METRICS_ADDRESSES" help:"name=host:port of the metrics of running processes, for the lag in seconds"`

	Console ConsoleSettings
}

const liveStream = "firehose_live"

func (s Settings) topology() status.Topology {
	return status.Topology{
		Live: liveStream, Backfill: s.Output, Labels: s.LabelStream, Jobs: s.Jobs,
		Group: s.Group, LabelGroup: s.LabelGroup, JobGroup: s.JobGroup, JobLetters: s.DeadLetters,
	}
}

// marks are the high-water marks by stream.
func (s Settings) marks() map[string]int64 {
	return map[string]int64{
		liveStream: cmp.Or(s.LiveMark, s.HighWater), s.LabelStream: cmp.Or(s.LabelMark, s.HighWater),
		s.Jobs: cmp.Or(s.JobMark, s.HighWater), s.Output: s.BackfillMark,
	}
}
