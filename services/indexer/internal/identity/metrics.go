package identity

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome of a look-up; the closed set of a metric label.
type outcome string

const (
	verified outcome = "verified" // the handle leads back to the account
	invalid  outcome = "invalid"  // it does not
	unknown  outcome = "unknown"  // there is no such account
	failed   outcome = "failed"   // the network did not answer
)

// verdict on an account that was said to be inactive.
type verdict string

const (
	confirmed verdict = "confirmed" // its server says so too, or does not say
	refuted   verdict = "refuted"   // its server serves it
	unasked   verdict = "failed"    // its server did not answer
)

type metrics struct {
	lookups *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_identity_lookups_total", Help: "Handles looked up, by what was found. Many failed: PLC, DNS or the resolver is away.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_identity_lookup_seconds", Help: "Time of one look-up.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15}, NativeHistogramBucketFactor: 1.1,
		}),
	}
	for _, o := range []outcome{verified, invalid, unknown, failed} {
		m.lookups.WithLabelValues(string(o))
	}
	register(reg, m.lookups, m.seconds)
	return m
}

func newAccountMetrics(reg prometheus.Registerer) *prometheus.CounterVec {
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_identity_account_checks_total", Help: "Accounts said to be inactive, by what their present server says.",
	}, []string{"verdict"})
	for _, v := range []verdict{confirmed, refuted, unasked} {
		checks.WithLabelValues(string(v))
	}
	register(reg, checks)
	return checks
}

func register(reg prometheus.Registerer, all ...prometheus.Collector) {
	if reg == nil {
		return
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			panic(err) // two of them on one registry is a mistake of the program
		}
	}
}

func (m *metrics) seen(o outcome, took time.Duration) {
	m.lookups.WithLabelValues(string(o)).Inc()
	m.seconds.Observe(took.Seconds())
}
