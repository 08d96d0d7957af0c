package lane

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	size    prometheus.Histogram
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, name string, depth func() float64) *metrics {
	labels := prometheus.Labels{"lanes": name}
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
	if reg != nil {
		waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_lane_waiting_entries", Help: "Entries that wait in the lanes. At its bound the reader waits too.", ConstLabels: labels,
		}, depth)
		for _, c := range []prometheus.Collector{m.size, m.seconds, waiting} {
			if err := reg.Register(c); err != nil {
				panic(err) // two lanes of one name is a mistake of the program
			}
		}
	}
	return m
}

func (m *metrics) observe(n int, d time.Duration) {
	m.size.Observe(float64(n))
	m.seconds.Observe(d.Seconds())
}
