package atproto_test

import (
	"compress/gzip"
	"context"
	"io"
	"log" //nolint:depguard // what http.Server takes
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

func newClient(tb testing.TB, c atproto.HTTPConfig) *http.Client {
	tb.Helper()
	client, err := atproto.NewHTTPClient(c)
	require.NoError(tb, err)
	tb.Cleanup(client.CloseIdleConnections)
	return client
}

func fetch(tb testing.TB, client *http.Client, url string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(tb, err)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestClientRefusesPrivateAddresses(t *testing.T) {
	t.Parallel()
	client := newClient(t, atproto.HTTPConfig{})
	for _, host := range []string{
		"127.0.0.1:1", "localhost:1", "[::1]:1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
		"0.0.0.0:1", "[::]:1", "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]:1", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]",
		"[2002:7f00:1::]", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "2130706433:1", "0x7f.1:1",
	} {
		_, err := fetch(t, client, "http://"+host+"/")
		require.Error(t, err, host)
		if strings.Contains(host, "x7f") || strings.Contains(host, "2130706433") {
			continue // not an address to this resolver
		}
		require.ErrorContains(t, err, "is refused", host)
		require.Equal(t, fault.Permanent, fault.ClassOf(err), host)
	}
}

func TestClientAllowsWhatIsNamed(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.UserAgent()))
	}))
	t.Cleanup(srv.Close)
	for _, allow := range [][]string{{"all"}, {"127.0.0.0/8"}, {" 127.0.0.1 ", "::1"}, {"10.0.0.0/8", "127.0.0.1/32"}} {
		got, err := fetch(t, newClient(t, atproto.HTTPConfig{AllowPrivate: allow, UserAgent: "me"}), srv.URL)
		require.NoError(t, err, allow)
		require.Equal(t, "me", got)
	}
	got, err := fetch(t, newClient(t, atproto.HTTPConfig{Trusted: true}), srv.URL)
	require.NoError(t, err)
	require.Equal(t, "sluice", got)
	_, err = fetch(t, newClient(t, atproto.HTTPConfig{AllowPrivate: []string{"10.0.0.0/8", ""}}), srv.URL)
	require.ErrorContains(t, err, "is refused")
	for _, bad := range []string{"localhost", "10.0.0.0/99", "none"} {
		_, err := atproto.NewHTTPClient(atproto.HTTPConfig{AllowPrivate: []string{bad}})
		require.ErrorContains(t, err, bad)
	}
}

func TestClientRedirects(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/once":
			http.Redirect(w, r, "/end", http.StatusFound)
		default:
			_, _ = w.Write([]byte("end"))
		}
	}))
	t.Cleanup(plain.Close)
	client := newClient(t, atproto.HTTPConfig{AllowPrivate: []string{"127.0.0.1"}})
	got, err := fetch(t, client, plain.URL+"/once")
	require.NoError(t, err)
	require.Equal(t, "end", got)
	_, err = fetch(t, client, plain.URL+"/loop")
	require.ErrorIs(t, err, atproto.ErrRedirect)
	require.Equal(t, fault.Permanent, fault.ClassOf(err))
	_, err = fetch(t, client, plain.URL+"/metadata")
	require.ErrorContains(t, err, "is refused")
	_, err = fetch(t, client, plain.URL+"/file")
	require.ErrorIs(t, err, atproto.ErrRedirect)

	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+"/end", http.StatusFound)
	}))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	_, err = fetch(t, client, secure.URL)
	require.ErrorContains(t, err, "certificate")
	trusting := secure.Client()
	trusting.CheckRedirect = client.CheckRedirect
	_, err = fetch(t, trusting, secure.URL)
	require.ErrorContains(t, err, "from https to http")
}

func TestClientBounds(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/exact":
			_, _ = w.Write(make([]byte, 1000))
		case "/over":
			_, _ = w.Write(make([]byte, 1001))
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 10_000_000))
			_ = z.Close()
		case "/header":
			w.Header().Set("X-Long", strings.Repeat("x", 100_000))
		case "/endless":
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		case "/silent":
			<-r.Context().Done()
		}
	}))
	t.Cleanup(srv.Close)
	client := newClient(t, atproto.HTTPConfig{Trusted: true, MaxBody: 1000})
	got, err := fetch(t, client, srv.URL+"/exact")
	require.NoError(t, err)
	require.Len(t, got, 1000)
	for _, path := range []string{"/over", "/bomb", "/endless"} {
		got, err = fetch(t, client, srv.URL+path)
		require.ErrorIs(t, err, atproto.ErrBodyTooLarge, path)
		require.LessOrEqual(t, len(got), 1000)
	}
	_, err = fetch(t, client, srv.URL+"/header")
	require.Error(t, err)
	hasty := newClient(t, atproto.HTTPConfig{Trusted: true, HeaderTimeout: 50 * time.Millisecond})
	_, err = fetch(t, hasty, srv.URL+"/silent")
	require.ErrorContains(t, err, "timeout")
}
