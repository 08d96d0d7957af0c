package atproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// maxWellKnown bounds the answer of /.well-known/atproto-did, in bytes.
const maxWellKnown = 2048

// ResolveHandle returns the DID that a handle leads to: by the configured
// resolver, or by DNS and, whatever DNS said, HTTPS. That it leads nowhere is
// Permanent; that it could not be found out, Transient. It does not cache.
func (d *Directory) ResolveHandle(ctx context.Context, handle string) (string, error) {
	h, err := syntax.ParseHandle(handle)
	if err != nil {
		return "", event.Dropf(event.ReasonBadHandle, "handle %.80q: %w", handle, err)
	}
	h = h.Normalize()
	ctx, cancel := context.WithTimeout(ctx, d.c.Timeout)
	defer cancel()
	if d.c.HandleResolverURL != "" {
		did, err := d.askResolver(ctx, h.String())
		d.m.handle("resolver", err)
		return did, err
	}
	if !h.AllowedTLD() {
		return "", event.Dropf(event.ReasonBadHandle, "handle %s: reserved domain", h)
	}
	did, dnsErr := d.askDNS(ctx, h.String())
	d.m.handle("dns", dnsErr)
	if dnsErr == nil {
		return did, nil
	}
	did, webErr := d.askWeb(ctx, h.String())
	d.m.handle("https", webErr)
	if webErr == nil {
		return did, nil
	}
	class := fault.Permanent
	if fault.ClassOf(dnsErr) != fault.Permanent || fault.ClassOf(webErr) != fault.Permanent {
		class = fault.Transient
	}
	return "", fault.As(class, fmt.Errorf("resolve handle %s: %w", h, errors.Join(dnsErr, webErr)))
}

func noHandle(format string, args ...any) error {
	return event.Dropf(event.ReasonNoIdentity, format, args...)
}

// askResolver asks the configured XRPC service.
func (d *Directory) askResolver(ctx context.Context, handle string) (string, error) {
	a, err := get(ctx, d.c.Trusted, d.c.HandleResolverURL+"/xrpc/com.atproto.identity.resolveHandle?handle="+url.QueryEscape(handle), maxWellKnown)
	if err != nil {
		return "", fmt.Errorf("ask resolver for %s: %w", handle, err)
	}
	switch a.status {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusNotFound:
		return "", noHandle("ask resolver for %s: not found", handle)
	default:
		return "", fmt.Errorf("ask resolver for %s: status %d", handle, a.status)
	}
	var out struct {
		DID string `json:"did"`
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return "", fmt.Errorf("ask resolver for %s: %w", handle, err)
	}
	return goodDID(out.DID)
}

// askDNS reads the TXT record. More than one DID is as good as none.
func (d *Directory) askDNS(ctx context.Context, handle string) (string, error) {
	texts, err := d.c.LookupTXT(ctx, "_atproto."+handle)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return "", noHandle("dns: no record")
		}
		return "", fmt.Errorf("dns: %w", err)
	}
	did := ""
	for _, text := range texts {
		v, ok := strings.CutPrefix(text, "did=")
		if !ok {
			continue
		}
		if did != "" && v != did {
			return "", noHandle("dns: more than one did")
		}
		did = v
	}
	if did == "" {
		return "", noHandle("dns: no did in the record")
	}
	return goodDID(did)
}

// askWeb fetches the well-known file.
func (d *Directory) askWeb(ctx context.Context, handle string) (string, error) {
	release, err := acquire(ctx, d.webSlot)
	if err != nil {
		return "", fmt.Errorf("https: wait for a turn: %w", err)
	}
	defer release()
	a, err := get(ctx, d.c.Client, "https://"+handle+"/.well-known/atproto-did", maxWellKnown)
	switch {
	case errors.Is(err, errNotThere):
		return "", noHandle("https: no such host")
	case err != nil:
		return "", fmt.Errorf("https: %w", err)
	case a.status == http.StatusOK:
		return goodDID(strings.TrimSpace(string(a.body)))
	case a.status >= 500 || a.status == http.StatusTooManyRequests:
		return "", fmt.Errorf("https: status %d", a.status)
	}
	return "", noHandle("https: status %d", a.status)
}

func goodDID(did string) (string, error) {
	if err := checkDID(did); err != nil {
		return "", err
	}
	return did, nil
}
