package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/status"
)

// Which says which failed repositories are meant. Fields that are set must all
// agree.
type Which struct {
	// DIDs are the repositories by name; empty: all.
	DIDs []string
	// Reason is why it failed, as in docs/backfill-errors.md, or why it is in
	// the dead letters.
	Reason string
	// Error is a text within the error.
	Error string
	// Host has the repository, by its DID document, or has listed it.
	Host string
}

// Retrier finds failed repositories and has them fetched again.
type Retrier struct {
	Redis *redstream.Client
	// Stream is the stream of jobs, DeadLetters that of the jobs given up.
	Stream, DeadLetters string
	Directory           Directory
	Counts              *Counts
}

// Failed is a job in the dead letters.
type Failed struct {
	ID, DID, Reason string
}

// Failed lists the dead letters that are meant, oldest first.
func (r *Retrier) Failed(ctx context.Context, which *Which) ([]Failed, error) {
	q := r.Redis.DeadLetters(r.Stream, r.DeadLetters)
	var out []Failed
	for after := ""; ; {
		page, err := q.List(ctx, after, Chunk)
		if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		if len(page) == 0 {
			return out, nil
		}
		for i := range page {
			f, ok, err := r.match(ctx, which, &page[i])
			if err != nil {
				return nil, err
			}
			if ok {
				out = append(out, f)
			}
		}
		r.Counts.Seen.Add(int64(len(page)))
		after = page[len(page)-1].ID
	}
}

// match says whether a dead letter is meant. One without a readable job is, if
// neither a name nor a host is asked for.
func (r *Retrier) match(ctx context.Context, which *Which, d *redstream.DeadLetter) (Failed, bool, error) {
	e := redstream.Entry{Fields: d.Fields}
	job, err := event.DecodeJob(e.Get)
	if err != nil {
		job = &event.RepoJob{}
	}
	cause, _, _ := strings.Cut(d.Error, ":")
	f := Failed{ID: d.ID, DID: job.DID, Reason: d.Reason}
	if reasonOf(cause) {
		f.Reason = cause
	}
	switch {
	case len(which.DIDs) > 0 && !slices.Contains(which.DIDs, job.DID),
		which.Reason != "" && which.Reason != d.Reason && which.Reason != cause,
		which.Error != "" && !strings.Contains(d.Error, which.Error):
		return f, false, nil
	case which.Host == "" || job.Host == which.Host:
		return f, true, nil
	case job.DID == "":
		return f, false, nil
	}
	ok, err := r.at(ctx, job.DID, which.Host)
	return f, ok, err
}

// reasonOf says whether a word may be a reason: lower case with underscores.
func reasonOf(word string) bool {
	return word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// at says whether the repository is at the host by its DID document. One whose
// document cannot be had is not.
func (r *Retrier) at(ctx context.Context, did, host string) (bool, error) {
	id, err := r.Directory.Identity(ctx, did)
	if err != nil {
		return false, ctx.Err()
	}
	u, err := url.Parse(id.PDS)
	return err == nil && strings.EqualFold(u.Host, host), nil
}

// Redrive puts the jobs back on their stream; each leaves the dead letters in
// the same step. One that is no longer there is passed over.
func (r *Retrier) Redrive(ctx context.Context, failed []Failed) error {
	q := r.Redis.DeadLetters(r.Stream, r.DeadLetters)
	for _, f := range failed {
		n, err := q.Redrive(ctx, redstream.Filter{IDs: []string{f.ID}})
		if errors.Is(err, redstream.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("redrive: %w", err)
		}
		r.Counts.Added.Add(int64(n))
	}
	return nil
}

// Gone lists the repositories that the ledger has as gone, by the answer of
// their host or of the directory; found is told of each that is meant.
func (r *Retrier) Gone(ctx context.Context, which *Which, found func(Failed) error) error {
	visit := func(name, value string) error {
		r.Counts.Seen.Add(1)
		e, did := parseEntry(value), ledgerDID(name)
		if e.state != 'g' || which.Reason != "" && which.Reason != e.reason || which.Error != "" {
			return nil
		}
		if which.Host != "" {
			if ok, err := r.at(ctx, did, which.Host); err != nil || !ok {
				return err
			}
		}
		return found(Failed{DID: did, Reason: e.reason})
	}
	ledger := status.Ledger(r.Redis, r.Stream)
	if len(which.DIDs) == 0 {
		return ledger.Scan(ctx, visit)
	}
	names := make([]string, len(which.DIDs))
	for i, d := range which.DIDs {
		names[i] = ledgerName(d)
	}
	values, err := ledger.Get(ctx, names...)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	for i, v := range values {
		if err := visit(names[i], v); err != nil {
			return err
		}
	}
	return nil
}
