package index

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
)

// The stages whose event-time lag is exported.
const (
	StageLive     = "live"
	StageBackfill = "backfill"
	StageLabel    = "label"
)

// Metrics of all the pipelines of a process.
type Metrics struct {
	reg    prometheus.Registerer
	lag    *obs.Lag
	held   []func() int
	lost   []func() float64
	byType map[event.Type]prometheus.Counter
	byKind map[string]prometheus.Counter // by collection

	processed, writes                  prometheus.Counter
	errs, expectedErrs, unexpectedErrs prometheus.Counter
	labels, labelsAdded, labelsRemoved prometheus.Counter
	active                             prometheus.Gauge
	batch, commit                      *prometheus.HistogramVec
	parks                              *prometheus.CounterVec // stage, reason
	refused                            *prometheus.CounterVec // reason
	retries, splits                    *prometheus.CounterVec // stage
	sweeps                             prometheus.Counter
	sweepsWaiting                      prometheus.Gauge
}

// NewMetrics registers the metrics. A nil reg exports nothing.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	r := registrar{reg}
	m := &Metrics{
		reg: reg, lag: obs.NewLag(reg, StageLive, StageBackfill, StageLabel),
		byType: map[event.Type]prometheus.Counter{}, byKind: map[string]prometheus.Counter{},
		processed:      r.counter("indexer_events_processed_total", "Events applied."),
		writes:         r.counter("indexer_db_writes_total", "Changes that the database did not have yet, committed."),
		errs:           r.counter("indexer_errors_total", "Failures to apply, expected or not."),
		expectedErrs:   r.counter("indexer_expected_errors_total", "Entries and records refused for what they are: malformed, or against their lexicon."),
		unexpectedErrs: r.counter("indexer_unexpected_errors_total", "Failures of the database or of this program. Look into the log."),
		labels:         r.counter("indexer_labels_processed_total", "Labels applied."),
		labelsAdded:    r.counter("indexer_labels_added_total", "Labels that were set."),
		labelsRemoved:  r.counter("indexer_labels_removed_total", "Labels that were negated."),
		active:         r.gauge("indexer_active_tasks", "Batches being applied now."),
		batch: r.histograms("sluice_index_batch_entries", "Entries of one transaction. Small under load: reading is the bottleneck.",
			[]float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}),
		commit: r.histograms("sluice_index_commit_seconds", "Time to apply one batch, with its retries. Rises when the database is the bottleneck.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}),
		parks:         r.counters("sluice_index_parked_total", "Entries sent to the dead letters. Look at them with streamctl dlq.", "stage", "reason"),
		refused:       r.counters("sluice_index_refused_total", "Records and labels refused for what they are. bad_value: by the database; those are in the dead letters.", "reason"),
		retries:       r.counters("sluice_index_retries_total", "Batches tried again.", "stage"),
		splits:        r.counters("sluice_index_splits_total", "Batches halved to find the entry at fault.", "stage"),
		sweeps:        r.counter("sluice_index_sweeps_total", "Snapshots of repositories after which what they did not have was deleted."),
		sweepsWaiting: r.gauge("sluice_index_sweeps_waiting", "Snapshots waiting for everything before them to be finished. Rising: something holds the floor of the backfill stream."),
	}
	for _, t := range []event.Type{event.Create, event.Update, event.Delete, event.Repo, event.Account, event.Identity} {
		m.byType[t] = r.counter("indexer_"+string(t)+"_events_total", "Events of type "+string(t)+" applied.")
	}
	for collection, kind := range map[string]string{
		"app.bsky.feed.post": "post", "app.bsky.feed.like": "like", "app.bsky.feed.repost": "repost",
		"app.bsky.graph.follow": "follow", "app.bsky.graph.block": "block", "app.bsky.actor.profile": "profile",
	} {
		m.byKind[collection] = r.counter("indexer_"+kind+"_events_total", "Operations on records of the kind "+kind+" applied.")
	}
	for _, reason := range refusals() {
		m.refused.WithLabelValues(reason)
	}
	r.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "indexer_pending_messages", Help: "Entries that this process has read and not yet acknowledged.",
	}, m.pending))
	r.add(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "indexer_ack_failures_total", Help: "Acknowledgements that failed and were sent again.",
	}, m.ackFailures))
	return m
}

// Last returns what tells the event time of the last event that a stage has
// applied; zero if it has not had any.
func (m *Metrics) Last(stage string) func() time.Time { return m.lag.Stage(stage).Last }

// rejected counts a record or a label that was refused for what it is. What is
// parked besides is counted as an error there.
func (m *Metrics) rejected(cause error) {
	m.refused.WithLabelValues(refusal(cause)).Inc()
	if byDatabase(cause) == nil {
		m.errs.Inc()
		m.expectedErrs.Inc()
	}
}

// stage returns the metrics of one pipeline, whose consumer holds entries as
// held says and has failed to acknowledge as often as lost says.
func (m *Metrics) stage(name string, held func() int, lost func() float64) *stageMetrics {
	m.held, m.lost = append(m.held, held), append(m.lost, lost)
	s := &stageMetrics{
		all: m, name: name, reg: m.reg, lag: m.lag.Stage(name),
		batch: m.batch.WithLabelValues(name), commit: m.commit.WithLabelValues(name),
		retries: m.retries.WithLabelValues(name), splits: m.splits.WithLabelValues(name),
	}
	for _, reason := range event.Reasons() {
		m.parks.WithLabelValues(name, string(reason))
	}
	return s
}

func (m *Metrics) pending() float64 {
	n := 0
	for _, held := range m.held {
		n += held()
	}
	return float64(n)
}

func (m *Metrics) ackFailures() float64 {
	n := 0.0
	for _, lost := range m.lost {
		n += lost()
	}
	return n
}

// stageMetrics are those of one pipeline.
type stageMetrics struct {
	all             *Metrics
	name            string
	reg             prometheus.Registerer
	lag             *obs.Stage
	batch, commit   prometheus.Observer
	retries, splits prometheus.Counter
}

func (s *stageMetrics) active(n float64) { s.all.active.Add(n) }
func (s *stageMetrics) split()           { s.splits.Inc() }

func (s *stageMetrics) applied(n int, took time.Duration) {
	s.batch.Observe(float64(n))
	s.commit.Observe(took.Seconds())
}

func (s *stageMetrics) parked(reason event.Reason) {
	s.all.parks.WithLabelValues(s.name, string(reason)).Inc()
	s.all.errs.Inc()
	s.all.expectedErrs.Inc()
}

func (s *stageMetrics) retried() {
	s.retries.Inc()
	s.all.errs.Inc()
	s.all.unexpectedErrs.Inc()
}

// failed counts an entry that could not be applied by itself.
func (s *stageMetrics) failed(err error) {
	var drop *event.DropError
	if fault.ClassOf(err) == fault.Permanent && errors.As(err, &drop) {
		return // counted when it is parked
	}
	s.all.errs.Inc()
	s.all.unexpectedErrs.Inc()
}

// registrar registers what it makes.
type registrar struct{ reg prometheus.Registerer }

func (r registrar) add(c prometheus.Collector) {
	if r.reg == nil {
		return
	}
	if err := r.reg.Register(c); err != nil {
		panic(err) // two of them on one registry is a mistake of the program
	}
}

func (r registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.add(c)
	return c
}

func (r registrar) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.add(g)
	return g
}

func (r registrar) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.add(c)
	return c
}

func (r registrar) histograms(name, help string, buckets []float64) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets, NativeHistogramBucketFactor: 1.1,
	}, []string{"stage"})
	r.add(h)
	return h
}

// Class tells the pipelines of streams apart by what they carry.
func Class(stream string) string {
	if strings.Contains(stream, "backfill") {
		return StageBackfill
	}
	return StageLive
}
