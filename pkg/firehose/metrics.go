package firehose

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of all subscriptions of a process. The label stream is
// repos, labels or other.
type Metrics struct {
	connections *prometheus.GaugeVec
	reconnects  *prometheus.CounterVec
	messages    *prometheus.CounterVec
	received    *prometheus.CounterVec
}

// NewMetrics makes and registers the metrics. With a nil registerer they work
// and are not exported.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		connections: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_firehose_connections",
			Help: "Open connections to event streams. Fewer than servers are configured: see the reconnects.",
		}, []string{"stream"}),
		reconnects: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_firehose_reconnects_total",
			Help: "Connections that ended, by reason. idle: a silent server was replaced; handler: we wanted it again from the cursor.",
		}, []string{"stream", "reason"}),
		messages: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_firehose_messages_total",
			Help: "Messages read from event streams.",
		}, []string{"stream"}),
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_firehose_received_bytes_total",
			Help: "Bytes of the messages read from event streams.",
		}, []string{"stream"}),
	}
	for _, stream := range []string{"repos", "labels", "other"} {
		m.connections.WithLabelValues(stream)
		m.messages.WithLabelValues(stream)
		m.received.WithLabelValues(stream)
		for _, reason := range endReasons() {
			m.reconnects.WithLabelValues(stream, string(reason))
		}
	}
	return m
}
