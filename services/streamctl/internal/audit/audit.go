// Package audit compares the rows of one account with its repository as the
// server of the account gives it.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/lexicon"
	"sluice/services/streamctl/internal/store"
)

// Kind says how a record differs.
type Kind string

// The kinds.
const (
	Missing   Kind = "missing"   // in the repository, and not in the table
	Extra     Kind = "extra"     // in the table, and not in the repository
	Different Kind = "different" // in both, with another CID
)

// Difference is one record that differs.
type Difference struct {
	URI    string `json:"uri"`
	Kind   Kind   `json:"kind"`
	Theirs string `json:"theirs,omitempty"` // CID in the repository
	Ours   string `json:"ours,omitempty"`   // CID in the table
}

// Report is the outcome of a comparison.
type Report struct {
	DID string `json:"did"`
	PDS string `json:"pds"`
	// Rev is that of the repository, OurRev the newest that was indexed.
	Rev    string `json:"rev"`
	OurRev string `json:"our_rev,omitempty"`
	// Records are those of the repository, Same those that agree.
	Records   int64 `json:"records"`
	Same      int64 `json:"same"`
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// Other are records of collections that nobody indexes, Refused those that
	// do not agree with their lexicon: neither belongs in the table.
	Other   int64 `json:"other_collections"`
	Refused int64 `json:"refused"`
	// Newer are rows and deletions after Rev, which the repository did not have yet.
	Newer    int64        `json:"newer"`
	Examples []Difference `json:"examples,omitempty"`
}

// Differs says that something does not agree.
func (r *Report) Differs() bool { return r.Missing+r.Extra+r.Different > 0 }

// Behind says that the table has not come to the rev of the repository, so that
// what is missing may be under way.
func (r *Report) Behind() bool { return r.OurRev < r.Rev }

// Table is what is asked of the database.
type Table interface {
	// Records yields the rows of an account by the bytes of their uri.
	Records(ctx context.Context, did string) iter.Seq2[store.Row, error]
	// DeletedAfter lists what was deleted after a rev.
	DeletedAfter(ctx context.Context, did, rev string) (map[string]bool, error)
}

// Config of a comparison.
type Config struct {
	DID string
	// Verify checks the signature of the commit.
	Verify   func(ctx context.Context, head *atproto.SignedCommit) error
	Catalog  *lexicon.Catalog
	Examples int
	// MaxBytes bounds the archive.
	MaxBytes int64
}

// Compare reads the archive to its end and then goes through it and the rows
// side by side, in memory that does not grow with the number of records.
func Compare(ctx context.Context, car io.Reader, table Table, cfg Config) (*Report, error) {
	m := &merge{cfg: cfg, r: &Report{DID: cfg.DID}}
	next, stop := iter.Pull2(table.Records(ctx, cfg.DID))
	defer stop()
	m.next = next
	info, err := atproto.ReadRepo(ctx, car, atproto.RepoOptions{
		DID: cfg.DID, MaxBytes: cfg.MaxBytes,
		Verify: func(ctx context.Context, head *atproto.SignedCommit) error {
			m.r.Rev = head.Rev
			return cfg.Verify(ctx, head)
		},
	}, func(rec atproto.Record) error { return m.record(ctx, table, rec) })
	if err != nil {
		return nil, fmt.Errorf("read the repository: %w", err)
	}
	m.r.Records = info.Leaves()
	for _, n := range info.Rejected {
		m.r.Refused += n
	}
	if err := m.upTo(""); err != nil { // what is behind its last record
		return nil, err
	}
	return m.r, nil
}

type merge struct {
	cfg  Config
	r    *Report
	next func() (store.Row, error, bool)

	row     store.Row
	started bool
	end     bool
	deleted map[string]bool
}

// record meets the next record of the repository.
func (m *merge) record(ctx context.Context, table Table, rec atproto.Record) error {
	if m.deleted == nil {
		var err error
		if m.deleted, err = table.DeletedAfter(ctx, m.cfg.DID, m.r.Rev); err != nil {
			return err
		}
	}
	uri := "at://" + m.cfg.DID + "/" + rec.Collection + "/" + rec.RKey
	theirs := rec.CID.String()
	if err := m.upTo(uri); err != nil {
		return err
	}
	if !m.end && m.row.URI == uri {
		row := m.row
		switch {
		case row.CID == theirs:
			m.r.Same++
		case row.Rev > m.r.Rev:
			m.r.Newer++
		default:
			m.r.Different++
			m.example(Difference{uri, Different, theirs, row.CID})
		}
		return m.advance()
	}
	switch {
	case m.deleted[uri]:
		m.r.Newer++
	case !m.cfg.Catalog.Has(rec.Collection):
		m.r.Other++
	default:
		refused, err := m.refused(rec)
		if err != nil {
			return err
		}
		if refused {
			m.r.Refused++
			return nil
		}
		m.r.Missing++
		m.example(Difference{URI: uri, Kind: Missing, Theirs: theirs})
	}
	return nil
}

// refused says that the indexer does not take such a record.
func (m *merge) refused(rec atproto.Record) (bool, error) {
	text, err := dagcbor.AppendJSON(nil, rec.Value)
	if err != nil {
		return true, nil //nolint:nilerr // a record that has no JSON is not indexed
	}
	err = m.cfg.Catalog.Validate(rec.Collection, text)
	if _, wrong := errors.AsType[*lexicon.Error](err); wrong {
		return true, nil
	}
	return false, err
}

// upTo passes the rows before uri, or all that are left: the repository does
// not have them.
func (m *merge) upTo(uri string) error {
	if !m.started {
		m.started = true
		if err := m.advance(); err != nil {
			return err
		}
	}
	for !m.end && (uri == "" || m.row.URI < uri) {
		if m.row.Rev > m.r.Rev {
			m.r.Newer++
		} else {
			m.r.Extra++
			m.example(Difference{URI: m.row.URI, Kind: Extra, Ours: m.row.CID})
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}

func (m *merge) advance() error {
	row, err, ok := m.next()
	m.row, m.end = row, !ok
	return err
}

func (m *merge) example(d Difference) {
	if len(m.r.Examples) < m.cfg.Examples {
		m.r.Examples = append(m.r.Examples, d)
	}
}
