package main

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/promcheck/internal/check"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func dashboards(t *testing.T) []check.Dashboard {
	t.Helper()
	all, err := check.Dashboards("../../deploy/grafana/dashboards")
	require.NoError(t, err)
	return all
}

// units are those of Grafana that we use.
var units = []string{"short", "s", "ops", "bytes", "Bps", "percentunit"}

func TestDashboardsAreWhole(t *testing.T) {
	t.Parallel()
	uids := map[string]string{}
	for _, d := range dashboards(t) {
		require.NotEmpty(t, d.UID, "%s: a uid keeps links and bookmarks alive", d.File)
		require.LessOrEqual(t, len(d.UID), 40, d.File)
		require.Empty(t, uids[d.UID], "%s: its uid is taken", d.File)
		uids[d.UID] = d.File
		require.NotEmpty(t, d.Title, d.File)
		require.Contains(t, d.Tags, "sluice", d.File)
		require.True(t, slices.ContainsFunc(d.Templating.List, func(v check.Variable) bool {
			return v.Name == "datasource" && v.Type == "datasource" && v.Query == "prometheus"
		}), "%s: no choice of the data source", d.File)
		panels := d.All()
		require.NotEmpty(t, panels, d.File)
		for _, p := range panels {
			checkPanel(t, d.File, p)
		}
		checkGrid(t, d.File, panels)
	}
}

func checkPanel(t *testing.T, file string, p check.Panel) {
	t.Helper()
	where := fmt.Sprintf("%s: panel %d %q", file, p.ID, p.Title)
	require.NotEmpty(t, p.Title, where)
	require.NotEmpty(t, p.Description, where)
	require.Contains(t, []string{"stat", "timeseries", "table", "bargauge", "gauge"}, p.Type, where)
	require.Contains(t, units, p.FieldConfig.Defaults.Unit, where)
	require.Equal(t, check.Datasource{Type: "prometheus", UID: "${datasource}"}, p.Datasource, where)
	require.NotEmpty(t, p.Targets, where)
	refs := map[string]bool{}
	for _, q := range p.Targets {
		require.Equal(t, p.Datasource, q.Datasource, where)
		require.NotEmpty(t, q.Expr, where)
		require.False(t, refs[q.RefID] || q.RefID == "", "%s: refId %q", where, q.RefID)
		refs[q.RefID] = true
		require.True(t, q.Legend != "" || len(p.Targets) == 1, "%s: several queries need legends", where)
	}
}

func checkGrid(t *testing.T, file string, panels []check.Panel) {
	t.Helper()
	ids := map[int]bool{}
	for i, p := range panels {
		require.False(t, ids[p.ID] || p.ID < 1, "%s: panel id %d", file, p.ID)
		ids[p.ID] = true
		g := p.Grid
		require.True(t, g.X >= 0 && g.Y >= 0 && g.W > 0 && g.H > 0 && g.X+g.W <= 24, "%s: %q is beside the grid", file, p.Title)
		for _, q := range panels[:i] {
			apart := g.X >= q.Grid.X+q.Grid.W || q.Grid.X >= g.X+g.W || g.Y >= q.Grid.Y+q.Grid.H || q.Grid.Y >= g.Y+g.H
			require.True(t, apart, "%s: %q lies on %q", file, p.Title, q.Title)
		}
	}
}

// keptNames are the metrics of the systems before this one.
var keptNames = strings.Fields(`
ingester_firehose_events_total ingester_firehose_create_events_total ingester_firehose_update_events_total
ingester_firehose_delete_events_total ingester_firehose_filtered_operations_total ingester_stream_events_total
ingester_errors_total ingester_firehose_live_length ingester_firehose_backfill_length ingester_label_live_length
ingester_repo_backfill_length ingester_backpressure_active ingester_websocket_connections ingester_events_in_memory
ingester_labeler_events_total ingester_labels_written_total ingester_backfill_repos_fetched_total
ingester_backfill_repos_written_total ingester_backfill_fetch_errors_total ingester_backfill_cursor_skips_total
ingester_backfill_complete
indexer_events_processed_total indexer_create_events_total indexer_update_events_total indexer_delete_events_total
indexer_repo_events_total indexer_account_events_total indexer_identity_events_total indexer_db_writes_total
indexer_errors_total indexer_expected_errors_total indexer_unexpected_errors_total indexer_post_events_total
indexer_like_events_total indexer_repost_events_total indexer_follow_events_total indexer_block_events_total
indexer_profile_events_total indexer_labels_processed_total indexer_labels_added_total indexer_labels_removed_total
indexer_pending_messages indexer_active_tasks indexer_ack_failures_total
backfiller_repos_processed_total backfiller_repos_failed_total backfiller_repos_dead_lettered_total
backfiller_records_extracted_total backfiller_records_filtered_total backfiller_retries_attempted_total
backfiller_repos_waiting backfiller_repos_running backfiller_output_stream_length backfiller_car_fetch_errors_total
backfiller_car_parse_errors_total backfiller_verification_errors_total`)

func TestKeptNamesAreOnADashboard(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, d := range dashboards(t) {
		if d.File != "names-kept.json" {
			continue
		}
		for _, p := range d.All() {
			require.Len(t, p.Targets, 1, p.Title)
			require.Contains(t, p.Targets[0].Expr, p.Title, "a panel shows the metric of its title")
			used[p.Title] = true
		}
	}
	for _, n := range keptNames {
		require.True(t, used[n], n)
	}
	require.Len(t, used, len(keptNames))
}

// alert is a rule as it is written.
type alert struct{ name, severity, summary, runbook string }

var alertParts = regexp.MustCompile(`(?m)^ +(?:- )?(alert|labels|summary|runbook): (.*)$`)

func alerts(t *testing.T) []alert {
	t.Helper()
	var all []alert
	for _, m := range alertParts.FindAllStringSubmatch(read(t, "../../deploy/prometheus/rules/alerts.yml"), -1) {
		if m[1] == "alert" {
			all = append(all, alert{name: m[2]})
			continue
		}
		switch last := &all[len(all)-1]; m[1] {
		case "labels":
			last.severity = m[2]
		case "summary":
			last.summary = m[2]
		case "runbook":
			last.runbook = m[2]
		}
	}
	require.NotEmpty(t, all)
	return all
}

func TestEveryAlertHasARunbookEntryAndATest(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	for _, s := range regexp.MustCompile(`(?m)^### `).Split(read(t, "../../docs/runbook.md"), -1)[1:] {
		name, body, _ := strings.Cut(s, "\n")
		body, _, _ = strings.Cut(body, "\n## ")
		require.Empty(t, sections[name], "two entries for %s", name)
		sections[name] = body
	}
	tests := read(t, "../../deploy/prometheus/tests/alerts_test.yml")
	for _, a := range alerts(t) {
		require.Regexp(t, `^\{severity: (critical|warning|info)\}$`, a.severity, a.name)
		require.NotEmpty(t, a.summary, a.name)
		require.Equal(t, "docs/runbook.md#"+strings.ToLower(a.name), a.runbook, a.name)
		for _, part := range []string{"**Means.**", "**Check.**", "**Act.**"} {
			require.Contains(t, sections[a.name], part, "docs/runbook.md: %s", a.name)
		}
		require.Regexp(t, `alertname: `+a.name+`\n +exp_alerts:`, tests, "%s fires in no test of deploy/prometheus/tests", a.name)
		delete(sections, a.name)
	}
	require.Empty(t, sections, "docs/runbook.md has entries for alerts that do not exist")
}

func TestRunbookNamesWhatExists(t *testing.T) {
	t.Parallel()
	text := read(t, "../../docs/runbook.md")
	metrics := read(t, "../../docs/metrics.md")
	for _, name := range regexp.MustCompile("`((?:sluice|ingester|indexer|backfiller)_[a-z_]+)").FindAllStringSubmatch(text, -1) {
		require.Contains(t, metrics, "`"+name[1]+"`", "docs/runbook.md names a metric that nobody exports")
	}
	settings := read(t, "../../docs/configuration.md")
	for _, name := range regexp.MustCompile("`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`").FindAllStringSubmatch(text, -1) {
		require.Contains(t, settings, name[1], "docs/runbook.md names a setting that does not exist")
	}
}

// otherReasons are those of dead letters that are not reasons of events.
var otherReasons = []string{"poison", "retries_exhausted", "unreadable"}

func TestEveryReasonIsInTheRunbook(t *testing.T) {
	t.Parallel()
	lines := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (.*) \\|$").FindAllStringSubmatch(read(t, "../../docs/runbook.md"), -1) {
		lines[m[1]] = m[2]
	}
	for _, r := range event.Reasons() {
		require.NotEmpty(t, lines[string(r)], "docs/runbook.md has no line for the reason %s", r)
	}
	for _, r := range otherReasons {
		require.NotEmpty(t, lines[r], "docs/runbook.md has no line for the reason %s", r)
	}
	for r := range lines {
		known := slices.Contains(event.Reasons(), event.Reason(r)) || slices.Contains(otherReasons, r)
		require.True(t, known, cmp.Or(r, "?")+" is in docs/runbook.md and is no reason")
	}
}
