package atproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// Cache is a second level of caching behind the memory of a Directory, shared
// between processes. Its methods are called concurrently and may block; their
// errors are counted and else the same as a miss.
type Cache interface {
	// Get returns what Set stored for the DID, and whether there was anything.
	Get(ctx context.Context, did string) ([]byte, bool, error)
	// Set stores a value for at most ttl.
	Set(ctx context.Context, did string, value []byte, ttl time.Duration) error
}

// DirectoryConfig configures a Directory. Every field may be left out.
type DirectoryConfig struct {
	// PLCURL is the PLC directory. Default https://plc.directory.
	PLCURL string
	// HandleResolverURL is an XRPC service that is asked for handles, in place of
	// DNS and HTTPS.
	HandleResolverURL string
	// Client fetches what comes from addresses of the network: did:web documents
	// and /.well-known/atproto-did. Default: NewHTTPClient with no private
	// network.
	Client *http.Client
	// Trusted fetches from PLCURL and HandleResolverURL. Default: NewHTTPClient,
	// trusted.
	Trusted *http.Client
	// LookupTXT resolves TXT records. Default: the resolver of the system.
	LookupTXT func(ctx context.Context, name string) ([]string, error)
	// Cache is the second level.
	Cache Cache
	// Size is how many identities stay in memory; one takes about 1 KB.
	// Default 100,000.
	Size int
	// TTL is how long an identity is taken from a cache. Default 24h.
	TTL time.Duration
	// NegativeTTL is the same for a DID that does not exist. Default 10m.
	NegativeTTL time.Duration
	// PLCRate is the requests a second to the PLC directory. Default 100.
	PLCRate float64
	// Concurrency bounds the requests at one time, to PLC and to others each.
	// Default 32.
	Concurrency int
	// Timeout bounds one lookup, waiting for a turn included. Default 20s.
	Timeout time.Duration

	Log      *slog.Logger
	Registry prometheus.Registerer
}

func (c *DirectoryConfig) defaults() error {
	if c.PLCURL == "" {
		c.PLCURL = "https://plc.directory"
	}
	c.PLCURL = strings.TrimRight(c.PLCURL, "/")
	c.HandleResolverURL = strings.TrimRight(c.HandleResolverURL, "/")
	if c.LookupTXT == nil {
		c.LookupTXT = net.DefaultResolver.LookupTXT
	}
	if c.Size <= 0 {
		c.Size = 100_000
	}
	if c.TTL <= 0 {
		c.TTL = 24 * time.Hour
	}
	if c.NegativeTTL <= 0 {
		c.NegativeTTL = 10 * time.Minute
	}
	if c.PLCRate <= 0 {
		c.PLCRate = 100
	}
	if c.Concurrency <= 0 {
		c.Concurrency = 32
	}
	if c.Timeout <= 0 {
		c.Timeout = 20 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.clients()
}

func (c *DirectoryConfig) clients() (err error) {
	if c.Client == nil {
		if c.Client, err = NewHTTPClient(HTTPConfig{Timeout: 10 * time.Second, MaxBody: maxDocument + 1}); err != nil {
			return err
		}
	}
	if c.Trusted == nil {
		c.Trusted, err = NewHTTPClient(HTTPConfig{Trusted: true, Timeout: 10 * time.Second, MaxBody: maxDocument + 1})
	}
	return err
}

// Directory knows identities and resolves handles. It caches, asks once when
// many want the same, and bounds what it asks the PLC directory. It is safe for
// concurrent use.
type Directory struct {
	c       DirectoryConfig
	memory  *otter.Cache[string, known]
	flights singleflight.Group
	plc     *rate.Limiter
	plcSlot chan struct{}
	webSlot chan struct{}
	parked  parking
	m       *metrics
}

// known is what is remembered of a DID: an identity, or that there is none.
type known struct {
	id   Identity
	gone string
	at   time.Time
}

// NewDirectory makes a Directory. It starts no goroutine.
func NewDirectory(c DirectoryConfig) (*Directory, error) {
	if err := c.defaults(); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	memory, err := otter.New(&otter.Options[string, known]{
		MaximumSize: c.Size,
		Executor:    func(task func()) { task() },
	})
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	return &Directory{
		c: c, memory: memory, m: newMetrics(c.Registry),
		plc:     rate.NewLimiter(rate.Limit(c.PLCRate), max(1, int(c.PLCRate))),
		plcSlot: make(chan struct{}, c.Concurrency),
		webSlot: make(chan struct{}, c.Concurrency),
	}, nil
}

// Identity returns what the DID document says. It takes it from memory, else
// from the second level, else from the network, and falls back to an older copy
// when that cannot be reached. That the DID does not exist, or no longer, is
// Permanent; that it could not be found out, Transient.
func (d *Directory) Identity(ctx context.Context, did string) (Identity, error) {
	k, have := d.memory.GetIfPresent(did)
	if have && d.fresh(k) {
		d.m.lookup("memory", k.gone == "")
		return k.result(did)
	}
	fetched, err := d.shared(ctx, did, func(ctx context.Context) (known, error) {
		if k, ok := d.cached(ctx, did); ok {
			return k, nil
		}
		return d.fetch(ctx, did)
	})
	if err != nil {
		if have && k.gone == "" && ctx.Err() == nil && fault.ClassOf(err) == fault.Transient {
			d.m.stale.Inc()
			return k.id, nil
		}
		return Identity{}, err
	}
	return fetched.result(did)
}

// Refresh is Identity past the caches, which it then fills.
func (d *Directory) Refresh(ctx context.Context, did string) (Identity, error) {
	k, err := d.shared(ctx, "refresh "+did, func(ctx context.Context) (known, error) { return d.fetch(ctx, did) })
	if err != nil {
		return Identity{}, err
	}
	return k.result(did)
}

// Put fills the caches with an identity that came another way, such as an
// export of the PLC directory.
func (d *Directory) Put(ctx context.Context, id Identity) {
	d.remember(ctx, id.DID, known{id: id, at: time.Now()})
}

func (k *known) result(did string) (Identity, error) {
	if k.gone != "" {
		return Identity{}, event.Dropf(event.ReasonNoIdentity, "%s: %s", did, k.gone)
	}
	return k.id, nil
}

func (d *Directory) fresh(k known) bool {
	ttl := d.c.TTL
	if k.gone != "" {
		ttl = d.c.NegativeTTL
	}
	return time.Since(k.at) < ttl
}

// shared runs a lookup once for all who want it at the same time. It runs in
// the context of the first of them; when that one goes away, another takes over.
func (d *Directory) shared(ctx context.Context, key string, look func(context.Context) (known, error)) (known, error) {
	for {
		mine := false
		v, err, _ := d.flights.Do(key, func() (any, error) {
			mine = true
			ctx, cancel := context.WithTimeout(ctx, d.c.Timeout)
			defer cancel()
			return look(ctx)
		})
		if err == nil {
			k, _ := v.(known)
			return k, nil
		}
		if mine || ctx.Err() != nil || !errors.Is(err, context.Canceled) {
			return known{}, err
		}
	}
}

// cached asks the second level.
func (d *Directory) cached(ctx context.Context, did string) (known, bool) {
	if d.c.Cache == nil {
		return known{}, false
	}
	b, ok, err := d.c.Cache.Get(ctx, did)
	if err != nil {
		d.m.cacheErrors.Inc()
		return known{}, false
	}
	var s storedIdentity
	if !ok || json.Unmarshal(b, &s) != nil {
		return known{}, false
	}
	k := known{id: s.identity(did), gone: s.Gone, at: time.Unix(s.At, 0)}
	if !d.fresh(k) {
		return known{}, false
	}
	d.memory.Set(did, k)
	d.m.lookup("cache", k.gone == "")
	return k, true
}

func (d *Directory) remember(ctx context.Context, did string, k known) {
	d.memory.Set(did, k)
	if d.c.Cache == nil {
		return
	}
	ttl := d.c.TTL
	if k.gone != "" {
		ttl = d.c.NegativeTTL
	}
	b, err := k.id.stored(k).marshal()
	if err == nil {
		err = d.c.Cache.Set(ctx, did, b, ttl)
	}
	if err != nil {
		d.m.cacheErrors.Inc()
	}
}

// fetch asks the network and fills the caches.
func (d *Directory) fetch(ctx context.Context, did string) (known, error) {
	parsed, err := syntax.ParseDID(did)
	if err != nil {
		return known{}, event.Dropf(event.ReasonBadDID, "did %.80q: %w", did, err)
	}
	var (
		doc    []byte
		source = parsed.Method()
	)
	switch source {
	case "plc":
		doc, err = d.fetchPLC(ctx, did)
	case "web":
		doc, err = d.fetchWeb(ctx, parsed.Identifier())
	default:
		return known{}, event.Dropf(event.ReasonBadDID, "did %.80q: method is neither plc nor web", did)
	}
	if gone := new(goneError); errors.As(err, &gone) {
		d.m.lookup(source, false)
		k := known{gone: gone.why, at: time.Now()}
		d.remember(ctx, did, k)
		return k, nil
	}
	if err != nil {
		d.m.failed(source)
		return known{}, fault.As(fault.ClassOf(err), fmt.Errorf("look up %s: %w", did, err))
	}
	k, err := d.read(did, source, doc)
	if err != nil {
		d.m.failed(source)
		return known{}, err
	}
	d.m.lookup(source, k.gone == "")
	d.remember(ctx, did, k)
	return k, nil
}

// read takes a document apart. One that is wrong is as good as none, but the
// PLC directory has no malformed ones: then something else has answered.
func (d *Directory) read(did, source string, doc []byte) (known, error) {
	if source == "plc" && !json.Valid(doc) {
		return known{}, fmt.Errorf("look up %s: the answer is not JSON", did)
	}
	id, err := ParseDocument(did, doc)
	if err != nil {
		return known{gone: err.Error(), at: time.Now()}, nil //nolint:nilerr // the error is what is remembered
	}
	return known{id: id, at: time.Now()}, nil
}
