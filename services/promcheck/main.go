// Command promcheck asks a running Prometheus for every query of the dashboards
// and every expression of its rules, and fails if one of them names a metric or
// a label that nobody exports. scripts/prometheus.sh starts the server for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"sluice/pkg/fault"
	"sluice/services/promcheck/internal/check"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "promcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	url := flag.String("url", "http://127.0.0.1:9090", "address of Prometheus")
	dir := flag.String("dashboards", "deploy/grafana/dashboards", "folder of the dashboards")
	wait := flag.Duration("wait", 30*time.Second, "how long to wait until everything has been scraped and evaluated")
	flag.Parse()
	dashboards, err := check.Dashboards(*dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *wait+30*time.Second)
	defer cancel()
	server := &check.Prometheus{URL: *url, Client: &http.Client{Timeout: 10 * time.Second}}
	for end := time.Now().Add(*wait); ; {
		problems, summary, err := look(ctx, server, dashboards)
		if err == nil && len(problems) == 0 {
			_, err := fmt.Println("prometheus:", summary) //nolint:forbidigo // the result of the program
			return err
		}
		if time.Now().After(end) {
			for _, p := range problems {
				fmt.Fprintln(os.Stderr, p)
			}
			return errors.Join(err, fmt.Errorf("%d problems", len(problems)))
		}
		if err := fault.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// look goes once over everything. A server that is still starting is an error.
func look(ctx context.Context, server *check.Prometheus, dashboards []check.Dashboard) (problems []string, summary string, err error) {
	targets, err := server.Targets(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, t := range targets {
		if t.Health != "up" {
			problems = append(problems, fmt.Sprintf("target %s %s is %s: %s", t.Labels["job"], t.Labels["instance"], t.Health, t.LastError))
		}
	}
	rules, err := server.Rules(ctx)
	if err != nil {
		return nil, "", err
	}
	uses, more := check.Rules(rules)
	problems = append(problems, more...)
	panels := check.Panels(dashboards)
	c := &check.Checker{Server: server}
	for _, u := range append(uses, panels...) {
		more, err := c.Check(ctx, u)
		if err != nil {
			return nil, "", err
		}
		problems = append(problems, more...)
	}
	if len(targets) == 0 || len(rules) == 0 {
		problems = append(problems, fmt.Sprintf("%d targets, %d rules: nothing was proven", len(targets), len(rules)))
	}
	return problems, fmt.Sprintf("%d targets up; %d rules and %d queries of %d dashboards evaluated: every metric and label exists",
		len(targets), len(rules), len(panels), len(dashboards)), nil
}
