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
)

// Listing reads the repositories that a host lists, a page at a time: all of
// them by com.atproto.sync.listRepos, or those with a collection by
// com.atproto.sync.listReposByCollection.
type Listing struct {
	// Client sends the requests; it bounds redirects and time.
	Client *http.Client
	// Host is the base URL: scheme://host.
	Host string
	// Collection chooses listReposByCollection; empty: listRepos.
	Collection string
}

// ListedRepo is one row of a listing.
type ListedRepo struct {
	DID string
	// Rev is empty when the listing has none.
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

// Page asks for the page at cursor. Its errors are Transient; Permanent are a
// method that the host does not have, a request that it finds wrong, and a
// cursor that cannot be used. A *ThrottledError among them says when to ask again.
func (l *Listing) Page(ctx context.Context, cursor string, limit int) (ListPage, error) {
	method := "com.atproto.sync.listRepos"
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if l.Collection != "" {
		method = "com.atproto.sync.listReposByCollection"
		query.Set("collection", l.Collection)
	}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var body struct {
		Cursor string            `json:"cursor"`
		Repos  []json.RawMessage `json:"repos"`
	}
	if err := l.get(ctx, method, query, &body); err != nil {
		return ListPage{}, fmt.Errorf("%s of %s: %w", method, l.Host, err)
	}
	switch {
	case len(body.Cursor) > maxListCursor:
		return ListPage{}, fault.Permanentf("%s of %s: cursor of %d bytes", method, l.Host, len(body.Cursor))
	case body.Cursor != "" && body.Cursor == cursor:
		return ListPage{}, fault.Permanentf("%s of %s: cursor %.80q does not move", method, l.Host, cursor)
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

// listedRepo reads what a row has to have and forgives the rest: an odd rev,
// active or status reads as absent.
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
	_ = json.Unmarshal(row.Rev, &out.Rev)
	if _, err := syntax.ParseTID(out.Rev); err != nil {
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

func (l *Listing) get(ctx context.Context, method string, query url.Values, into any) error {
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
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
		return &ThrottledError{Status: resp.StatusCode, After: AskedWait(resp.Header, time.Now())}
	case resp.StatusCode == http.StatusNotImplemented,
		resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout:
		return fault.Permanentf("status %d %.80q %.200q", resp.StatusCode, x.Error, x.Message)
	}
	return fmt.Errorf("status %d %.80q", resp.StatusCode, x.Error)
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
