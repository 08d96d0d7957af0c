package store

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	changes        *prometheus.CounterVec
	batch          prometheus.Histogram
	commit         prometheus.Histogram
	retries        prometheus.Counter
	halved         prometheus.Counter
	folded         prometheus.Counter
	droppedDeltas  prometheus.Counter
	forgotten      prometheus.Counter
	rechecksPutOff prometheus.Counter
	rechecked      prometheus.Counter
	readRounds     prometheus.Counter
	rowsWritten    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_store_changes_total", Help: "Changes by what became of them; look at the parked entries when rejected grows.",
		}, []string{"result"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_store_batch_changes", Help: "Changes in one transaction.", Buckets: []float64{1, 5, 20, 50, 100, 200, 500, 1000},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_store_apply_seconds", Help: "Time of one batch, retries included.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 14),
		}),
		retries:        prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_retries_total", Help: "Transactions repeated after a transient error; a steady rate points at PostgreSQL."}),
		halved:         prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_halvings_total", Help: "Batches split to find the change that PostgreSQL refuses."}),
		folded:         prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_folded_deltas_total", Help: "Count deltas folded into the aggregates."}),
		droppedDeltas:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_dropped_deltas_total", Help: "Count deltas that PostgreSQL refuses; any is worth a recount of the aggregates."}),
		forgotten:      prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_forgotten_deletions_total", Help: "Deletions forgotten for their age (INDEXER_DELETIONS_DAYS)."}),
		rechecksPutOff: prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_rechecks_put_off_total", Help: "Recheck rows put off after an error; a steady rate points at a post that cannot be judged."}),
		rechecked:      prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_rechecked_total", Help: "Posts judged again after something older arrived."}),
		readRounds:     prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_read_rounds_total", Help: "Round trips spent on reading before writing."}),
		rowsWritten:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_store_written_rows_total", Help: "Rows inserted, updated or deleted."}),
	}
	for r := Applied; r <= Rejected; r++ {
		m.changes.WithLabelValues(r.String())
	}
	if reg != nil {
		for _, c := range []prometheus.Collector{m.changes, m.batch, m.commit, m.retries, m.halved, m.folded, m.droppedDeltas, m.forgotten, m.rechecksPutOff, m.rechecked, m.readRounds, m.rowsWritten} {
			_ = reg.Register(c) // a second store in one process shares nothing with the first
		}
	}
	return m
}
