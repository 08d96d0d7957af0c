package index_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/derive"
	"sluice/services/indexer/internal/index"
	"sluice/services/indexer/internal/store"
)

// refusing is a store that refuses some of what it gets.
type refusing struct {
	memory
	reasons map[int64]derive.Reason // by seq
}

func (r *refusing) Apply(ctx context.Context, changes []store.Change) (store.Outcome, error) {
	out, err := r.memory.Apply(ctx, changes)
	for i, c := range changes {
		if reason := r.reasons[c.Event.Seq]; reason != "" {
			out.Results[i] = store.ChangeResult{Result: store.Rejected, Err: &derive.RejectError{Reason: reason, Err: errors.New("no")}}
		}
	}
	return out, err
}

func (r *refusing) ApplyLabels(ctx context.Context, labels []event.LabelEvent) (store.LabelOutcome, error) {
	out, err := r.memory.ApplyLabels(ctx, labels)
	for i, l := range labels {
		if reason := r.reasons[l.Seq]; reason != "" {
			out.Errors[i] = &derive.RejectError{Reason: reason, Err: errors.New("no")}
		}
	}
	return out, err
}

const refusedMetric = `# HELP sluice_index_refused_total Records and labels refused for what they are. bad_value: by the database; those are in the dead letters.
# TYPE sluice_index_refused_total counter
sluice_index_refused_total{reason="bad_record"} 1
sluice_index_refused_total{reason="bad_subject"} 0
sluice_index_refused_total{reason="bad_text"} 0
sluice_index_refused_total{reason="bad_value"} 1
sluice_index_refused_total{reason="key_too_long"} 0
sluice_index_refused_total{reason="other"} 0
sluice_index_refused_total{reason="unknown_status"} 0
`

// What the database refuses is parked with its reason; what the lexicon refuses
// is only counted.
func TestRefusedByTheDatabaseIsParked(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	for i := range 20 {
		b.append(like(t, event.JSON, i, int64(i+1)))
	}
	m := &refusing{reasons: map[int64]derive.Reason{5: derive.BadValue, 9: derive.BadRecord}}
	reg := prometheus.NewRegistry()
	p, err := index.Events(b.client, config(), true, index.Sinks{Apply: m, Sweeps: m, Delete: m}, index.NewMetrics(reg), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	stop := start(t, p)
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	stop()
	b.requireOneDeadLetter(stream, "bad_value")
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(refusedMetric), "sluice_index_refused_total"))
}

func TestLabelRefusedByTheDatabaseIsParked(t *testing.T) {
	t.Parallel()
	const labelStream = "label_live"
	b := newBench(t, labelStream)
	for i := range 6 {
		name, value, err := event.JSON.Label(&event.LabelEvent{Seq: int64(i + 1), Host: "mod.test", Label: event.Label{
			Src: did(9), URI: did(i), Val: "spam", CTS: "2026-01-01T00:00:00.000Z",
		}})
		require.NoError(t, err)
		b.append(redstream.Field{Name: name, Value: value})
	}
	m := &refusing{reasons: map[int64]derive.Reason{2: derive.BadRecord, 4: derive.BadValue}}
	cfg := config()
	cfg.Name, cfg.Stage = labelStream, index.StageLabel
	reg := prometheus.NewRegistry()
	p, err := index.Labels(b.client, cfg, m, index.NewMetrics(reg), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	stop := start(t, p)
	eventually(t, "all settled", func() bool { return b.finished(labelStream, group) })
	stop()
	b.requireOneDeadLetter(labelStream, "bad_value")
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(refusedMetric), "sluice_index_refused_total"))
}

func (b *bench) requireOneDeadLetter(streamName, reason string) {
	b.t.Helper()
	list, err := b.client.DeadLetters(streamName, "").List(b.t.Context(), "", 10)
	require.NoError(b.t, err)
	require.Len(b.t, list, 1)
	require.Equal(b.t, reason, list[0].Reason)
}
