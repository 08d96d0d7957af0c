package lane

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	size    prometheus.Histogram
	seconds prometheus.Histogram
}

func newMetrics(cfg Config, depth func() float64) *metrics {
	labels := prometheus.Labels{"lanes": cfg.Name}
	m := &metrics{
		size: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_lane_batch_entries", Help: "Entries of one batch. Small ones under load mean that reading is the bottleneck.",
			Buckets: []float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}, ConstLabels: labels,
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_lane_apply_seconds", Help: "Time to apply one batch. Rises when the database is the bottleneck.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, NativeHistogramBucketFactor: 1.1, ConstLabels: labels,
		}),
	}
	if cfg.Registerer == nil {
		return m
	}
	all := []prometheus.Collector{m.size, m.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_lane_waiting_entries", Help: "Entries that wait in the lanes. At its bound the reader waits too.", ConstLabels: labels,
	}, depth)}
	if t := cfg.Turns; t != nil {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_lane_turns", Help: "Batches of one stream that one process may apply at once, as found by measuring. At the number of lanes: the database might take more.", ConstLabels: labels,
		}, func() float64 { return float64(t.Limit()) }))
	}
	for _, c := range all {
		if err := cfg.Registerer.Register(c); err != nil {
			panic(err) // two lanes of one name is a mistake of the program
		}
	}
	return m
}

func (m *metrics) observe(n int, d time.Duration) {
	m.size.Observe(float64(n))
	m.seconds.Observe(d.Seconds())
}
