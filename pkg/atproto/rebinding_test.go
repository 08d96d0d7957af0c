package atproto_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

// nameServer answers every question for an IPv4 address with what answers
// returns, to be kept for no time, and every other question with nothing.
func nameServer(t *testing.T, answers func() []netip.Addr) *net.Resolver {
	t.Helper()
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q.Type == dnsmessage.TypeA {
				for _, a := range answers() {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
						Body:   &dnsmessage.AResource{A: a.As4()},
					})
				}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// serverAt is a server on an address and a port of its own, or on the port that
// is given, which counts its connections.
func serverAt(t *testing.T, addr string) (port string, connections *atomic.Int64) {
	t.Helper()
	connections = &atomic.Int64{}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // the next request looks the name up again
		_, _ = w.Write([]byte(addr))
	}))
	srv.Listener = l
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port, connections
}

// A name that points somewhere else at every look: what counts is the address
// that is dialled.
func TestClientIsNotReboundByNames(t *testing.T) {
	t.Parallel()
	port, inside := serverAt(t, "127.0.0.1:0")
	_, outside := serverAt(t, "127.0.0.2:"+port)
	public, private := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")
	var looks atomic.Int64
	var now atomic.Pointer[[]netip.Addr]
	say := func(a ...netip.Addr) { now.Store(&a) }
	resolver := nameServer(t, func() []netip.Addr {
		looks.Add(1)
		return *now.Load()
	})
	// 127.0.0.2 stands for an address of the internet.
	client := newClient(t, atproto.HTTPConfig{AllowPrivate: []string{"127.0.0.2"}, Resolver: resolver})
	url := "http://rebinding.test:" + port + "/"

	say(public)
	_, err := fetch(t, client, url)
	require.NoError(t, err)
	say(private)
	_, err = fetch(t, client, url)
	require.ErrorContains(t, err, "is refused")
	require.Equal(t, fault.Permanent, fault.ClassOf(err))
	say(private, public)
	_, err = fetch(t, client, url)
	require.NoError(t, err, "of several addresses one is public")
	say(public)
	_, err = fetch(t, client, url)
	require.NoError(t, err)

	require.GreaterOrEqual(t, looks.Load(), int64(4))
	require.EqualValues(t, 3, outside.Load())
	require.Zero(t, inside.Load(), "what is private was dialled")
}
