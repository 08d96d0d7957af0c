package check

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sluice/services/promcheck/internal/promql"
)

// Sometimes are metrics that have series only while something is the case, with
// what that is. Everything else must have series from the first scrape.
var Sometimes = map[string]string{
	"ALERTS":                        "an alert is pending or fires",
	"sluice_redstream_floor_holder": "somebody holds the floor: the labels name the holder",
}

// Checker asks one server, each selector once.
type Checker struct {
	Server *Prometheus
	series map[string][]map[string]string
}

// Use is an expression with the place where it is used and the texts that are
// made from its result.
type Use struct {
	Where string
	Expr  string
	Texts []string
}

// Rules are the uses of rules. A rule that could not be evaluated is a problem.
func Rules(rules []Rule) (uses []Use, problems []string) {
	for _, r := range rules {
		if r.Health != "ok" {
			problems = append(problems, strings.TrimSpace(fmt.Sprintf("rule %s: health %s %s", r.Name, r.Health, r.LastError)))
		}
		u := Use{Where: "rule " + r.Name, Expr: r.Query}
		if r.Type == "alerting" {
			u.Where = "alert " + r.Name
		}
		for _, a := range r.Annotations {
			u.Texts = append(u.Texts, a)
		}
		uses = append(uses, u)
	}
	return uses, problems
}

// Panels are the uses of dashboards.
func Panels(dashboards []Dashboard) []Use {
	var uses []Use
	for _, d := range dashboards {
		for _, p := range d.All() {
			for _, q := range p.Targets {
				uses = append(uses, Use{Where: d.File + ": " + p.Title, Expr: q.Substituted(), Texts: []string{q.Legend}})
			}
		}
	}
	return uses
}

// Reset forgets what was asked, for another look later.
func (c *Checker) Reset() { c.series = nil }

// Check evaluates one use and every part of it. An error is one of the server.
func (c *Checker) Check(ctx context.Context, u Use) (problems []string, err error) {
	bad := func(format string, args ...any) {
		problems = append(problems, u.Where+": "+fmt.Sprintf(format, args...))
	}
	e, err := promql.Parse(u.Expr)
	if err != nil {
		bad("%s", err)
		return problems, nil
	}
	if _, err := c.look(ctx, u.Expr); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", u.Where, u.Expr, err)
	}
	if len(e.Selectors) == 0 {
		bad("%s names no metric", u.Expr)
	}
	for _, s := range e.Selectors {
		found, err := c.look(ctx, s.Text)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 && Sometimes[s.Metric] == "" {
			bad("%s has no series", s.Text)
		}
	}
	for _, a := range e.Aggregations {
		c.aggregation(ctx, e, a, bad)
	}
	for _, m := range e.Matchings {
		left, right := e.Sides(m)
		for _, label := range m.On {
			for _, side := range [][]promql.Selector{left, right} {
				if !slices.ContainsFunc(side, func(s promql.Selector) bool { return c.has(ctx, s, label) }) {
					bad("on (%s): one side has no such label", label)
				}
			}
		}
	}
	c.texts(ctx, e, u, bad)
	return problems, nil
}

// aggregation checks the labels that it keeps.
func (c *Checker) aggregation(ctx context.Context, e *promql.Expr, a promql.Aggregation, bad func(string, ...any)) {
	for _, label := range a.By {
		for _, s := range e.Within(a) {
			if !c.has(ctx, s, label) {
				bad("%s has no label %s", s.Text, label)
			}
		}
		for _, in := range e.Inner(a) {
			if !slices.Contains(in.By, label) {
				bad("label %s is gone after the inner aggregation", label)
			}
		}
	}
}

var mentions = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}`)

// texts checks the labels that legends and annotations mention.
func (c *Checker) texts(ctx context.Context, e *promql.Expr, u Use, bad func(string, ...any)) {
	labels, of := e.Output()
	for _, text := range u.Texts {
		for _, m := range mentions.FindAllStringSubmatch(text, -1) {
			if label := m[1]; !slices.Contains(labels, label) && (of == nil || !c.has(ctx, *of, label)) {
				bad("%q: the result has no label %s", text, label)
			}
		}
	}
}

// has tells whether a series of the selector carries the label. A metric that is
// legitimately absent is believed.
func (c *Checker) has(ctx context.Context, s promql.Selector, label string) bool {
	found, err := c.look(ctx, s.Text)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(found, func(l map[string]string) bool { return l[label] != "" }) ||
		len(found) == 0 && Sometimes[s.Metric] != ""
}

func (c *Checker) look(ctx context.Context, expr string) ([]map[string]string, error) {
	if found, ok := c.series[expr]; ok {
		return found, nil
	}
	found, err := c.Server.Series(ctx, expr)
	if err != nil {
		return nil, err
	}
	if c.series == nil {
		c.series = map[string][]map[string]string{}
	}
	c.series[expr] = found
	return found, nil
}
