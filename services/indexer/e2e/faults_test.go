package e2e_test

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/testkit"
)

// cutter passes bytes on to a server and cuts connections at any moment: before
// a statement arrives, in the middle of it, or after it is done and before the
// answer is out.
type cutter struct {
	addr string

	mu    sync.Mutex
	conns map[net.Conn]net.Conn
	cuts  int
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{addr: l.Addr().String(), conns: map[net.Conn]net.Conn{}}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		c.cut(math.MaxInt)
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			server, err := d.DialContext(context.WithoutCancel(t.Context()), "tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			c.mu.Lock()
			c.conns[client] = server
			c.mu.Unlock()
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.Close()
				_ = from.Close()
			}
			wg.Go(func() { pass(server, client) })
			wg.Go(func() {
				pass(client, server)
				c.mu.Lock()
				delete(c.conns, client)
				c.mu.Unlock()
			})
		}
	})
	return c
}

// cut ends up to n connections on the side of the client; what the server has
// begun it may finish.
func (c *cutter) cut(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client := range c.conns {
		if n--; n < 0 {
			return
		}
		c.cuts++
		_ = client.Close()
	}
}

// Connections to PostgreSQL are cut all the time, in the middle of commits too:
// the tables end up the same.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	n := history(t)
	calm := newSuite(t)
	calm.send("firehose_live", event.JSON, n.events...)
	calm.wait(calm.start(calm.config("one")))
	want := calm.rows(allTables...)

	s := newSuite(t)
	direct, err := url.Parse(s.dbURL)
	require.NoError(t, err)
	c := newCutter(t, direct.Host)
	through := *direct
	through.Host = c.addr
	cfg := s.config("one")
	cfg.DatabaseURL, cfg.BatchSize = through.String(), 10
	in := s.start(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for fault.Sleep(ctx, time.Duration(60+r.IntN(100))*time.Millisecond) == nil {
			c.cut(1 + r.IntN(2))
		}
	})
	s.send("firehose_live", event.JSON, n.events...)
	require.Eventually(t, func() bool { return s.passed("firehose_live") }, 4*time.Minute, 10*time.Millisecond)
	cancel()
	wg.Wait()
	s.wait(in)
	require.Greater(t, c.cuts, 3)
	letters, err := s.client.Len(t.Context(), "firehose_live_dlq")
	require.NoError(t, err)
	require.Zero(t, letters)
	sameTables(t, want, s.rows(allTables...))
	t.Logf("%d connections cut", c.cuts)
}

// A server that has no room for another connection is waited for.
func TestNoConnectionLeft(t *testing.T) {
	t.Parallel()
	redisURL, prefix := testkit.Redis(t)
	server := testkit.StartPostgres(t, "max_connections=12", "superuser_reserved_connections=3")
	s := suiteOn(t, redisURL, prefix, server.URL, "bsky")
	cfg := s.config("one")
	cfg.PoolMax = 30
	cfg.Concurrency = 26
	in := s.start(cfg)
	s.send("firehose_live", event.JSON, likes(500, 50)...)
	s.send("firehose_backfill", event.JSON, likes(3000, 300)...)
	require.Eventually(t, func() bool {
		return s.passed("firehose_live") && s.passed("firehose_backfill")
	}, 4*time.Minute, 20*time.Millisecond)
	in.stop()
	for _, stream := range []string{"firehose_live", "firehose_backfill"} {
		letters, err := s.client.Len(t.Context(), stream+"_dlq")
		require.NoError(t, err)
		require.Zero(t, letters, stream)
	}
	require.Equal(t, 3000, len(s.rows("like")["like"])) //nolint:testifylint // a failure would print all of them
}
