package backfill

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/event"
)

type metrics struct {
	processed, failed, deadLettered  prometheus.Counter
	extracted, filtered, retried     prometheus.Counter
	outputLength                     prometheus.Gauge
	fetchErrors, parseErrors, verify prometheus.Counter

	attempts  *prometheus.CounterVec // by outcome: done, or the reason of the failure
	settled   *prometheus.CounterVec // by how a job ended
	bytes     prometheus.Counter
	rejected  *prometheus.CounterVec
	chunks    prometheus.Histogram
	duration  prometheus.Histogram
	held      prometheus.Gauge
	scheduled []prometheus.Collector // waiting, running, parked: read at the scrape
	remaining prometheus.Gauge
	left      prometheus.Gauge
	repos     *prometheus.GaugeVec
}

// How a job ended, the label of sluice_backfill_jobs_total.
const (
	endDone     = "done"
	endSkipped  = "skipped"
	endGone     = "gone"
	endRetry    = "retry"
	endDeferred = "deferred"
	endDead     = "dead_lettered"
	endOther    = "other_class"
)

func newMetrics(reg prometheus.Registerer, counts func() (waiting, running, parked int)) *metrics {
	m := &metrics{
		processed:    counter("backfiller_repos_processed_total", "Repositories emitted to their last record."),
		failed:       counter("backfiller_repos_failed_total", "Attempts at a repository that failed; sluice_backfill_attempts_total has them by reason."),
		deadLettered: counter("backfiller_repos_dead_lettered_total", "Jobs moved to the dead letters; streamctl dlq shows them."),
		extracted:    counter("backfiller_records_extracted_total", "Records written to the output stream."),
		filtered:     counter("backfiller_records_filtered_total", "Records of collections that are not kept."),
		retried:      counter("backfiller_retries_attempted_total", "Jobs put off for another attempt."),
		outputLength: gauge("backfiller_output_stream_length", "Entries in the output stream."),
		fetchErrors:  counter("backfiller_car_fetch_errors_total", "Attempts that failed before the repository was there."),
		parseErrors:  counter("backfiller_car_parse_errors_total", "Attempts that failed on a damaged or incomplete repository."),
		verify:       counter("backfiller_verification_errors_total", "Attempts that failed on the commit or its signature."),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_backfill_attempts_total", Help: "Attempts at a repository by outcome: done, or the reason of the failure (docs/backfill-errors.md).",
		}, []string{"outcome"}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_backfill_jobs_total", Help: "Jobs by how they left this process.",
		}, []string{"end"}),
		bytes: counter("sluice_backfill_fetched_bytes_total", "Bytes of repositories read from hosts."),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_backfill_records_rejected_total", Help: "Records that could not be read, by reason; the rest of the repository is emitted.",
		}, []string{"reason"}),
		chunks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_backfill_append_seconds", Help: "Time to append one chunk, without the wait at the gate.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_backfill_repo_seconds", Help: "Time from the request to the closing event of a repository.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}),
		held:      gauge("sluice_backfill_held", "1 while the gate is closed or the backfill is paused."),
		remaining: gauge("sluice_backfill_remaining_seconds", "Estimated time to the end of the queue at the rate of the last minutes, over all replicas; -1 is unknown."),
		left:      gauge("sluice_backfill_remaining_repos", "Jobs not finished: unread, read and delayed, over all replicas; -1 is unknown."),
		repos: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_backfill_repos", Help: "Repositories in the ledger by state, over all replicas.",
		}, []string{"state"}),
	}
	m.scheduled = []prometheus.Collector{
		gaugeFunc("backfiller_repos_waiting", "Jobs read and waiting for their host.", func() int { n, _, _ := counts(); return n }),
		gaugeFunc("backfiller_repos_running", "Repositories in flight.", func() int { _, n, _ := counts(); return n }),
		gaugeFunc("sluice_backfill_parked_hosts", "Hosts that are being left alone.", func() int { _, _, n := counts(); return n }),
	}
	m.preset()
	if reg != nil {
		for _, c := range m.all() {
			reg.MustRegister(c)
		}
	}
	return m
}

// preset makes every label value present from the first scrape.
func (m *metrics) preset() {
	m.attempts.WithLabelValues(endDone)
	for r := range rules {
		m.attempts.WithLabelValues(string(r))
	}
	for _, e := range []string{endDone, endSkipped, endGone, endRetry, endDeferred, endDead, endOther} {
		m.settled.WithLabelValues(e)
	}
	for _, r := range event.Reasons() {
		m.rejected.WithLabelValues(string(r))
	}
	for _, name := range stateNames {
		m.repos.WithLabelValues(name)
	}
	m.remaining.Set(-1)
	m.left.Set(-1)
}

var stateNames = map[State]string{
	StateActive: "active", StateWaiting: "waiting", StateDone: "done", StateGone: "gone", StateFailed: "failed",
}

func (m *metrics) all() []prometheus.Collector {
	return append(m.scheduled,
		m.processed, m.failed, m.deadLettered, m.extracted, m.filtered, m.retried, m.outputLength,
		m.fetchErrors, m.parseErrors, m.verify, m.attempts, m.settled, m.bytes, m.rejected, m.chunks, m.duration, m.held,
		m.remaining, m.left, m.repos,
	)
}

// failure counts one failed attempt.
func (m *metrics) failure(f *RepoError) {
	m.failed.Inc()
	m.attempts.WithLabelValues(string(f.Reason)).Inc()
	switch f.rule().stage {
	case stageFetch:
		m.fetchErrors.Inc()
	case stageParse:
		m.parseErrors.Inc()
	case stageVerify:
		m.verify.Inc()
	}
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func gaugeFunc(name, help string, read func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(read()) })
}
