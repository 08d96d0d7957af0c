package app

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Config is everything that the indexer is told.
type Config struct {
	// RedisURL is where the streams are.
	RedisURL string `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis of the streams; also rediss://, sentinel and cluster forms"`
	// KeyPrefix is put in front of every key, stream and consumer.
	KeyPrefix string `env:"STREAM_KEY_PREFIX" help:"prefix of every key in Redis"`

	// DatabaseURL is where the tables are.
	DatabaseURL string `env:"DATABASE_URL" default:"postgres://localhost/bsky" secret:"true" help:"PostgreSQL of the AppView; search_path and options in it are honoured"`
	// DatabaseSchema holds the tables of the AppView.
	DatabaseSchema string `env:"DATABASE_SCHEMA" default:"bsky" help:"schema of the AppView tables"`
	// PoolMax bounds the connections of one process: one for each lane, the rest for the workers.
	PoolMax int `env:"DB_POOL_MAX_SIZE" default:"20" min:"5" max:"1000" help:"most connections to PostgreSQL"`
	// PoolMin is how many of them are kept when idle.
	PoolMin int `env:"DB_POOL_MIN_IDLE" default:"5" min:"0" max:"1000" help:"connections to PostgreSQL that are kept when idle"`
	// Pooler says that a transaction pooler stands in between.
	Pooler bool `env:"DB_TRANSACTION_POOLER" default:"false" help:"a transaction pooler (PgBouncer) stands between us and PostgreSQL"`

	// Mode chooses the streams: all, stream (events), label.
	Mode string `env:"INDEXER_MODE" default:"all" oneof:"all,stream,label" help:"what is indexed: events, labels, or both"`
	// Streams are those of events. One whose name contains "backfill" gives way to the others.
	Streams []string `env:"INDEXER_STREAMS" default:"firehose_live,firehose_backfill" help:"streams of events; every one of them is read"`
	// LabelStream is that of labels.
	LabelStream string `env:"INDEXER_LABEL_STREAM" default:"label_live" help:"stream of labels"`
	// Group and LabelGroup share the work of several indexers.
	Group      string `env:"INDEXER_GROUP" default:"firehose_group" help:"consumer group on the streams of events"`
	LabelGroup string `env:"INDEXER_LABEL_GROUP" default:"label_group" help:"consumer group on the stream of labels"`
	// Consumer names this member of the groups. Default: the name of the host.
	Consumer string `env:"INDEXER_CONSUMER" help:"name of this member of the groups; the name of the host if empty"`

	// Concurrency is the number of lanes over all streams of events.
	Concurrency int `env:"INDEXER_CONCURRENCY" default:"16" min:"1" max:"512" help:"batches that are applied at once"`
	// BatchSize is the COUNT of a read and the most events of a transaction.
	BatchSize int `env:"INDEXER_BATCH_SIZE" default:"500" min:"1" max:"5000" help:"entries of one read, and of one transaction at most"`
	// BatchWait is how long a batch of backfilled events waits for more.
	BatchWait time.Duration `env:"INDEXER_BACKFILL_BATCH_TIMEOUT_MS" unit:"ms" default:"50" min:"0" max:"10000" help:"how long a batch of backfilled events that is not full waits for more"`
	// ClaimIdle is the time after which the entries of a silent member are taken over.
	ClaimIdle time.Duration `env:"INDEXER_CLAIM_IDLE_SECS" unit:"s" default:"60" min:"1" max:"3600" help:"idle time after which entries of another member are taken over"`
	// MaxDeliveries bounds how often an entry is tried.
	MaxDeliveries int64 `env:"INDEXER_MAX_DELIVERIES" default:"5" min:"1" max:"100" help:"deliveries after which an entry is parked"`
	// Replicas is how many indexers run, for the check of the lock table.
	Replicas int `env:"INDEXER_REPLICAS" default:"1" min:"1" max:"1000" help:"number of indexers on this database, for the check of max_locks_per_transaction"`

	// Notifications of the past are not wanted.
	NotifyBackfill bool `env:"INDEXER_BACKFILL_NOTIFICATIONS" default:"false" help:"write notifications for backfilled records too"`
	// LegacyBlobs takes records with blobs of the old form, which the AppView's own indexer refuses.
	LegacyBlobs bool `env:"INDEXER_LEGACY_BLOBS" default:"false" help:"index records whose blobs have the old form {cid, mimeType}"`

	// ResolveDIDs switches the verification of handles.
	ResolveDIDs bool `env:"ENABLE_DID_RESOLUTION" default:"true" help:"verify handles"`
	// CheckAccounts asks the current PDS before an account is hidden or deleted. It needs ResolveDIDs.
	CheckAccounts bool `env:"INDEXER_CHECK_ACCOUNTS" default:"true" help:"ask the current PDS of an account before it is hidden or deleted; only with ENABLE_DID_RESOLUTION"`
	// PLCURL, HandleResolver and AllowPrivate are about identities.
	PLCURL         string   `env:"PLC_URL" default:"https://plc.directory" help:"the PLC directory"`
	HandleResolver string   `env:"HANDLE_RESOLVER_URL" help:"XRPC service that resolves handles, in place of DNS and HTTPS"`
	AllowPrivate   []string `env:"ALLOW_PRIVATE_NETWORK" help:"prefixes, or all: addresses learned from the network that may be private"`
	// Resolvers, ResolveRate bound the verification.
	Resolvers   int     `env:"INDEXER_RESOLVERS" default:"16" min:"1" max:"256" help:"identities that are looked up at once"`
	ResolveRate float64 `env:"INDEXER_RESOLVE_RATE" default:"100" min:"0.1" max:"100000" help:"identities looked up per second"`

	// FoldEvery is the pause between two foldings of the counts.
	FoldEvery time.Duration `env:"INDEXER_FOLD_MS" unit:"ms" default:"300" min:"10" max:"60000" help:"pause between two foldings of count changes"`
	// RecheckEvery is the pause between two rounds of facts that span repositories.
	RecheckEvery time.Duration `env:"INDEXER_RECHECK_MS" unit:"ms" default:"300" min:"10" max:"60000" help:"pause between two rounds of rechecks"`
	// DeletionsKept is for how many days deletions are remembered; 0 is for ever.
	DeletionsKept int `env:"INDEXER_DELETIONS_DAYS" default:"30" min:"0" max:"3650" help:"days after which an applied deletion of a record is forgotten, but for posts and accounts; longer than any entry waits in a stream or is replayed; 0 keeps all"`
	// TrimEvery is the pause between two trims of the streams; 0 leaves it to others.
	TrimEvery time.Duration `env:"INDEXER_TRIM_MS" unit:"ms" default:"1000" min:"0" max:"600000" help:"pause between two trims of the streams; 0 leaves trimming to others"`

	// Migrate makes and updates the tables at start.
	Migrate bool `env:"INDEXER_MIGRATE" default:"true" help:"migrate the database at start"`
	// Check makes the migrate command only say what it would do.
	Check bool `env:"INDEXER_MIGRATE_CHECK" default:"false" help:"indexer migrate only says what would be done"`
	// DebugWait serves GET /debug/wait on the admin port.
	DebugWait bool `env:"INDEXER_DEBUG_WAIT" default:"false" help:"serve GET /debug/wait on the admin port"`
	// LagLimit makes the process not ready when it is so far behind; 0 switches it off.
	LagLimit time.Duration `env:"INDEXER_READY_LAG_SECS" unit:"s" default:"600" min:"0" max:"604800" help:"not ready while live events wait and the last one applied is older than this; 0 never"`
}

// Validate checks what one field alone cannot say.
func (c Config) Validate() error {
	var errs []error
	if c.Mode != "label" && len(c.Streams) == 0 {
		errs = append(errs, errors.New("INDEXER_STREAMS is empty: name at least one stream, or set INDEXER_MODE=label"))
	}
	if slices.Contains(c.Streams, c.LabelStream) {
		errs = append(errs, fmt.Errorf("INDEXER_LABEL_STREAM=%s is one of INDEXER_STREAMS", c.LabelStream))
	}
	if sorted := slices.Sorted(slices.Values(c.Streams)); len(slices.Compact(sorted)) != len(c.Streams) {
		errs = append(errs, fmt.Errorf("INDEXER_STREAMS=%s names a stream twice", strings.Join(c.Streams, ",")))
	}
	if c.PoolMin > c.PoolMax {
		errs = append(errs, fmt.Errorf("DB_POOL_MIN_IDLE=%d is above DB_POOL_MAX_SIZE=%d", c.PoolMin, c.PoolMax))
	}
	return errors.Join(errs...)
}

// consumer is the name of this member of the groups.
func (c Config) consumer() (string, error) {
	if c.Consumer != "" {
		return c.Consumer, nil
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "", errors.New("INDEXER_CONSUMER is not set and the host has no name")
	}
	return name, nil
}

// Args gives `migrate --check` its short form.
func Args(args []string) []string {
	if len(args) < 2 || args[1] != "migrate" {
		return args
	}
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--check" || a == "-check" {
			out[i] = "--indexer-migrate-check"
		}
	}
	return out
}
