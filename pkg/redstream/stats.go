package redstream

import dto "github.com/prometheus/client_model/go"

// AckFailures is how many acknowledgement calls of this process failed and were
// repeated, over the streams of this consumer.
func (cons *Consumer) AckFailures() float64 {
	n := 0.0
	for _, s := range cons.streams {
		var m dto.Metric
		if cons.c.metrics.ackRetries.WithLabelValues(s.stream, s.group).Write(&m) == nil {
			n += m.GetCounter().GetValue()
		}
	}
	return n
}
