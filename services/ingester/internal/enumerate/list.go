package enumerate

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

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

const (
	maxPageBytes = 8 << 20
	maxCursor    = 2048
	maxErrorBody = 4 << 10
	// pageTimeout bounds one page from the request to its last byte.
	pageTimeout = 60 * time.Second
)

// Doer sends HTTP requests. It is safe for concurrent use.
type Doer interface {
	Do(req *http.Request) (*http.Response, error)
}

// Row is one repository of a listing.
type Row struct {
	DID    string
	Rev    string
	Active bool
	Status string
}

// page is one answer of listRepos: its readable rows, the cursor of the next
// page (empty: the end), and how many rows could not be read.
type page struct {
	rows   []Row
	cursor string
	bad    int
}

// bounds counts pages, so that a listing without end is left.
type bounds struct {
	pages int
	idle  int // in a row, without anything new
}

// page takes note of a page with so many new rows.
func (b *bounds) page(rows int) error {
	b.pages++
	b.idle++
	if rows > 0 {
		b.idle = 0
	}
	switch {
	case b.idle >= maxIdlePages:
		return fmt.Errorf("%d pages in a row bring nothing new", b.idle)
	case b.pages >= maxPages:
		return fmt.Errorf("no end after %d pages", b.pages)
	}
	return nil
}

// hostRow is one PDS that a relay knows.
type hostRow struct {
	name     string
	status   string
	accounts int64
}

type hostPage struct {
	hosts  []hostRow
	cursor string
	bad    int
}

// throttled is an answer that says when to ask again.
type throttled struct {
	status int
	after  time.Duration
}

func (e *throttled) Error() string {
	return fmt.Sprintf("status %d, asks to wait %s", e.status, e.after)
}

// lister asks one host for its listings.
type lister struct {
	http Doer
	base string // scheme://host
}

func (l *lister) repos(ctx context.Context, cursor string, limit int) (page, error) {
	var body struct {
		Cursor string            `json:"cursor"`
		Repos  []json.RawMessage `json:"repos"`
	}
	if err := l.get(ctx, "com.atproto.sync.listRepos", cursor, limit, &body); err != nil {
		return page{}, err
	}
	p := page{cursor: body.Cursor, rows: make([]Row, 0, len(body.Repos))}
	if err := checkCursor(cursor, body.Cursor); err != nil {
		return page{}, fmt.Errorf("listRepos of %s: %w", l.base, err)
	}
	for _, raw := range body.Repos {
		row, ok := parseRow(raw)
		if !ok {
			p.bad++
			continue
		}
		p.rows = append(p.rows, row)
	}
	return p, nil
}

// checkCursor refuses a cursor that would make the listing stand still or
// grow without bound.
func checkCursor(asked, got string) error {
	switch {
	case len(got) > maxCursor:
		return fmt.Errorf("cursor of %d bytes", len(got))
	case got == doneMark:
		return errors.New("cursor is the end mark")
	case got != "" && got == asked:
		return fmt.Errorf("cursor %q does not move", got)
	}
	return nil
}

// parseRow reads what a row has to have and forgives the rest: a missing or
// oddly typed rev, active or status reads as absent.
func parseRow(raw json.RawMessage) (Row, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return Row{}, false
	}
	did := text(fields["did"])
	if !plausibleDID(did) {
		return Row{}, false
	}
	row := Row{DID: did, Rev: text(fields["rev"]), Status: strings.ToLower(text(fields["status"])), Active: true}
	if len(row.Rev) > 64 {
		row.Rev = ""
	}
	if len(row.Status) > 64 {
		row.Status = ""
	}
	var active bool
	if json.Unmarshal(fields["active"], &active) == nil {
		row.Active = active
	} else if row.Status != "" {
		row.Active = false
	}
	return row, true
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func plausibleDID(did string) bool {
	if len(did) < len("did:x:y") || len(did) > 2048 {
		return false
	}
	method, id, found := strings.Cut(strings.TrimPrefix(did, "did:"), ":")
	if !found || !strings.HasPrefix(did, "did:") || method == "" || id == "" {
		return false
	}
	for _, r := range did {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}

func (l *lister) hosts(ctx context.Context, cursor string, limit int) (hostPage, error) {
	var body struct {
		Cursor string            `json:"cursor"`
		Hosts  []json.RawMessage `json:"hosts"`
	}
	if err := l.get(ctx, "com.atproto.sync.listHosts", cursor, limit, &body); err != nil {
		return hostPage{}, err
	}
	p := hostPage{cursor: body.Cursor}
	if err := checkCursor(cursor, body.Cursor); err != nil {
		return hostPage{}, fmt.Errorf("listHosts of %s: %w", l.base, err)
	}
	for _, raw := range body.Hosts {
		var row struct {
			Hostname     string          `json:"hostname"`
			Status       string          `json:"status"`
			AccountCount json.RawMessage `json:"accountCount"`
		}
		if json.Unmarshal(raw, &row) != nil || !plausibleHost(row.Hostname) {
			p.bad++
			continue
		}
		var n int64
		if json.Unmarshal(row.AccountCount, &n) != nil || n < 0 {
			n = 0
		}
		p.hosts = append(p.hosts, hostRow{name: strings.ToLower(row.Hostname), status: row.Status, accounts: n})
	}
	return p, nil
}

func plausibleHost(h string) bool {
	if h == "" || len(h) > 260 {
		return false
	}
	u, err := url.Parse("https://" + h)
	return err == nil && u.Host == h && u.Path == "" && u.User == nil && u.Hostname() != ""
}

// get asks for one page. Its errors are Transient, but for an answer that
// says the method does not exist there.
func (l *lister) get(ctx context.Context, method, cursor string, limit int, into any) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+"/xrpc/"+method+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return fault.Permanentf("request %s of %s: %w", method, l.base, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := l.http.Do(req)
	if err != nil {
		return fmt.Errorf("request %s of %s: %w", method, l.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s: %w", method, l.base, refusal(resp))
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxPageBytes+1))
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", method, l.base, err)
	}
	if len(raw) > maxPageBytes {
		return fmt.Errorf("%s of %s: page above %d bytes", method, l.base, maxPageBytes)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode %s of %s: %w", method, l.base, err)
	}
	return nil
}

func refusal(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &throttled{status: resp.StatusCode, after: atproto.AskedWait(resp.Header, time.Now())}
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fault.Permanentf("status %d", resp.StatusCode)
	}
	var xrpc struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &xrpc)
	if xrpc.Error == "MethodNotImplemented" {
		return fault.Permanentf("status %d: %s", resp.StatusCode, xrpc.Error)
	}
	return fmt.Errorf("status %d %.80q", resp.StatusCode, xrpc.Error)
}
