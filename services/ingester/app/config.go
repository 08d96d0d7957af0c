package app

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"sluice/services/ingester/internal/feed"
	"sluice/services/ingester/internal/repos"
)

// The modes: what one process does.
const (
	modeAll      = "all"
	modeFirehose = "firehose"
	modeBackfill = "backfill"
	modeLabeler  = "labeler"
)

// Config holds the settings of the ingester.
type Config struct {
	RedisURL  string `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis of the streams; also rediss://, redis+sentinel://, redis+cluster://"`
	KeyPrefix string `env:"STREAM_KEY_PREFIX" help:"goes before every key, for several deployments on one Redis"`
	Encoding  string `env:"STREAM_ENCODING" default:"json" oneof:"json,protobuf" help:"form of the entries written; both are read"`
	// MetricsPort has a default of its own here.
	MetricsPort int `env:"METRICS_PORT" default:"4100" min:"0" max:"65535" help:"port of /metrics, /healthz, /readyz and /debug/pprof; 0 takes any free port"`

	PLCURL         string   `env:"PLC_URL" default:"https://plc.directory" help:"directory of did:plc"`
	PrivateNetwork []string `env:"ALLOW_PRIVATE_NETWORK" help:"prefixes, or all: private and loopback addresses that the network may name"`

	// Mode chooses what one process does; several may share the work.
	Mode   string   `env:"INGESTER_MODE" default:"all" oneof:"all,firehose,backfill,labeler" help:"what this process does: follow relays, list repositories, follow labelers, or all of it"`
	Relays []string `env:"INGESTER_RELAY_HOSTS,INGESTER_HOSTS" default:"bsky.network" help:"relays; wss://, ws://, https://, http:// are honoured, none means TLS"`
	// RelayFile is for relays that change while the process runs.
	RelayFile    string        `env:"INGESTER_RELAY_FILE" help:"file with one relay a line, used instead of INGESTER_RELAY_HOSTS and read again when it changes: relays come and go without a gap"`
	RelayOverlap time.Duration `env:"INGESTER_RELAY_OVERLAP_SECS" unit:"s" default:"60" min:"1" help:"a relay that is new is followed beside those before it for at least so long until it may take their place; more than one relay may be behind another"`
	RelayLost    time.Duration `env:"INGESTER_RELAY_LOST_SECS" unit:"s" default:"600" min:"1" help:"a relay that is to be replaced and cannot be connected to for so long is given up: what may be missing is fetched"`

	Labelers []string `env:"INGESTER_LABELER_HOSTS" help:"labelers, as the relays"`

	HighWater         int64 `env:"INGESTER_HIGH_WATER_MARK" default:"100000" min:"1" help:"entries in a stream at which its writer waits; it goes on at 80 %"`
	FirehoseHighWater int64 `env:"INGESTER_FIREHOSE_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for firehose_live alone; 0 takes INGESTER_HIGH_WATER_MARK"`
	LabelHighWater    int64 `env:"INGESTER_LABEL_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for label_live alone"`
	RepoHighWater     int64 `env:"INGESTER_REPO_STREAM_HIGH_WATER_MARK" default:"0" min:"0" help:"the same for repo_backfill alone"`

	BatchSize    int           `env:"INGESTER_BATCH_SIZE" default:"500" min:"1" max:"10000" help:"entries at which an append goes without waiting for more"`
	BatchTimeout time.Duration `env:"INGESTER_BATCH_TIMEOUT_MS" unit:"ms" default:"1000" min:"1" help:"longest wait for more; a socket with nothing to give ends it at once"`
	Workers      int           `env:"INGESTER_WORKERS" default:"64" min:"1" max:"4096" help:"frames judged at the same time, waits for identities included"`
	Window       int           `env:"INGESTER_WINDOW" default:"4096" min:"1" max:"1000000" help:"frames of one relay read and not yet durable"`
	WindowBytes  int64         `env:"INGESTER_WINDOW_BYTES" default:"67108864" min:"5000000" help:"bytes of these frames"`

	Start       string        `env:"INGESTER_FIREHOSE_START" default:"live" help:"where a relay without a cursor begins: live, oldest, or a sequence number"`
	Verify      string        `env:"INGESTER_VERIFY" default:"full" oneof:"off,structure,full" help:"how much of a commit is verified"`
	Collections []string      `env:"INGESTER_COLLECTIONS" default:"app.bsky.*,chat.bsky.*" help:"collections kept, wildcard at NSID segment ends"`
	Extra       []string      `env:"INGESTER_EXTRA_COLLECTIONS" default:"com.germnetwork.declaration" help:"indexed declarations of other namespaces, kept as well"`
	DataIdle    time.Duration `env:"INGESTER_DATA_IDLE_SECS" unit:"s" default:"60" min:"0" help:"a relay that sends no frame for so long is connected to anew; 0 for a quiet network"`
	Compression bool          `env:"INGESTER_COMPRESSION" default:"true" help:"offer compression to relays and labelers"`

	NoIdentity       string        `env:"INGESTER_NO_IDENTITY" default:"wait" oneof:"wait,pass" help:"commits whose account's key cannot be looked up: wait, or pass without the check of their signature"`
	IdentityPatience time.Duration `env:"INGESTER_IDENTITY_PATIENCE_SECS" unit:"s" default:"0" min:"0" help:"longest wait for a key, after which the repository is fetched instead or the commit passes; 0 is 600 to wait, 10 to pass"`
	PLCRate          float64       `env:"INGESTER_PLC_RATE" default:"100" min:"0.1" max:"100000" help:"requests per second to the PLC directory"`
	Identities       int           `env:"INGESTER_IDENTITY_CACHE" default:"200000" min:"1000" help:"identities kept in memory"`
	SharedIdentities int           `env:"IDENTITY_CACHE_SHARED" default:"200000" min:"1000" help:"identities kept in Redis for all processes, about 300 bytes each"`
	IdentityTTL      time.Duration `env:"INGESTER_IDENTITY_TTL_SECS" unit:"s" default:"86400" min:"1" help:"time after which an identity is looked up again"`

	States         int           `env:"INGESTER_STATES" default:"1000000" min:"10000" help:"repositories whose last rev is kept in Redis (about 80 MB), half of them in memory too"`
	ResyncInterval time.Duration `env:"INGESTER_RESYNC_INTERVAL_SECS" unit:"s" default:"300" min:"1" help:"least time between two fetches of one repository"`
	DeadLetters    int64         `env:"INGESTER_DEAD_LETTERS" default:"10000" min:"1" help:"unreadable frames kept for each stream; more are only counted"`

	Enumerate            string        `env:"INGESTER_ENUMERATE" default:"relay" oneof:"relay,hosts" help:"list repositories at the relays, or at every host that the relays name"`
	EnumerateEvery       time.Duration `env:"INGESTER_ENUMERATE_INTERVAL_SECS" unit:"s" default:"86400" min:"1" help:"time from the end of a listing to the next one"`
	EnumerateConcurrency int           `env:"INGESTER_ENUMERATE_CONCURRENCY" default:"8" min:"1" max:"1024" help:"hosts listed at the same time"`
	EnumerateRevs        int           `env:"INGESTER_ENUMERATE_REVS" default:"1000000" min:"0" help:"repositories whose listed rev is kept in Redis (about 50 MB), so that a later listing asks only for what has changed; 0 asks for all"`

	VerifyLabels string `env:"INGESTER_VERIFY_LABELS" default:"off" oneof:"off,signed,require" help:"signatures of labels: not checked, checked where there is one, or required"`

	LagLimit time.Duration `env:"INGESTER_READY_LAG_SECS" unit:"s" default:"0" min:"0" max:"86400" help:"not ready while the last event written is older; 0 for a quiet network"`
}

// Validate checks what the tags cannot.
func (c Config) Validate() error {
	var errs []error
	if _, err := feed.ParseHosts(c.Relays); err != nil {
		errs = append(errs, fmt.Errorf("INGESTER_RELAY_HOSTS: %w", err))
	}
	if c.Mode != modeLabeler && len(c.Relays) == 0 && c.RelayFile == "" {
		errs = append(errs, errors.New("INGESTER_RELAY_HOSTS is empty: name a relay, or set INGESTER_MODE=labeler"))
	}
	if _, err := feed.ParseHosts(c.Labelers); err != nil {
		errs = append(errs, fmt.Errorf("INGESTER_LABELER_HOSTS: %w", err))
	}
	if c.Mode == modeLabeler && len(c.Labelers) == 0 {
		errs = append(errs, errors.New("INGESTER_LABELER_HOSTS is empty, and INGESTER_MODE=labeler needs one"))
	}
	if _, err := c.keep(); err != nil {
		errs = append(errs, fmt.Errorf("INGESTER_COLLECTIONS: %w", err))
	}
	if seq, err := strconv.ParseInt(c.Start, 10, 64); c.Start != repos.StartLive && c.Start != repos.StartOldest && (err != nil || seq < 0) {
		errs = append(errs, fmt.Errorf("INGESTER_FIREHOSE_START=%q is none of live, oldest or a sequence number", c.Start))
	}
	return errors.Join(errs...)
}

func (c Config) keep() (*repos.Collections, error) {
	return repos.ParseCollections(slices.Concat(c.Collections, c.Extra)...)
}

func (c Config) does(mode string) bool { return c.Mode == modeAll || c.Mode == mode }

// mark is the high-water mark of a stream.
func (c Config) mark(own int64) int64 {
	if own > 0 {
		return own
	}
	return c.HighWater
}
