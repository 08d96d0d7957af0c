package atproto

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// ListedHost is one host that a relay knows.
type ListedHost struct {
	// Name is the host with its port, if it has one, in small letters.
	Name string
	// Status is active, idle, offline, throttled, banned or empty.
	Status string
	// Accounts is how many the relay knows there; 0 if it does not say.
	Accounts int64
}

// HostPage is one answer of listHosts: its readable rows, the cursor of the next
// page (empty: this was the last), and how many rows could not be read.
type HostPage struct {
	Hosts  []ListedHost
	Cursor string
	Bad    int
}

// Hosts asks for the page of hosts at cursor, with the errors of Page.
func (l *Listing) Hosts(ctx context.Context, cursor string, limit int) (HostPage, error) {
	const method = "com.atproto.sync.listHosts"
	var body struct {
		Cursor string            `json:"cursor"`
		Hosts  []json.RawMessage `json:"hosts"`
	}
	if err := l.page(ctx, method, url.Values{}, cursor, limit, &body, &body.Cursor); err != nil {
		return HostPage{}, fmt.Errorf("%s of %s: %w", method, l.Host, err)
	}
	p := HostPage{Cursor: body.Cursor}
	for _, raw := range body.Hosts {
		var row struct {
			Hostname     string          `json:"hostname"`
			Status       string          `json:"status"`
			AccountCount json.RawMessage `json:"accountCount"`
		}
		if json.Unmarshal(raw, &row) != nil || !plausibleHost(row.Hostname) {
			p.Bad++
			continue
		}
		var n int64
		if json.Unmarshal(row.AccountCount, &n) != nil || n < 0 {
			n = 0
		}
		p.Hosts = append(p.Hosts, ListedHost{Name: strings.ToLower(row.Hostname), Status: row.Status, Accounts: n})
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
