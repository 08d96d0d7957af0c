package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/services/indexer/internal/derive"
)

// LabelOutcome says what became of a batch of labels.
type LabelOutcome struct {
	// Added and Removed are the labels and the negations that are newest now.
	Added, Removed int
	// Errors, in the order of the batch: why a label was refused, or nil.
	Errors []error
}

const labelSQL = `INSERT INTO {s}.label AS l (src, uri, cid, val, neg, cts, exp)
SELECT u.src, u.uri, u.cid, u.val, u.neg::boolean, u.cts, u.exp
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) u(src, uri, cid, val, neg, cts, exp)
ORDER BY u.src, u.uri, u.cid, u.val
ON CONFLICT (src, uri, cid, val) DO UPDATE SET neg = EXCLUDED.neg, cts = EXCLUDED.cts, exp = EXCLUDED.exp
WHERE rtrim(l.cts, 'Z') COLLATE "C" < rtrim(EXCLUDED.cts, 'Z') COLLATE "C" RETURNING neg`

// ApplyLabels stores labels: the newest by cts of (src, uri, cid, val) counts,
// a negation is a row with neg. Again, or in another order, ends the same.
func (s *Store) ApplyLabels(ctx context.Context, batch []event.LabelEvent) (LabelOutcome, error) {
	out := LabelOutcome{Errors: make([]error, len(batch))}
	newest := map[[4]string]int{}
	rows := make([]event.Label, len(batch))
	for i, e := range batch {
		l, err := normalLabel(e.Label)
		if err != nil {
			out.Errors[i] = err
			continue
		}
		rows[i] = l
		key := [4]string{l.Src, l.URI, l.CID, l.Val}
		if j, ok := newest[key]; !ok || moment(rows[j].CTS) < moment(l.CTS) {
			newest[key] = i
		}
	}
	picked := make([]int, 0, len(newest))
	for _, i := range newest {
		picked = append(picked, i)
	}
	if err := s.writeLabels(ctx, rows, picked, &out); err != nil {
		return LabelOutcome{}, fmt.Errorf("apply %d labels: %w", len(batch), err)
	}
	return out, nil
}

// writeLabels halves the rows down to the one that PostgreSQL refuses.
func (s *Store) writeLabels(ctx context.Context, rows []event.Label, picked []int, out *LabelOutcome) error {
	if len(picked) == 0 {
		return nil
	}
	var t table
	for _, i := range picked {
		l := &rows[i]
		t.add(&l.Src, &l.URI, &l.CID, &l.Val, new(strconv.FormatBool(l.Neg)), &l.CTS, nullable(l.Exp))
	}
	var negs []bool
	err := s.retry(ctx, func(ctx context.Context) error {
		r, err := s.pool.Query(ctx, s.q.names.Replace(labelSQL), t.args()...)
		if err != nil {
			return err
		}
		negs, err = pgx.CollectRows(r, pgx.RowTo[bool])
		return err
	})
	if fault.ClassOf(err) == fault.Permanent {
		if len(picked) == 1 {
			out.Errors[picked[0]] = &derive.RejectError{Reason: derive.BadValue, Err: err}
			return nil
		}
		half := len(picked) / 2
		if err := s.writeLabels(ctx, rows, picked[:half], out); err != nil {
			return err
		}
		return s.writeLabels(ctx, rows, picked[half:], out)
	}
	if err != nil {
		return pg.Classify(err)
	}
	for _, neg := range negs {
		if neg {
			out.Removed++
		} else {
			out.Added++
		}
	}
	return nil
}

var (
	errLabelTime  = errors.New("cts or exp is no timestamp")
	errLabelEmpty = errors.New("src, uri or val is missing")
)

// normalLabel checks a label and normalises its times.
func normalLabel(l event.Label) (event.Label, error) {
	if l.Src == "" || l.URI == "" || l.Val == "" {
		return l, &derive.RejectError{Reason: derive.BadRecord, Err: errLabelEmpty}
	}
	for _, text := range []string{l.Src, l.URI, l.CID, l.Val} {
		if strings.IndexByte(text, 0) >= 0 {
			return l, &derive.RejectError{Reason: derive.BadText, Err: errors.New("NUL in a label")}
		}
	}
	for _, at := range []*string{&l.CTS, &l.Exp} {
		if *at == "" && at == &l.Exp {
			continue
		}
		if _, ok := derive.ParseDatetime(*at); !ok {
			return l, &derive.RejectError{Reason: derive.BadRecord, Err: errLabelTime}
		}
		*at = preciseTime(*at)
	}
	return l, nil
}

// preciseTime normalises a timestamp and keeps what it has of nanoseconds, for
// a labeler may put a label and take it back within one millisecond.
func preciseTime(at string) string {
	millis := derive.Datetime(at)
	_, fraction, _ := strings.Cut(at, ".")
	if end := strings.IndexAny(fraction, "Z+-"); end >= 0 {
		fraction = fraction[:end]
	}
	if len(fraction) <= 3 {
		return millis
	}
	return moment(millis) + strings.TrimRight(fraction[3:min(len(fraction), 9)], "0") + "Z"
}

// moment is a normalised timestamp in the form whose order is that of time.
func moment(at string) string { return strings.TrimSuffix(at, "Z") }
