package atproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/fault"
)

const (
	maxListBytes  = 8 << 20
	maxListCursor = 2048
	maxListPark   = 15 * time.Minute
	listTimeout   = time.Minute
)

// ErrCursor is the error of a page whose cursor leads nowhere.
var ErrCursor = errors.New("cursor cannot be used")

// Doer sends HTTP requests. It is safe for concurrent use.
type Doer interface {
	Do(req *http.Request) (*http.Response, error)
}

// Listing reads what a host lists, a page at a time: its repositories, all of
// them by com.atproto.sync.listRepos or those with a collection by
// com.atproto.sync.listReposByCollection, and as a relay the hosts that it
// knows, by com.atproto.sync.listHosts.
type Listing struct {
	// Client sends the requests; it bounds redirects. A page is bounded here: to
	// 8 MiB, and to a minute from the request to its last byte.
	Client Doer
	// Host is the base URL: scheme://host.
	Host string
	// Collection chooses listReposByCollection; empty: listRepos.
	Collection string
}

// ListedRepo is one row of a listing.
type ListedRepo struct {
	DID string
	// Rev is as the host gives it, which may be no TID; empty when it has none.
	Rev    string
	Active bool
	Status string
}

// ListPage is one answer: its readable rows, the cursor of the next page
// (empty: this was the last), and how many rows could not be read.
type ListPage struct {
	Repos  []ListedRepo
	Cursor string
	Bad    int
}

// Page asks for the page at cursor. Its errors are Transient, since a host may
// do better when it is asked again; Permanent is that it does not have the
// method. Among them are ErrCursor, a *StatusError, and a *ThrottledError, which
// says when to ask again.
func (l *Listing) Page(ctx context.Context, cursor string, limit int) (ListPage, error) {
	method, query := "com.atproto.sync.listRepos", url.Values{}
	if l.Collection != "" {
		method = "com.atproto.sync.listReposByCollection"
		query.Set("collection", l.Collection)
	}
	var body struct {
		Cursor string            `json:"cursor"`
		Repos  []json.RawMessage `json:"repos"`
	}
	if err := l.page(ctx, method, query, cursor, limit, &body, &body.Cursor); err != nil {
		return ListPage{}, fmt.Errorf("%s of %s: %w", method, l.Host, err)
	}
	p := ListPage{Cursor: body.Cursor, Repos: make([]ListedRepo, 0, len(body.Repos))}
	for _, raw := range body.Repos {
		if row, ok := listedRepo(raw); ok {
			p.Repos = append(p.Repos, row)
		} else {
			p.Bad++
		}
	}
	return p, nil
}

// listedRepo reads what a row has to have and forgives the rest: a rev, active or
// status of another type reads as absent.
func listedRepo(raw json.RawMessage) (ListedRepo, bool) {
	var row struct {
		DID    json.RawMessage `json:"did"`
		Rev    json.RawMessage `json:"rev"`
		Active json.RawMessage `json:"active"`
		Status json.RawMessage `json:"status"`
	}
	if json.Unmarshal(raw, &row) != nil {
		return ListedRepo{}, false
	}
	var out ListedRepo
	if json.Unmarshal(row.DID, &out.DID) != nil {
		return ListedRepo{}, false
	}
	if _, err := syntax.ParseDID(out.DID); err != nil {
		return ListedRepo{}, false
	}
	if json.Unmarshal(row.Rev, &out.Rev) != nil || len(out.Rev) > 64 {
		out.Rev = ""
	}
	if json.Unmarshal(row.Status, &out.Status) != nil || len(out.Status) > 64 {
		out.Status = ""
	}
	out.Status = strings.ToLower(out.Status)
	if json.Unmarshal(row.Active, &out.Active) != nil || string(row.Active) == "null" {
		out.Active = out.Status == ""
	}
	return out, true
}

// page asks for one page, decodes it, and looks at the cursor that it brings.
func (l *Listing) page(ctx context.Context, method string, query url.Values, cursor string, limit int, into any, next *string) error {
	query.Set("limit", strconv.Itoa(limit))
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	if err := l.get(ctx, method, query, into); err != nil {
		return err
	}
	switch {
	case len(*next) > maxListCursor:
		return fmt.Errorf("%w: it has %d bytes", ErrCursor, len(*next))
	case *next != "" && *next == cursor:
		return fmt.Errorf("%w: %.80q does not move", ErrCursor, cursor)
	}
	return nil
}

func (l *Listing) get(ctx context.Context, method string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.Host+"/xrpc/"+method+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return fault.Permanentf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := l.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return listRefusal(resp)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxListBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("read page: %w", err)
	case len(raw) > maxListBytes:
		return errors.New("read page: more than 8 MiB")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	return nil
}

// ThrottledError is an answer that says when to ask again.
type ThrottledError struct {
	Status int
	// After is how long to wait; 0 when the host did not say.
	After time.Duration
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("status %d, asks to wait %s", e.Status, e.After.Round(time.Second))
}

func listRefusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	var x struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(text, &x)
	err := &StatusError{Status: resp.StatusCode, Name: x.Error, Message: x.Message}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
		return &ThrottledError{Status: resp.StatusCode, After: AskedWait(resp.Header, time.Now())}
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed,
		resp.StatusCode == http.StatusNotImplemented, x.Error == "MethodNotImplemented":
		return fault.As(fault.Permanent, err)
	}
	return err
}

// StatusError is an answer that refuses a request.
type StatusError struct {
	Status int
	// Name and Message are those of an XRPC error, if it is one.
	Name, Message string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d %.80q %.200q", e.Status, e.Name, e.Message)
}

// AskedWait reads Retry-After (seconds or a date) or RateLimit-Reset (Unix
// seconds, or seconds from now), at most 15 minutes; 0 if there is neither.
func AskedWait(h http.Header, now time.Time) time.Duration {
	for _, v := range []string{h.Get("Retry-After"), h.Get("RateLimit-Reset")} {
		var d time.Duration
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			const epoch = 1_000_000_000
			if n > epoch {
				d = time.Unix(n, 0).Sub(now)
			} else {
				d = time.Duration(n) * time.Second
			}
		} else if at, err := http.ParseTime(v); err == nil {
			d = at.Sub(now)
		} else {
			continue
		}
		return min(max(d, 0), maxListPark)
	}
	return 0
}
