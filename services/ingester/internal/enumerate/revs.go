package enumerate

import (
	"context"
	"fmt"

	"sluice/pkg/atproto"
)

// fingerprint is what a row is compared by: an inactive repository that comes
// back, or the other way round, is a change.
func fingerprint(r *atproto.ListedRepo) string {
	if r.Active {
		return r.Rev
	}
	return r.Rev + "!" + r.Status
}

// changed leaves out the rows whose last job was for the same rev.
func (e *Enumerator) changed(ctx context.Context, rows []atproto.ListedRepo) ([]atproto.ListedRepo, error) {
	if e.deps.Revs == nil || len(rows) == 0 {
		return rows, nil
	}
	dids := make([]string, len(rows))
	for i := range rows {
		dids[i] = rows[i].DID
	}
	var known []string
	err := e.retry(ctx, func(ctx context.Context) (err error) {
		known, err = e.deps.Revs.Get(ctx, dids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read known revs: %w", err)
	}
	kept := rows[:0:0]
	for i := range rows {
		if rows[i].Rev != "" && known[i] == fingerprint(&rows[i]) {
			e.metrics.unchanged.Inc()
			continue
		}
		kept = append(kept, rows[i])
	}
	return kept, nil
}

// remember is best effort: what is not remembered becomes a job again.
func (e *Enumerator) remember(ctx context.Context, rows []atproto.ListedRepo) {
	if e.deps.Revs == nil || len(rows) == 0 {
		return
	}
	dids, revs := make([]string, len(rows)), make([]string, len(rows))
	for i := range rows {
		dids[i], revs[i] = rows[i].DID, fingerprint(&rows[i])
	}
	if err := e.deps.Revs.Put(ctx, dids, revs); err != nil && ctx.Err() == nil {
		e.logged.warn(ctx, e.log, "revs not remembered", "", err)
	}
}
