package atproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"sluice/pkg/fault"
)

// ErrBodyTooLarge is the error of reading a response beyond HTTPConfig.MaxBody.
var ErrBodyTooLarge = errors.New("response body is too large")

// ErrRedirect is the error of a redirect that is not followed.
var ErrRedirect = errors.New("redirect is not followed")

// HTTPConfig is the configuration of an HTTP client for addresses that come
// over the network.
type HTTPConfig struct {
	// AllowPrivate are the prefixes of private, loopback and other special
	// addresses that may be dialled all the same; "all" allows every address.
	AllowPrivate []string
	// Trusted: the addresses come from the operator, not from the network; every
	// address may be dialled.
	Trusted bool
	// Timeout bounds a whole request with its body; 0: no bound, for streams.
	Timeout time.Duration
	// HeaderTimeout bounds the wait for the header of a response. Default 15s.
	HeaderTimeout time.Duration
	// MaxBody bounds a body, after decompression, in bytes; 0: no bound.
	MaxBody int64
	// MaxRedirects is how many redirects are followed. Default 3.
	MaxRedirects int
	// MaxConnsPerHost bounds the connections to one host; 0: no bound.
	MaxConnsPerHost int
	// Resolver looks names up; nil is that of the system.
	Resolver *net.Resolver
	// UserAgent of requests that have none. Default "sluice".
	UserAgent string
}

// NewHTTPClient makes a client that dials no private, loopback, link-local or
// otherwise special address unless the configuration allows it. Names are
// resolved first and each connection is checked by its address, so neither a
// redirect nor a name that changes its address gets around it, and no proxy is
// used. Headers, redirects and bodies are bounded, TLS is verified, and a
// redirect from https to http is an error.
func NewHTTPClient(c HTTPConfig) (*http.Client, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: c.Resolver}
	if !c.Trusted {
		control, err := guard(c.AllowPrivate)
		if err != nil {
			return nil, err
		}
		dialer.ControlContext = control
	}
	if c.HeaderTimeout <= 0 {
		c.HeaderTimeout = 15 * time.Second
	}
	if c.MaxRedirects <= 0 {
		c.MaxRedirects = 3
	}
	if c.UserAgent == "" {
		c.UserAgent = "sluice"
	}
	return &http.Client{
		Timeout: c.Timeout,
		Transport: &boundedTransport{
			userAgent: c.UserAgent,
			maxBody:   c.MaxBody,
			next: &http.Transport{
				DialContext:            dialer.DialContext,
				ForceAttemptHTTP2:      true,
				TLSHandshakeTimeout:    10 * time.Second,
				ResponseHeaderTimeout:  c.HeaderTimeout,
				MaxResponseHeaderBytes: 32 << 10,
				MaxIdleConns:           512,
				MaxIdleConnsPerHost:    8,
				MaxConnsPerHost:        c.MaxConnsPerHost,
				IdleConnTimeout:        60 * time.Second,
			},
		},
		CheckRedirect: redirectPolicy(c.MaxRedirects),
	}, nil
}

type controlFunc = func(ctx context.Context, network, address string, conn syscall.RawConn) error

func redirectPolicy(limit int) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		last := via[len(via)-1].URL
		switch {
		case len(via) > limit:
			return fault.As(fault.Permanent, fmt.Errorf("%w: more than %d", ErrRedirect, limit))
		case req.URL.Scheme != "http" && req.URL.Scheme != "https":
			return fault.As(fault.Permanent, fmt.Errorf("%w: to scheme %.20q", ErrRedirect, req.URL.Scheme))
		case last.Scheme == "https" && req.URL.Scheme != "https":
			return fault.As(fault.Permanent, fmt.Errorf("%w: from https to http", ErrRedirect))
		}
		return nil
	}
}

// guard makes the check of an address before it is dialled.
func guard(allow []string) (controlFunc, error) {
	var v4, v6 []netip.Prefix
	for _, s := range allow {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if strings.EqualFold(s, "all") {
			return nil, nil //nolint:nilnil // no check is the check that allows all
		}
		p, err := parsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("private network %q is neither all, a prefix nor an address: %w", s, err)
		}
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	g := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	return func(_ context.Context, network, address string, conn syscall.RawConn) error {
		if err := g.Safe(network, address, conn); err != nil {
			return fault.As(fault.Permanent, fmt.Errorf("address %s is refused: %w", address, err))
		}
		return nil
	}, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap()
		return addr.Prefix(addr.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	return p.Masked(), nil
}

// boundedTransport bounds bodies and names the client.
type boundedTransport struct {
	userAgent string
	maxBody   int64
	next      *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("User-Agent") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", t.userAgent)
	}
	resp, err := t.next.RoundTrip(req)
	if err == nil && t.maxBody > 0 {
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: t.maxBody}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (t *boundedTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader; the byte after the last one allowed is an error.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fault.As(fault.Permanent, ErrBodyTooLarge)
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, fault.As(fault.Permanent, ErrBodyTooLarge)
	}
	return n, err
}
