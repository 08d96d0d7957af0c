// Package check evaluates the queries of dashboards and the expressions of rules
// on a running Prometheus, and says which of them name something that nobody
// exports.
package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Prometheus asks the HTTP API of a server.
type Prometheus struct {
	URL    string
	Client *http.Client
}

// Rule is a recording or alerting rule as the server loaded it.
type Rule struct {
	Name        string            `json:"name"`
	Query       string            `json:"query"`
	Type        string            `json:"type"`
	Health      string            `json:"health"`
	LastError   string            `json:"lastError"`
	State       string            `json:"state"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Target is one process that is scraped.
type Target struct {
	Labels    map[string]string `json:"labels"`
	Health    string            `json:"health"`
	LastError string            `json:"lastError"`
}

// Series evaluates an expression now and returns the labels of its result.
func (p *Prometheus) Series(ctx context.Context, expr string) ([]map[string]string, error) {
	var data struct {
		Result json.RawMessage `json:"result"`
		Type   string          `json:"resultType"`
	}
	if err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, err
	}
	if data.Type == "scalar" {
		return []map[string]string{{}}, nil
	}
	var result []struct {
		Metric map[string]string `json:"metric"`
	}
	if err := json.Unmarshal(data.Result, &result); err != nil {
		return nil, fmt.Errorf("%s: a result of type %s: %w", expr, data.Type, err)
	}
	series := make([]map[string]string, len(result))
	for i, r := range result {
		series[i] = r.Metric
	}
	return series, nil
}

// Rules lists what the server evaluates.
func (p *Prometheus) Rules(ctx context.Context) ([]Rule, error) {
	var data struct {
		Groups []struct {
			Rules []Rule `json:"rules"`
		} `json:"groups"`
	}
	if err := p.get(ctx, "/api/v1/rules", &data); err != nil {
		return nil, err
	}
	var rules []Rule
	for _, g := range data.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules, nil
}

// Targets lists what the server scrapes.
func (p *Prometheus) Targets(ctx context.Context) ([]Target, error) {
	var data struct {
		Active []Target `json:"activeTargets"`
	}
	err := p.get(ctx, "/api/v1/targets?state=active", &data)
	return data.Active, err
}

func (p *Prometheus) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.URL, "/")+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %s: not an answer of Prometheus", path, resp.Status)
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}
