// Package letters lists dead letters in the form in which they are shown.
package letters

import (
	"context"
	"time"
	"unicode/utf8"

	"sluice/pkg/redstream"
)

// Letter is one dead letter.
type Letter struct {
	ID        string    `json:"id"`
	SourceID  string    `json:"source_id"`
	Reason    string    `json:"reason"`
	Error     string    `json:"error"`
	Attempts  int64     `json:"attempts"`
	FirstSeen time.Time `json:"first_seen"`
	ParkedAt  time.Time `json:"parked_at"`
	// Fields are those of the entry, when they were asked for.
	Fields map[string]string `json:"fields,omitempty"`
}

// Of returns the letter, with the fields of its entry or without.
func Of(d redstream.DeadLetter, fields bool) Letter {
	l := Letter{ID: d.ID, SourceID: d.SourceID, Reason: d.Reason, Error: d.Error, Attempts: d.Attempts, FirstSeen: d.FirstSeen, ParkedAt: d.ParkedAt}
	if fields {
		l.Fields = map[string]string{}
		for _, f := range d.Fields {
			l.Fields[f.Name] = f.Value
		}
	}
	return l
}

// List returns at most limit letters after the id, those with the reason or,
// without one, all.
func List(ctx context.Context, q *redstream.DLQ, reason, after string, limit int) ([]Letter, error) {
	found := []Letter{}
	for len(found) < limit {
		page, err := q.List(ctx, after, 200)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			if (reason == "" || d.Reason == reason) && len(found) < limit {
				found = append(found, Of(d, false))
			}
		}
		after = page[len(page)-1].ID
	}
	return found, nil
}

// Printable says that a value is text that can be shown as it is.
func Printable(v string) bool {
	if !utf8.ValidString(v) {
		return false
	}
	for _, r := range v {
		if r < ' ' && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}
