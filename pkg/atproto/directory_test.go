package atproto_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// document makes the DID document of an account.
func document(tb testing.TB, did, handle, pds, key string) []byte {
	tb.Helper()
	b, err := json.Marshal(map[string]any{
		"id":          did,
		"alsoKnownAs": []string{"https://example.com", "at://" + handle},
		"verificationMethod": []any{
			"an odd entry",
			map[string]any{"id": did + "#other", "type": "Multikey", "controller": did, "publicKeyMultibase": "zNope"},
			map[string]any{"id": "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": key},
		},
		"service": []any{
			map[string]any{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": map[string]any{"odd": 1}},
			map[string]any{"id": did + "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds + "/"},
		},
	})
	require.NoError(tb, err)
	return b
}

// plc is a PLC directory that a test fills.
type plc struct {
	*httptest.Server
	mu     sync.Mutex
	docs   map[string][]byte
	status map[string]int
	header http.Header
	asked  atomic.Int64
	gate   chan struct{}
}

func newPLC(tb testing.TB) *plc {
	tb.Helper()
	p := &plc{docs: map[string][]byte{}, status: map[string]int{}, header: http.Header{}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	tb.Cleanup(p.Close)
	return p
}

func (p *plc) serve(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	if p.gate != nil {
		<-p.gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	did := strings.TrimPrefix(r.URL.Path, "/")
	maps.Copy(w.Header(), p.header)
	if s := p.status[did]; s != 0 {
		w.WriteHeader(s)
		return
	}
	if doc, ok := p.docs[did]; ok {
		_, _ = w.Write(doc)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func (p *plc) set(did string, doc []byte, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.docs[did], p.status[did] = doc, status
}

func newDirectory(tb testing.TB, c atproto.DirectoryConfig) *atproto.Directory {
	tb.Helper()
	if c.LookupTXT == nil {
		c.LookupTXT = func(_ context.Context, name string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}
	}
	d, err := atproto.NewDirectory(c)
	require.NoError(tb, err)
	return d
}

func multibase(tb testing.TB) string {
	tb.Helper()
	return publicKey(tb, newKey(tb)).Multibase()
}

func TestDirectoryIdentity(t *testing.T) {
	t.Parallel()
	p := newPLC(t)
	key := multibase(t)
	p.set(testDID, document(t, testDID, "Alice.Test", "https://pds.test", key), 0)
	reg := prometheus.NewRegistry()
	d := newDirectory(t, atproto.DirectoryConfig{PLCURL: p.URL + "/", Registry: reg})
	for range 3 {
		id, err := d.Identity(t.Context(), testDID)
		require.NoError(t, err)
		require.Equal(t, testDID, id.DID)
		require.Equal(t, "alice.test", id.Handle)
		require.Equal(t, "https://pds.test", id.PDS)
		require.Equal(t, "did:key:"+key, id.SigningKey)
		pub, err := id.PublicKey()
		require.NoError(t, err)
		require.Equal(t, key, pub.Multibase())
	}
	require.Equal(t, int64(1), p.asked.Load())

	next := multibase(t)
	p.set(testDID, document(t, testDID, "alice.test", "https://new.test", next), 0)
	id, err := d.Refresh(t.Context(), testDID)
	require.NoError(t, err)
	require.Equal(t, "did:key:"+next, id.SigningKey)
	id, err = d.Identity(t.Context(), testDID)
	require.NoError(t, err)
	require.Equal(t, "https://new.test", id.PDS)
	require.Equal(t, int64(2), p.asked.Load())

	// Past its time it is asked for again, and kept when nobody answers.
	d.Age(testDID, 25*time.Hour)
	p.set(testDID, nil, http.StatusInternalServerError)
	id, err = d.Identity(t.Context(), testDID)
	require.NoError(t, err)
	require.Equal(t, "https://new.test", id.PDS)
	require.Equal(t, int64(3), p.asked.Load())
	_, err = d.Refresh(t.Context(), testDID)
	require.Equal(t, fault.Transient, fault.ClassOf(err))
	n, err := testutil.GatherAndCount(reg, "sluice_atproto_identity_lookups_total")
	require.NoError(t, err)
	require.Equal(t, 12, n)
}

func TestDirectoryTellsGoneFromUnreachable(t *testing.T) {
	t.Parallel()
	p := newPLC(t)
	d := newDirectory(t, atproto.DirectoryConfig{PLCURL: p.URL, PLCRate: 1000, NegativeTTL: time.Hour})
	did := func(i int) string { return fmt.Sprintf("did:plc:%024d", i) }
	p.set(did(1), nil, http.StatusGone)
	p.set(did(2), []byte("<html>"), 0)
	p.set(did(3), nil, http.StatusBadGateway)
	p.set(did(4), document(t, did(5), "a.test", "https://p.test", multibase(t)), 0)
	p.set(did(6), []byte(`{"id":"`+did(6)+`","verificationMethod":7}`), 0)
	p.set(did(7), []byte(`{"id":"`+did(7)+`","x":"`+strings.Repeat("y", 300<<10)+`"}`), 0)
	for i, want := range []fault.Class{0: fault.Permanent, 1: fault.Permanent, 2: fault.Transient, 3: fault.Transient, 4: fault.Permanent, 5: fault.Permanent, 6: fault.Permanent, 7: fault.Permanent} {
		_, err := d.Identity(t.Context(), did(i))
		require.Error(t, err)
		require.Equal(t, want, fault.ClassOf(err), "%d: %v", i, err)
	}
	before := p.asked.Load()
	for _, i := range []int{0, 1, 4, 6} {
		_, err := d.Identity(t.Context(), did(i))
		require.Equal(t, event.ReasonNoIdentity, atproto.ReasonOf(err))
	}
	require.Equal(t, before, p.asked.Load(), "what does not exist is remembered")
	d.Age(did(0), 2*time.Hour)
	p.set(did(0), document(t, did(0), "a.test", "https://p.test", multibase(t)), 0)
	_, err := d.Identity(t.Context(), did(0))
	require.NoError(t, err)

	for _, bad := range []string{"", "did:plc", "did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF", "did:web:a.test:path", "did:web:a.test%3A8080", "did:web:nodots", "did:web:127.0.0.1%2Fx"} {
		_, err := d.Identity(t.Context(), bad)
		require.Equal(t, event.ReasonBadDID, atproto.ReasonOf(err), "%q: %v", bad, err)
	}
	p.Close()
	_, err = d.Identity(t.Context(), did(99))
	require.Equal(t, fault.Transient, fault.ClassOf(err))
}

func TestDirectoryAsksOnce(t *testing.T) {
	t.Parallel()
	p := newPLC(t)
	p.gate = make(chan struct{})
	p.set(testDID, document(t, testDID, "a.test", "https://p.test", multibase(t)), 0)
	d := newDirectory(t, atproto.DirectoryConfig{PLCURL: p.URL})
	// The first to ask goes away; the others are not hurt.
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := d.Identity(ctx, testDID)
		first <- err
	}()
	require.Eventually(t, func() bool { return p.asked.Load() == 1 }, 60*time.Second, time.Millisecond)
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() {
			id, err := d.Identity(t.Context(), testDID)
			if err != nil || id.PDS == "" {
				t.Errorf("identity: %v %v", id, err)
			}
		})
	}
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(p.gate)
	others.Wait()
	require.LessOrEqual(t, p.asked.Load(), int64(3))
}

func TestDirectoryObeysThePLC(t *testing.T) {
	t.Parallel()
	p := newPLC(t)
	d := newDirectory(t, atproto.DirectoryConfig{PLCURL: p.URL, Timeout: 2 * time.Second})
	p.header.Set("Retry-After", "60")
	p.set(testDID, nil, http.StatusTooManyRequests)
	for range 5 {
		_, err := d.Identity(t.Context(), testDID)
		require.Equal(t, fault.Transient, fault.ClassOf(err))
	}
	require.Equal(t, int64(1), p.asked.Load(), "left alone after a 429")

	q := newPLC(t)
	slow := newDirectory(t, atproto.DirectoryConfig{PLCURL: q.URL, PLCRate: 1, Timeout: 100 * time.Millisecond})
	failed := 0
	for i := range 5 {
		if _, err := slow.Identity(t.Context(), fmt.Sprintf("did:plc:%024d", i)); fault.ClassOf(err) == fault.Transient {
			failed++
		}
	}
	require.Equal(t, 4, failed)
	require.Equal(t, int64(1), q.asked.Load())

	require.Equal(t, 7*time.Second, atproto.RetryAfter(http.Header{"Retry-After": {"7"}}, time.Second))
	require.Equal(t, 5*time.Minute, atproto.RetryAfter(http.Header{"Retry-After": {"999999"}}, time.Second))
	require.Equal(t, time.Second, atproto.RetryAfter(http.Header{"Retry-After": {"-5"}}, time.Second))
	require.Equal(t, 3*time.Second, atproto.RetryAfter(http.Header{"Retry-After": {"soon"}}, 3*time.Second))
	require.Positive(t, atproto.RetryAfter(http.Header{"Retry-After": {time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)}}, time.Second))
}

// shelf is a Cache.
type shelf struct {
	mu   sync.Mutex
	data map[string][]byte
	ttl  map[string]time.Duration
	err  error
}

func (s *shelf) Get(_ context.Context, did string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.data[did]
	return b, ok, s.err
}

func (s *shelf) Set(_ context.Context, did string, v []byte, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[did], s.ttl[did] = v, ttl
	return s.err
}

func TestDirectorySecondLevel(t *testing.T) {
	t.Parallel()
	p := newPLC(t)
	gone := "did:plc:" + strings.Repeat("a", 24)
	p.set(testDID, document(t, testDID, "a.test", "https://p.test", multibase(t)), 0)
	s := &shelf{data: map[string][]byte{}, ttl: map[string]time.Duration{}}
	c := atproto.DirectoryConfig{PLCURL: p.URL, Cache: s, TTL: time.Hour, NegativeTTL: time.Minute}
	first := newDirectory(t, c)
	want, err := first.Identity(t.Context(), testDID)
	require.NoError(t, err)
	_, err = first.Identity(t.Context(), gone)
	require.Error(t, err)
	require.Equal(t, time.Hour, s.ttl[testDID])
	require.Equal(t, time.Minute, s.ttl[gone])

	second := newDirectory(t, c)
	got, err := second.Identity(t.Context(), testDID)
	require.NoError(t, err)
	require.Equal(t, want.SigningKey, got.SigningKey)
	require.Equal(t, want.PDS, got.PDS)
	_, err = got.PublicKey()
	require.NoError(t, err)
	_, err = second.Identity(t.Context(), gone)
	require.Equal(t, event.ReasonNoIdentity, atproto.ReasonOf(err))
	require.Equal(t, int64(2), p.asked.Load())

	s.err = errors.New("redis is away")
	third := newDirectory(t, c)
	_, err = third.Identity(t.Context(), testDID)
	require.NoError(t, err)
	require.Equal(t, int64(3), p.asked.Load())

	s.err, s.data[testDID] = nil, []byte("garbage")
	fourth := newDirectory(t, c)
	_, err = fourth.Identity(t.Context(), testDID)
	require.NoError(t, err)
	fourth.Put(t.Context(), atproto.Identity{DID: gone, PDS: "https://put.test"})
	id, err := fourth.Identity(t.Context(), gone)
	require.NoError(t, err)
	require.Equal(t, "https://put.test", id.PDS)
}

// hostTransport sends every request to one server, whatever its host.
type hostTransport struct{ to *url.URL }

func (h hostTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Was", r.URL.String())
	r.URL.Scheme, r.URL.Host = h.to.Scheme, h.to.Host
	return http.DefaultTransport.RoundTrip(r)
}

func clientOf(tb testing.TB, handler http.HandlerFunc) *http.Client {
	tb.Helper()
	srv := httptest.NewServer(handler)
	tb.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	require.NoError(tb, err)
	return &http.Client{Transport: hostTransport{u}}
}

func TestDirectoryDIDWeb(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	client := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		if s := int(status.Load()); s != 0 {
			w.WriteHeader(s)
			return
		}
		switch r.Header.Get("X-Was") {
		case "https://alice.test/.well-known/did.json":
			_, _ = w.Write(document(t, "did:web:alice.test", "alice.test", "https://p.test", multibase(t)))
		case "http://localhost:8080/.well-known/did.json":
			_, _ = w.Write(document(t, "did:web:localhost%3A8080", "alice.test", "https://p.test", multibase(t)))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	d := newDirectory(t, atproto.DirectoryConfig{Client: client})
	for _, did := range []string{"did:web:alice.test", "did:web:localhost%3A8080"} {
		id, err := d.Identity(t.Context(), did)
		require.NoError(t, err)
		require.Equal(t, "https://p.test", id.PDS)
	}
	_, err := d.Identity(t.Context(), "did:web:bob.test")
	require.Equal(t, event.ReasonNoIdentity, atproto.ReasonOf(err))
	status.Store(http.StatusBadGateway)
	_, err = d.Identity(t.Context(), "did:web:carol.test")
	require.Equal(t, fault.Transient, fault.ClassOf(err))
	// Not with the client for the network: localhost is refused.
	guarded := newDirectory(t, atproto.DirectoryConfig{})
	_, err = guarded.Identity(t.Context(), "did:web:localhost%3A1")
	require.Equal(t, fault.Permanent, fault.ClassOf(err))
	require.ErrorContains(t, err, "refused")
}

func TestResolveHandleByResolver(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/xrpc/com.atproto.identity.resolveHandle" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		switch r.URL.Query().Get("handle") {
		case "alice.test":
			_, _ = w.Write([]byte(`{"did":"` + testDID + `"}`))
		case "odd.test":
			_, _ = w.Write([]byte(`{"did":"nonsense"}`))
		case "down.test":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"HandleNotFound"}`))
		}
	}))
	t.Cleanup(srv.Close)
	d := newDirectory(t, atproto.DirectoryConfig{HandleResolverURL: srv.URL})
	did, err := d.ResolveHandle(t.Context(), "Alice.Test")
	require.NoError(t, err)
	require.Equal(t, testDID, did)
	for handle, want := range map[string]event.Reason{"bob.test": event.ReasonNoIdentity, "odd.test": event.ReasonBadDID, "no handle": event.ReasonBadHandle} {
		_, err = d.ResolveHandle(t.Context(), handle)
		require.Equal(t, want, atproto.ReasonOf(err), handle)
		require.Equal(t, fault.Permanent, fault.ClassOf(err))
	}
	_, err = d.ResolveHandle(t.Context(), "down.test")
	require.Equal(t, fault.Transient, fault.ClassOf(err))
}

// DNS and HTTPS are both tried, whatever the first said.
func TestResolveHandleByDNSAndHTTPS(t *testing.T) {
	t.Parallel()
	notFound := &net.DNSError{Err: "no such host", IsNotFound: true}
	timeout := &net.DNSError{Err: "timeout", IsTimeout: true, IsTemporary: true}
	for name, c := range map[string]struct {
		texts  []string
		dns    error
		status int
		body   string
		want   string
		class  fault.Class
	}{
		"dns":                         {texts: []string{"v=spf1", "did=" + testDID}, status: 500, want: testDID},
		"dns twice the same":          {texts: []string{"did=" + testDID, "did=" + testDID}, status: 500, want: testDID},
		"two dids, none by https":     {texts: []string{"did=" + testDID, "did=did:web:x.test"}, status: 404, class: fault.Permanent},
		"no record, https":            {dns: notFound, status: 200, body: " " + testDID + "\n", want: testDID},
		"dns down, https":             {dns: timeout, status: 200, body: testDID, want: testDID},
		"dns down, nothing by https":  {dns: timeout, status: 404, class: fault.Transient},
		"no record, https down":       {dns: notFound, status: 503, class: fault.Transient},
		"neither":                     {dns: notFound, status: 404, class: fault.Permanent},
		"no record, page of html":     {dns: notFound, status: 200, body: "<html>", class: fault.Permanent},
		"no record, endless answer":   {dns: notFound, status: 200, body: testDID + strings.Repeat(" ", 5000), class: fault.Permanent},
		"record without a did, https": {texts: []string{"hello"}, status: 200, body: testDID, want: testDID},
		"record with a bad did":       {texts: []string{"did=x"}, status: 404, class: fault.Permanent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDirectory(t, atproto.DirectoryConfig{
				LookupTXT: func(_ context.Context, host string) ([]string, error) {
					require.Equal(t, "_atproto.alice.example.com", host)
					return c.texts, c.dns
				},
				Client: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Was") != "https://alice.example.com/.well-known/atproto-did" {
						t.Errorf("asked for %s", r.Header.Get("X-Was"))
					}
					w.WriteHeader(c.status)
					_, _ = w.Write([]byte(c.body))
				}),
			})
			did, err := d.ResolveHandle(t.Context(), "alice.example.com")
			require.Equal(t, c.want, did)
			if c.want == "" {
				require.Error(t, err)
				require.Equal(t, c.class, fault.ClassOf(err), "%v", err)
			} else {
				require.NoError(t, err)
			}
		})
	}
	d := newDirectory(t, atproto.DirectoryConfig{})
	_, err := d.ResolveHandle(t.Context(), "alice.localhost")
	require.Equal(t, event.ReasonBadHandle, atproto.ReasonOf(err))
}
