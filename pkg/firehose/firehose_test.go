package firehose_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/fault"
	"sluice/pkg/firehose"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server runs serve for each connection, numbered from 1.
type server struct {
	*httptest.Server
	conns   atomic.Int64
	cursors chan string
}

func newServer(t *testing.T, serve func(n int64, c *websocket.Conn)) *server {
	t.Helper()
	s := &server{cursors: make(chan string, 1000)}
	up := websocket.Upgrader{EnableCompression: true}
	var done sync.WaitGroup
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/xrpc/"+firehose.SubscribeRepos {
			http.Error(w, "no such method", http.StatusNotFound)
			return
		}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		done.Add(1)
		defer done.Done()
		defer c.Close()
		s.cursors <- r.URL.Query().Get("cursor")
		serve(s.conns.Add(1), c)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		done.Wait()
	})
	return s
}

// hold keeps a connection open until the client goes away.
func hold(c *websocket.Conn) {
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			return
		}
	}
}

func send(c *websocket.Conn, msgs ...string) {
	for _, m := range msgs {
		_ = c.WriteMessage(websocket.BinaryMessage, []byte(m))
	}
}

// subscriber collects messages; its cursor is the number of them.
type subscriber struct {
	mu     sync.Mutex
	got    []string
	handle func(msg string) error
	extra  func(*firehose.Config)
	reg    *prometheus.Registry
}

func (s *subscriber) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// start runs a subscription; stop ends it and returns the error of Run.
func (s *subscriber) start(t *testing.T, host string) (stop func() error, done <-chan error) {
	t.Helper()
	s.reg = prometheus.NewRegistry()
	c := firehose.Config{
		Host: host, Method: firehose.SubscribeRepos,
		Cursor: func(context.Context) (int64, bool, error) { return int64(s.count()), s.count() > 0, nil },
		Handle: func(_ context.Context, msg []byte) error {
			if s.handle != nil {
				if err := s.handle(string(msg)); err != nil {
					return err
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.got = append(s.got, string(msg))
			return nil
		},
		Backoff: fault.Backoff{Initial: time.Millisecond, Max: 5 * time.Millisecond},
		Metrics: firehose.NewMetrics(s.reg),
	}
	if s.extra != nil {
		s.extra(&c)
	}
	sub, err := firehose.New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(ctx) }()
	return func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(30 * time.Second):
			return errors.New("Run did not return")
		}
	}, ended
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 30*time.Second, time.Millisecond, what)
}

func (s *subscriber) reconnects(t *testing.T, reason string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "sluice_firehose_reconnects_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason && m.GetLabel()[1].GetValue() == "repos" {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestReconnectsAtTheCursor(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(n int64, c *websocket.Conn) {
		send(c, fmt.Sprintf("%d a", n), fmt.Sprintf("%d b", n))
		if n == 3 {
			hold(c)
		}
	})
	var ups, downs atomic.Int64
	s := &subscriber{extra: func(c *firehose.Config) {
		c.State = func(up bool) {
			if up {
				ups.Add(1)
			} else {
				downs.Add(1)
			}
		}
	}}
	stop, _ := s.start(t, srv.URL)
	eventually(t, "six messages", func() bool { return s.count() == 6 })
	require.NoError(t, stop())
	require.Equal(t, []string{"1 a", "1 b", "2 a", "2 b", "3 a", "3 b"}, s.got)
	require.Empty(t, <-srv.cursors)
	require.Equal(t, "2", <-srv.cursors)
	require.Equal(t, "4", <-srv.cursors)
	require.Equal(t, int64(3), ups.Load())
	require.Equal(t, int64(3), downs.Load())
	require.Positive(t, s.reconnects(t, "read")+s.reconnects(t, "closed"))
	n, err := testutil.GatherAndCount(s.reg)
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestHandlerBlocksTheRead(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	big := string(bytes.Repeat([]byte("x"), 100_000))
	srv := newServer(t, func(_ int64, c *websocket.Conn) {
		for range 400 { // 40 MB: more than the sockets hold
			if c.WriteMessage(websocket.BinaryMessage, []byte(big)) != nil {
				return
			}
			sent.Add(1)
		}
		hold(c)
	})
	open := make(chan struct{})
	s := &subscriber{handle: func(string) error { <-open; return nil }}
	stop, _ := s.start(t, srv.URL)
	last := int64(-1)
	eventually(t, "the server stands still", func() bool {
		now := sent.Load()
		still := now > 0 && now == last
		last = now
		time.Sleep(20 * time.Millisecond)
		return still
	})
	require.Less(t, sent.Load(), int64(400))
	require.Zero(t, s.count())
	close(open)
	eventually(t, "all messages", func() bool { return s.count() == 400 })
	require.NoError(t, stop())
	require.Equal(t, int64(1), srv.conns.Load())
}

func TestIdleHint(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	srv := newServer(t, func(_ int64, c *websocket.Conn) {
		send(c, "a", "b", "c")
		<-next
		send(c, "d")
		hold(c)
	})
	hints := make(chan int, 100)
	s := &subscriber{}
	s.extra = func(c *firehose.Config) { c.Idle = func() { hints <- s.count() } }
	stop, _ := s.start(t, srv.URL)
	seen := 0
	for seen < 3 { // the three may come in more than one piece
		seen = <-hints
	}
	close(next)
	require.Equal(t, 4, <-hints)
	require.NoError(t, stop())
	require.Empty(t, hints)
}

func TestQuietConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(n int64, c *websocket.Conn) {
		send(c, "a")
		if n > 1 {
			hold(c)
			return
		}
		for c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)) == nil {
			time.Sleep(5 * time.Millisecond)
		}
	})
	s := &subscriber{extra: func(c *firehose.Config) { c.DataIdle = 100 * time.Millisecond }}
	stop, _ := s.start(t, srv.URL)
	eventually(t, "a second connection", func() bool { return srv.conns.Load() >= 2 })
	require.NoError(t, stop())
	require.Positive(t, s.reconnects(t, "idle"))
	require.Zero(t, s.reconnects(t, "read"))
}

func TestDeadPeerIsNoticed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	srv := newServer(t, func(_ int64, c *websocket.Conn) { <-release }) // answers no ping
	s := &subscriber{extra: func(c *firehose.Config) {
		c.PingEvery, c.ReadTimeout = 10*time.Millisecond, 60*time.Millisecond
	}}
	stop, _ := s.start(t, srv.URL)
	eventually(t, "a second connection", func() bool { return srv.conns.Load() >= 2 })
	require.NoError(t, stop())
	close(release)
	require.Positive(t, s.reconnects(t, "read"))
}

func TestPongsKeepAQuietConnection(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(_ int64, c *websocket.Conn) {
		go func() {
			time.Sleep(300 * time.Millisecond)
			send(c, "late")
		}()
		hold(c)
	})
	s := &subscriber{extra: func(c *firehose.Config) {
		c.PingEvery, c.ReadTimeout = 10*time.Millisecond, 100*time.Millisecond
	}}
	stop, _ := s.start(t, srv.URL)
	eventually(t, "the message", func() bool { return s.count() == 1 })
	require.NoError(t, stop())
	require.Equal(t, int64(1), srv.conns.Load())
}

func TestTooBig(t *testing.T) {
	t.Parallel()
	for name, compress := range map[string]bool{"plain": false, "deflate bomb": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, func(n int64, c *websocket.Conn) {
				c.EnableWriteCompression(compress)
				size := 1000
				if n == 1 {
					size = 3_000_000
				}
				_ = c.WriteMessage(websocket.BinaryMessage, make([]byte, size))
				hold(c)
			})
			s := &subscriber{extra: func(c *firehose.Config) { c.MaxFrame, c.Compression = 100_000, compress }}
			stop, _ := s.start(t, srv.URL)
			eventually(t, "the small one", func() bool { return s.count() == 1 })
			require.NoError(t, stop())
			require.Len(t, s.got[0], 1000)
			require.InDelta(t, 1, s.reconnects(t, "too_big"), 0)
		})
	}
}

// A message over the limit is told of and passed over on the same connection.
func TestOversize(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(_ int64, c *websocket.Conn) {
		big := make([]byte, 300_000)
		big[0] = 7
		_ = c.WriteMessage(websocket.BinaryMessage, []byte("a"))
		_ = c.WriteMessage(websocket.BinaryMessage, big)
		_ = c.WriteMessage(websocket.BinaryMessage, []byte("b"))
		hold(c)
	})
	var beginnings [][]byte
	s := &subscriber{extra: func(c *firehose.Config) {
		c.MaxFrame = 100_000
		c.Oversize = func(_ context.Context, beginning []byte) error {
			beginnings = append(beginnings, beginning)
			return nil
		}
	}}
	stop, _ := s.start(t, srv.URL)
	eventually(t, "both small ones", func() bool { return s.count() == 2 })
	require.NoError(t, stop())
	require.Equal(t, []string{"a", "b"}, s.got)
	require.Len(t, beginnings, 1)
	require.Len(t, beginnings[0], 64<<10)
	require.Equal(t, byte(7), beginnings[0][0])
	require.Equal(t, int64(1), srv.conns.Load())
}

func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	serve := func(_ int64, c *websocket.Conn) {
		send(c, "a", "b")
		hold(c)
	}
	t.Run("transient", func(t *testing.T) {
		t.Parallel()
		srv := newServer(t, serve)
		failed := false
		s := &subscriber{handle: func(msg string) error {
			if msg == "b" && !failed {
				failed = true
				return errors.New("not now")
			}
			return nil
		}}
		stop, _ := s.start(t, srv.URL)
		eventually(t, "messages of two connections", func() bool { return s.count() == 3 })
		require.NoError(t, stop())
		require.Equal(t, []string{"a", "a", "b"}, s.got)
		require.InDelta(t, 1, s.reconnects(t, "handler"), 0)
	})
	t.Run("fatal", func(t *testing.T) {
		t.Parallel()
		srv := newServer(t, serve)
		boom := fault.Fatalf("boom")
		s := &subscriber{handle: func(string) error { return boom }}
		stop, done := s.start(t, srv.URL)
		err := <-done
		require.ErrorIs(t, err, boom)
		require.Equal(t, fault.Fatal, fault.ClassOf(err))
		_ = stop
	})
	t.Run("cursor", func(t *testing.T) {
		t.Parallel()
		srv := newServer(t, serve)
		tries := 0
		s := &subscriber{extra: func(c *firehose.Config) {
			c.Cursor = func(context.Context) (int64, bool, error) {
				if tries++; tries < 3 {
					return 0, false, errors.New("redis is away")
				}
				return 0, false, fault.Fatalf("wrong type")
			}
		}}
		_, done := s.start(t, srv.URL)
		require.ErrorContains(t, <-done, "wrong type")
		require.Zero(t, srv.conns.Load())
		require.InDelta(t, 2, s.reconnects(t, "cursor"), 0)
	})
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	refuse := atomic.Bool{}
	refuse.Store(true)
	inner := newServer(t, func(_ int64, c *websocket.Conn) { send(c, "a"); hold(c) })
	outer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() {
			http.Error(w, "slow down", http.StatusTooManyRequests)
			return
		}
		inner.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(outer.Close)
	s := &subscriber{}
	stop, _ := s.start(t, outer.URL)
	eventually(t, "refused dials", func() bool { return s.reconnects(t, "dial") >= 3 })
	refuse.Store(false)
	eventually(t, "the message", func() bool { return s.count() == 1 })
	require.NoError(t, stop())
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"bsky.network":           {"bsky.network", "wss://bsky.network/xrpc/m?cursor=7"},
		" Bsky.Network:443 ":     {"bsky.network:443", "wss://bsky.network:443/xrpc/m?cursor=7"},
		"https://a.test":         {"a.test", "wss://a.test/xrpc/m?cursor=7"},
		"wss://a.test/":          {"a.test", "wss://a.test/xrpc/m?cursor=7"},
		"http://localhost:2470":  {"localhost:2470", "ws://localhost:2470/xrpc/m?cursor=7"},
		"ws://127.0.0.1:1/base/": {"127.0.0.1:1", "ws://127.0.0.1:1/base/xrpc/m?cursor=7"},
		"localhost:2470":         {"localhost:2470", "wss://localhost:2470/xrpc/m?cursor=7"},
		"[::1]:80":               {"[::1]:80", "wss://[::1]:80/xrpc/m?cursor=7"},
	} {
		host, err := firehose.BareHost(in)
		require.NoError(t, err, in)
		require.Equal(t, want[0], host)
		sub, err := firehose.New(firehose.Config{
			Host: in, Method: "m",
			Cursor: func(context.Context) (int64, bool, error) { return 0, false, nil },
			Handle: func(context.Context, []byte) error { return nil },
		})
		require.NoError(t, err)
		require.Equal(t, want[1], sub.URL(7, true))
		require.NotContains(t, sub.URL(7, false), "cursor")
	}
	for _, bad := range []string{"", "ftp://a", "https://", "https://u:p@a.test", "a.test?x=1", "a b", "https://a.test#x"} {
		_, err := firehose.BareHost(bad)
		require.Error(t, err, bad)
		require.Equal(t, fault.Fatal, fault.ClassOf(err))
	}
	_, err := firehose.New(firehose.Config{Host: "a.test"})
	require.Error(t, err)
}

func TestStopDuringBackoffAndHandler(t *testing.T) {
	t.Parallel()
	s := &subscriber{extra: func(c *firehose.Config) { c.Backoff = fault.Backoff{Initial: time.Hour, Max: time.Hour} }}
	stop, _ := s.start(t, "http://127.0.0.1:1")
	eventually(t, "the first failure", func() bool { return s.reconnects(t, "dial") == 1 })
	require.NoError(t, stop())

	srv := newServer(t, func(_ int64, c *websocket.Conn) { send(c, "a", "b"); hold(c) })
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	s = &subscriber{handle: func(string) error { entered <- struct{}{}; <-leave; return nil }}
	stop, _ = s.start(t, srv.URL)
	<-entered
	go close(leave)
	require.NoError(t, stop())
	require.Equal(t, []string{"a"}, s.got[:1])
}
