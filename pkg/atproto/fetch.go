package atproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// goneError says that a DID does not exist, or no longer.
type goneError struct{ why string }

func (e *goneError) Error() string { return e.why }

// errNotThere is an answer that says that what was asked for does not exist.
var errNotThere = errors.New("not found")

// parking holds back requests to a server that asked for it.
type parking struct {
	mu    sync.Mutex
	until time.Time
}

func (p *parking) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until)
}

func (p *parking) park(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.until) {
		p.until = until
	}
}

// maxPark bounds how long a server can send us away.
const maxPark = 5 * time.Minute

// retryAfter reads how long a server wants to be left alone: a number of
// seconds or a date; otherwise def.
func retryAfter(h http.Header, def time.Duration) time.Duration {
	v := h.Get("Retry-After")
	d := def
	if s, err := strconv.ParseInt(v, 10, 32); err == nil {
		d = time.Duration(s) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = time.Until(t)
	}
	return min(max(d, time.Second), maxPark)
}

func acquire(ctx context.Context, slots chan struct{}) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fetchPLC asks the PLC directory, within its rate and its wishes.
func (d *Directory) fetchPLC(ctx context.Context, did string) ([]byte, error) {
	if wait := d.parked.left(); wait > 0 {
		if wait > d.c.Timeout {
			return nil, fmt.Errorf("the directory asked to be left alone for %s", wait.Round(time.Second))
		}
		if err := fault.Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
	if err := d.plc.Wait(ctx); err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	release, err := acquire(ctx, d.plcSlot)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	defer release()
	a, err := get(ctx, d.c.Trusted, d.c.PLCURL+"/"+url.PathEscape(did), maxDocument)
	if err != nil {
		return nil, err
	}
	switch a.status {
	case http.StatusOK:
		return a.body, nil
	case http.StatusNotFound:
		return nil, &goneError{"not registered"}
	case http.StatusGone:
		return nil, &goneError{"tombstoned"}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		d.parked.park(retryAfter(a.header, 5*time.Second))
	}
	return nil, fmt.Errorf("status %d", a.status)
}

// fetchWeb fetches the document of a did:web, which is a host name. A port is
// for localhost only, and so is plain HTTP.
func (d *Directory) fetchWeb(ctx context.Context, id string) ([]byte, error) {
	host, err := url.PathUnescape(id)
	if err != nil || strings.ContainsAny(id, ":/") {
		return nil, event.Dropf(event.ReasonBadDID, "did:web:%.80s is not a host", id)
	}
	name, _, hasPort := strings.Cut(host, ":")
	scheme := "https"
	switch {
	case name == "localhost":
		scheme = "http"
	case hasPort || strings.ContainsAny(host, "/?#@%[]") || !strings.Contains(name, "."):
		return nil, event.Dropf(event.ReasonBadDID, "did:web:%.80s is not a host", id)
	}
	release, err := acquire(ctx, d.webSlot)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	defer release()
	a, err := get(ctx, d.c.Client, scheme+"://"+host+"/.well-known/did.json", maxDocument)
	switch {
	case errors.Is(err, errNotThere):
		return nil, &goneError{"no such host"}
	case err != nil:
		return nil, err
	case a.status == http.StatusOK:
		return a.body, nil
	case a.status == http.StatusNotFound || a.status == http.StatusGone:
		return nil, &goneError{"no document"}
	}
	return nil, fmt.Errorf("status %d", a.status)
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// get fetches a small body. The body of anything but 200 is read only to keep
// the connection.
func get(ctx context.Context, client *http.Client, address string, limit int64) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, fault.Permanentf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/did+ld+json, application/json, text/plain")
	resp, err := client.Do(req)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return answer{}, fmt.Errorf("%w: %w", errNotThere, err)
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if resp.StatusCode != http.StatusOK {
		limit = min(limit, 4096)
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil && resp.StatusCode == http.StatusOK {
		return a, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK && int64(len(a.body)) > limit {
		return a, fault.Permanentf("read answer: %w", ErrBodyTooLarge)
	}
	return a, nil
}
