package atproto

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/pkg/fault"
)

// metrics of a Directory. A nil registerer leaves them working and unexported.
type metrics struct {
	lookups     *prometheus.CounterVec
	handles     *prometheus.CounterVec
	stale       prometheus.Counter
	cacheErrors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		lookups: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_atproto_identity_lookups_total",
			Help: "Identities looked up, by where the answer came from and what it was. Errors of plc: is the directory reachable, is the rate too high?",
		}, []string{"source", "result"}),
		handles: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_atproto_handle_lookups_total",
			Help: "Handles resolved, by method and result.",
		}, []string{"method", "result"}),
		stale: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_atproto_identity_stale_total",
			Help: "Identities served past their time because their directory could not be reached.",
		}),
		cacheErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_atproto_identity_cache_errors_total",
			Help: "Errors of the shared identity cache; each costs a lookup.",
		}),
	}
	for _, source := range []string{"memory", "cache", "plc", "web"} {
		for _, result := range []string{"ok", "gone", "error"} {
			m.lookups.WithLabelValues(source, result)
		}
	}
	for _, method := range []string{"resolver", "dns", "https"} {
		for _, result := range []string{"ok", "none", "error"} {
			m.handles.WithLabelValues(method, result)
		}
	}
	return m
}

func (m *metrics) lookup(source string, found bool) {
	result := "ok"
	if !found {
		result = "gone"
	}
	m.lookups.WithLabelValues(source, result).Inc()
}

func (m *metrics) failed(source string) { m.lookups.WithLabelValues(source, "error").Inc() }

func (m *metrics) handle(method string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
		if fault.ClassOf(err) == fault.Permanent {
			result = "none"
		}
	}
	m.handles.WithLabelValues(method, result).Inc()
}
