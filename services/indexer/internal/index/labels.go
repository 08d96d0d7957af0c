package index

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/indexer/internal/store"
)

// LabelApplier makes labels durable.
type LabelApplier interface {
	// ApplyLabels commits the labels that are well-formed; of several with the
	// same subject, source and value the newest stays. The same labels again
	// change nothing.
	ApplyLabels(ctx context.Context, labels []event.LabelEvent) (store.LabelOutcome, error)
}

// labelEntry holds the labels of one entry.
type labelEntry []event.LabelEvent

type labels struct {
	apply   LabelApplier
	metrics *Metrics
}

// Labels returns the pipeline of a stream of labels.
func Labels(c *redstream.Client, cfg Config, apply LabelApplier, m *Metrics, log *slog.Logger) (*Pipeline[labelEntry], error) {
	l := &labels{apply: apply, metrics: m}
	return newPipeline(c, cfg, kind[labelEntry]{
		decode: l.decode,
		key:    func(v labelEntry) string { return v[0].Label.URI },
		apply:  l.applyAll,
		time: func(v labelEntry) time.Time {
			return eventTime(v[len(v)-1].Label.CTS)
		},
		done: l.done,
	}, m, log)
}

// decode returns the good labels of an entry together with the error of the
// bad ones.
func (*labels) decode(d redstream.Delivery) (labelEntry, bool, error) {
	all, err := event.DecodeLabels(d.Get)
	if err == nil && len(all) == 0 {
		err = event.Dropf(event.ReasonBadLabel, "no label in the entry")
	}
	return all, len(all) > 0, err
}

func (l *labels) applyAll(ctx context.Context, batch []labelEntry) (refused []error, err error) {
	var all []event.LabelEvent
	for _, entry := range batch {
		all = append(all, entry...)
	}
	outcome, err := l.apply.ApplyLabels(ctx, all)
	if err != nil {
		return nil, err
	}
	l.metrics.writes.Add(float64(outcome.Added + outcome.Removed))
	l.metrics.labelsAdded.Add(float64(outcome.Added))
	l.metrics.labelsRemoved.Add(float64(outcome.Removed))
	refused = make([]error, len(batch))
	next := 0
	for i, entry := range batch {
		for _, err := range outcome.Errors[next : next+len(entry)] {
			if err != nil {
				l.metrics.rejected(err)
				refused[i] = cmp.Or(refused[i], byDatabase(err))
			}
		}
		next += len(entry)
	}
	return refused, nil
}

func (l *labels) done(batch []labelEntry) {
	for _, entry := range batch {
		l.metrics.labels.Add(float64(len(entry)))
	}
}
