package labels

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/event"
	"sluice/services/ingester/internal/feed"
)

type metrics struct {
	frames, received, written  prometheus.Counter
	errors                     prometheus.Counter
	unsigned, duplicates, gaps prometheus.Counter
	drops, parked              *prometheus.CounterVec
}

// ExportIdle registers the metrics of a Pipeline that does not run in this
// process, so that they are there in every mode.
func ExportIdle(reg prometheus.Registerer) {
	newMetrics(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "unused_total", Help: "Not exported."}))
}

func newMetrics(reg prometheus.Registerer, errs prometheus.Counter) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		errors:     errs,
		frames:     counter("sluice_ingester_label_frames_total", "Frames read from all labelers."),
		received:   counter("ingester_labeler_events_total", "Labels read from all labelers."),
		written:    counter("ingester_labels_written_total", "Labels appended to the label stream."),
		unsigned:   counter("sluice_ingester_labels_unsigned_total", "Labels without a signature that were taken while signatures are checked."),
		duplicates: counter("sluice_ingester_label_duplicate_frames_total", "Frames that the labeler had sent before."),
		gaps:       counter("sluice_ingester_label_gaps_total", "Breaks of a labeler's history: labels may be missing that only the labeler can give again."),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_ingester_label_drops_total", Help: "Labels or frames left out, by reason.",
		}, []string{"reason"}),
		parked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_ingester_label_parked_frames_total", Help: "Frames with something unreadable: kept in the dead letters, or only counted because those are full.",
		}, []string{"kept"}),
	}
	for _, r := range event.Reasons() {
		m.drops.WithLabelValues(string(r))
	}
	m.parked.WithLabelValues(feed.Stored)
	m.parked.WithLabelValues(feed.Counted)
	if reg != nil {
		reg.MustRegister(m.frames, m.received, m.written, m.unsigned, m.duplicates, m.gaps, m.drops, m.parked)
	}
	return m
}
