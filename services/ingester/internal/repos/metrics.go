package repos

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/atproto"
	"sluice/services/ingester/internal/feed"
)

// frameKinds are the values of the label kind of frames.
func frameKinds() []string {
	kinds := atproto.Kinds()
	out := make([]string, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, string(k))
	}
	return out
}

type metrics struct {
	events, creates, updates, deletes prometheus.Counter
	filtered, streamed                prometheus.Counter
	errors                            prometheus.Counter
	inMemory                          prometheus.Gauge
	frames                            *prometheus.CounterVec
	drops                             *prometheus.CounterVec
	noticed                           *prometheus.CounterVec
	parked                            *prometheus.CounterVec
	duplicates, resyncs, resyncsOver  prometheus.Counter
	seqGaps, seqMissing               prometheus.Counter
	streamErrors                      *prometheus.CounterVec
	gaps                              *prometheus.CounterVec
	unverified                        *prometheus.CounterVec
	batchEvents                       prometheus.Histogram
	batchSeconds                      prometheus.Histogram
	judgeSeconds                      prometheus.Histogram
	stateErrors                       prometheus.Counter
	lastSeq, savedSeq                 prometheus.Gauge
	members                           *prometheus.GaugeVec
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func counters(name, help, label string, values ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	for _, value := range values {
		v.WithLabelValues(value)
	}
	return v
}

// ExportIdle registers the metrics of a Pipeline that does not run in this
// process, so that they are there in every mode.
func ExportIdle(reg prometheus.Registerer) {
	newMetrics(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "unused_total", Help: "Not exported."}))
}

func newMetrics(reg prometheus.Registerer, errs prometheus.Counter) *metrics {
	m := &metrics{
		errors:   errs,
		events:   counter("ingester_firehose_events_total", "Frames read from all relays. Flat: no relay sends, see ingester_websocket_connections and ingester_backpressure_active."),
		creates:  counter("ingester_firehose_create_events_total", "Kept create operations written to the stream."),
		updates:  counter("ingester_firehose_update_events_total", "Kept update operations written to the stream."),
		deletes:  counter("ingester_firehose_delete_events_total", "Kept delete operations written to the stream."),
		filtered: counter("ingester_firehose_filtered_operations_total", "Operations of collections that INGESTER_COLLECTIONS does not keep."),
		streamed: counter("ingester_stream_events_total", "Entries appended to the live stream."),
		inMemory: gauge("ingester_events_in_memory", "Frames read and not yet durable. At its ceiling the relay is not read any more."),
		frames: counters("sluice_ingester_frames_total", "Frames read by kind.", "kind",
			frameKinds()...),
		drops: counters("sluice_ingester_drops_total", "Frames or operations left out, by reason. Their repository is fetched as a whole where that can help.", "reason",
			reasonValues()...),
		noticed:     counters("sluice_ingester_noticed_total", "What made a repository's history doubtful, by kind.", "kind", noticeValues()...),
		resyncs:     counter("sluice_ingester_resyncs_total", "Repositories asked for as a whole. They reach the job stream when they are due."),
		resyncsOver: counter("sluice_ingester_resyncs_over_limit_total", "Repositories not asked for one by one because too many wait already. They are found by listing the relay."),
		parked:      counters("sluice_ingester_parked_frames_total", "Frames that could not be read: kept in the dead letters, or only counted because those are full.", "kept", feed.Stored, feed.Counted),
		duplicates: counter("sluice_ingester_duplicate_frames_total",
			"Frames that another relay, or this one, had brought before."),
		seqGaps:    counter("sluice_ingester_seq_gaps_total", "Jumps in a relay's sequence numbers."),
		seqMissing: counter("sluice_ingester_seq_missing_total", "Sequence numbers left out by these jumps. Some relays number sparsely; a sudden rise is a relay that loses events."),
		gaps: counters("sluice_ingester_gaps_total", "Breaks of a relay's history: the cursor was too old, or from another sequence, or lost by Redis, or a relay was replaced that could not be reached. The repositories concerned are fetched.", "cause",
			gapOutdated, gapFuture, gapLost, gapResyncs, gapRelay),
		streamErrors: counters("sluice_ingester_stream_errors_total", "Streams ended by the relay, by the error it gave. ConsumerTooSlow: the ingester or what follows it is too slow.", "name",
			atproto.ErrorFutureCursor, atproto.ErrorConsumerTooSlow, "other"),
		unverified: counters("sluice_ingester_unverified_commits_total", "Commits passed without the check of their signature, by cause.", "cause", unverifiedIdentity),
		batchEvents: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_ingester_batch_events", Help: "Entries of one append.",
			Buckets: []float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}, NativeHistogramBucketFactor: 1.1,
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_ingester_append_seconds", Help: "Duration of one append, with its retries.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5, 30}, NativeHistogramBucketFactor: 1.1,
		}),
		judgeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_ingester_judge_seconds", Help: "Time to verify and convert one frame, with the wait for its identity.",
			Buckets: []float64{.0001, .00025, .0005, .001, .005, .025, .1, .5, 2.5, 10, 60}, NativeHistogramBucketFactor: 1.1,
		}),
		stateErrors: counter("sluice_ingester_state_errors_total", "Times of the cursor that could not be saved. Harmless, but a gap after a restart may be taken for longer than it was."),
		lastSeq:     gauge("sluice_ingester_last_seq", "Highest sequence number read, of the relay that sent last."),
		savedSeq:    gauge("sluice_ingester_saved_seq", "Sequence number of the cursor saved last, of the relay that was written last."),
	}
	m.members = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_ingester_relays",
		Help: "Relays followed: settled; joining, until they have been followed for long enough beside a settled one; leaving, until one that joins has settled. Leaving for long: the relay that joins is not connected, or the one that leaves is far behind.",
	}, []string{"state"})
	for _, state := range memberStates() {
		m.members.WithLabelValues(state)
	}
	if reg != nil {
		reg.MustRegister(m.events, m.creates, m.updates, m.deletes, m.filtered, m.streamed, m.inMemory, m.frames, m.drops,
			m.noticed, m.resyncs, m.resyncsOver, m.parked, m.duplicates, m.seqGaps, m.seqMissing, m.gaps, m.unverified, m.streamErrors,
			m.batchEvents, m.batchSeconds, m.judgeSeconds, m.stateErrors, m.lastSeq, m.savedSeq, m.members)
	}
	return m
}

func (m *metrics) wrote(e *entry) {
	m.creates.Add(float64(e.tally.creates))
	m.updates.Add(float64(e.tally.updates))
	m.deletes.Add(float64(e.tally.deletes))
}
