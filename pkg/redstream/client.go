package redstream

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// Config says where Redis is.
type Config struct {
	// URL is one of
	//
	//	redis://user:password@host:port/db          one server
	//	rediss://host:port?ca_file=/path            the same with TLS (cert_file, key_file, skip_verify)
	//	redis+sentinel://h1:p1,h2:p2?master_set=m   Sentinel (sentinel_user, sentinel_password)
	//	redis+cluster://h1:p1,h2:p2                 Cluster
	//
	// rediss+sentinel and rediss+cluster use TLS.
	URL string
	// KeyPrefix goes before every key. Several deployments may share a Redis.
	KeyPrefix string
}

// Client is one connection set to one Redis. It is safe for concurrent use.
type Client struct {
	rc      rueidis.Client
	addr    address
	keys    keys
	log     *slog.Logger
	metrics *metrics
	server  Server

	closing sync.Once
}

// Open connects and checks that the server can be relied on: version 7.0 or
// later and maxmemory-policy noeviction. An unreachable server is a Transient
// error, an unsuitable one is Fatal.
func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Client, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	addr, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	rc, err := rueidis.NewClient(addr.option)
	if err != nil {
		if rc != nil {
			rc.Close()
		}
		return nil, classify("connect", addr.shown, err)
	}
	c := &Client{
		rc: rc, addr: addr, log: log.With(slog.String("component", "redstream")),
		keys: keys{prefix: cfg.KeyPrefix, cluster: addr.cluster}, metrics: newMetrics(reg),
	}
	if c.server, err = c.Inspect(ctx); err == nil {
		err = c.server.Check()
	}
	if err != nil {
		rc.Close()
		return nil, fmt.Errorf("open %s: %w", addr.shown, err)
	}
	return c, nil
}

// Close ends all connections. Writers and consumers are closed before it.
func (c *Client) Close() { c.closing.Do(c.rc.Close) }

// Server says what was found at Open.
func (c *Client) Server() Server { return c.server }

// Ping asks the server for an answer.
func (c *Client) Ping(ctx context.Context) error {
	return classify("ping", c.addr.shown, c.do(ctx, c.rc.B().Ping().Build()).Error())
}

// Len is the number of entries of a stream; 0 if there is none.
func (c *Client) Len(ctx context.Context, stream string) (int64, error) {
	key := c.keys.stream(stream)
	n, err := c.do(ctx, c.rc.B().Xlen().Key(key).Build()).AsInt64()
	return n, classify("xlen", key, err)
}

// attempt bounds one exchange with Redis, also when it hangs. A caller that
// stops does not cut an exchange short: what Redis has done must be known.
func attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*connTimeout)
}

func (c *Client) do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	once, cancel := attempt(ctx)
	defer cancel()
	return c.rc.Do(once, cmd)
}

func (c *Client) script(ctx context.Context, s *rueidis.Lua, keys, args []string) rueidis.RedisResult {
	once, cancel := attempt(ctx)
	defer cancel()
	return s.Exec(once, c.rc, keys, args)
}

// ended says whether the caller takes no more.
func ended(ctx context.Context) bool { return ctx.Err() != nil }

// pause waits for d and says whether ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) (stop bool) { return fault.Sleep(ctx, d) != nil }

// once passes on the first call only: repeated trouble is one line in the log.
func once(say func(error)) func(error) {
	said := false
	return func(err error) {
		if !said {
			said = true
			say(err)
		}
	}
}

// persist repeats step until it succeeds, fails for good, or ctx ends.
func persist(ctx context.Context, notify func(error), step func(context.Context) error) error {
	return fault.Retry(ctx, fault.Backoff{
		Initial: 20 * time.Millisecond, Max: 2 * time.Second,
		Notify: func(err error, _ int, _ time.Duration) { notify(err) },
	}, step)
}
