// Package oracle asks the simulated network what is true in it, and compares
// that with the tables.
package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Client talks to a simulated network.
type Client struct {
	// URL is any of its servers.
	URL  string
	http *http.Client
}

// New returns a client for the network that serves url.
func New(url string) *Client {
	return &Client{URL: strings.TrimRight(url, "/"), http: &http.Client{Timeout: 30 * time.Second}}
}

// Status is how far the network is.
type Status struct {
	LastSeq int64 `json:"last_seq"`
	Labels  int64 `json:"labels"`
	// Done: nothing more will happen by itself.
	Done bool `json:"done"`
}

// Status asks how far the network is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/_sim/status", &s)
}

// Counts asks for the number of rows by table.
func (c *Client) Counts(ctx context.Context) (m map[string]int64, err error) {
	return m, c.get(ctx, "/_sim/counts", &m)
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, http.NoBody)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the simulated network: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("ask the simulated network: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s answered %s", c.URL, path, res.Status)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s%s: %w", c.URL, path, err)
	}
	return nil
}

// Difference is a table whose rows are not those of the truth.
type Difference struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	Truth int64  `json:"truth"`
}

// Compare lists the tables of the truth whose number of rows differs.
func Compare(rows, truth map[string]int64) []Difference {
	var out []Difference
	for _, table := range slices.Sorted(maps.Keys(truth)) {
		if rows[table] != truth[table] {
			out = append(out, Difference{Table: table, Rows: rows[table], Truth: truth[table]})
		}
	}
	return out
}
