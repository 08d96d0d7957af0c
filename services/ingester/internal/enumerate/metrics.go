package enumerate

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetched     prometheus.Counter
	written     prometheus.Counter
	unchanged   prometheus.Counter
	fetchErrors prometheus.Counter
	cursorSkips prometheus.Counter
	complete    prometheus.Gauge
	badRows     prometheus.Counter
	inactive    prometheus.Counter
	hosts       *prometheus.GaugeVec
	estimate    prometheus.Gauge
	passRepos   prometheus.Gauge
}

// States of a host in a pass, the values of the label state.
const (
	hostWaiting = "waiting"
	hostActive  = "active"
	hostDone    = "done"
	hostFailed  = "failed"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ingester_backfill_repos_fetched_total",
			Help: "Repositories read from listRepos. Flat while ingester_backfill_complete is 0: the host does not answer, see ingester_backfill_fetch_errors_total.",
		}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ingester_backfill_repos_written_total",
			Help: "Repository jobs appended to repo_backfill by enumeration.",
		}),
		unchanged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_ingester_enumerate_unchanged_total",
			Help: "Listed repositories without a job because their rev is the one already asked for.",
		}),
		fetchErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ingester_backfill_fetch_errors_total",
			Help: "Pages of listRepos or listHosts that failed and were asked for again. A steady rise: look at the host named in the log.",
		}),
		cursorSkips: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ingester_backfill_cursor_skips_total",
			Help: "Pages skipped without being read. Must stay 0.",
		}),
		complete: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ingester_backfill_complete",
			Help: "1 while every host of the last pass has been listed to its end.",
		}),
		badRows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_ingester_enumerate_unreadable_rows_total",
			Help: "Rows of a listing that could not be read; the rest of their page was kept.",
		}),
		inactive: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_ingester_enumerate_inactive_total",
			Help: "Listed repositories that are deactivated, taken down, suspended or deleted.",
		}),
		hosts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_ingester_enumerate_hosts",
			Help: "Hosts of the current pass by state. Hosts stay failed until the next round asks them again.",
		}, []string{"state"}),
		estimate: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ingester_enumerate_accounts_estimate",
			Help: "Accounts of all hosts as the relays count them; 0 where no relay tells.",
		}),
		passRepos: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ingester_enumerate_pass_repos",
			Help: "Repositories read so far in the current pass of this process.",
		}),
	}
	for _, state := range []string{hostWaiting, hostActive, hostDone, hostFailed} {
		m.hosts.WithLabelValues(state)
	}
	if reg != nil {
		reg.MustRegister(m.fetched, m.written, m.unchanged, m.fetchErrors, m.cursorSkips, m.complete,
			m.badRows, m.inactive, m.hosts, m.estimate, m.passRepos)
	}
	return m
}
