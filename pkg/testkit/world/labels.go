package world

import (
	"fmt"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/labeling"

	"sluice/pkg/testkit/repo"
)

// LabelFrame is one message of a labeler.
type LabelFrame struct {
	Seq  int64
	Data []byte
}

// LabelTruth is a row of the label table.
type LabelTruth struct {
	Src string `json:"src"`
	URI string `json:"uri"`
	CID string `json:"cid"`
	Val string `json:"val"`
	Neg bool   `json:"neg"`
	CTS string `json:"cts"`
	Exp string `json:"exp,omitempty"`
}

type labelBook struct {
	seq   int64
	count int
	rows  map[[4]string]LabelTruth
	order [][4]string
}

func newLabelBook() *labelBook { return &labelBook{rows: map[[4]string]LabelTruth{}} }

// labelValues are what labels say.
var labelValues = []string{"spam", "!hide", "rude", "porn", "!warn"}

// emitLabels makes n more labels, one to three a frame, of all labelers: on
// posts with and without CID, on accounts and profiles; new ones, negations,
// repetitions, some that expire.
func (w *World) emitLabels(n int) error {
	g, book := w.gen, w.labelled
	labelers := []*Account{g.accounts[3], g.accounts[5]}
	for n > 0 {
		size := min(n, 1+g.rng.IntN(3))
		n -= size
		book.seq++
		message := &comatproto.LabelSubscribeLabels_Labels{Seq: book.seq}
		for range size {
			l, err := w.label(labelers[g.rng.IntN(len(labelers))])
			if err != nil {
				return err
			}
			message.Labels = append(message.Labels, l)
		}
		data, err := repo.Frame("#labels", message)
		if err != nil {
			return err
		}
		w.labels = append(w.labels, LabelFrame{book.seq, data})
	}
	return nil
}

func (w *World) label(src *Account) (*comatproto.LabelDefs_Label, error) {
	g, book := w.gen, w.labelled
	book.count++
	row := LabelTruth{Src: src.DID, Val: labelValues[g.rng.IntN(len(labelValues))]}
	if len(book.order) > 0 && g.rng.IntN(6) == 0 {
		row = book.rows[book.order[g.rng.IntN(len(book.order))]]
		row.Neg, row.Exp = !row.Neg, ""
		src = w.byDID[row.Src]
	} else {
		w.aim(&row)
	}
	at := g.opts.End.Add(-liveSpan).Add(time.Duration(book.count) * 10 * time.Millisecond)
	if g.clock != nil {
		at = time.UnixMicro(g.micros).Add(time.Duration(book.count%1000) * time.Microsecond)
	}
	row.CTS = at.UTC().Format("2006-01-02T15:04:05.000000Z")
	if g.rng.IntN(10) == 0 && !row.Neg {
		row.Exp = at.AddDate(1, 0, 0).UTC().Format(timeLayout)
	}
	key := [4]string{row.Src, row.URI, row.CID, row.Val}
	if _, known := book.rows[key]; !known {
		book.order = append(book.order, key)
	}
	book.rows[key] = row
	return sign(src, row)
}

// aim chooses what a new label is about.
func (w *World) aim(row *LabelTruth) {
	g := w.gen
	r := g.subject()
	switch n := g.rng.IntN(4); {
	case n == 0 || r == nil:
		row.URI = g.celebrity(nil).DID
	case n == 1:
		row.URI = fmt.Sprintf("at://%s/%s/self", g.celebrity(nil).DID, Profile)
	case n == 2:
		row.URI, row.CID = r.URI, r.CID.String()
	default:
		row.URI = r.URI
	}
}

func sign(src *Account, row LabelTruth) (*comatproto.LabelDefs_Label, error) {
	l := labeling.Label{CreatedAt: row.CTS, SourceDID: row.Src, URI: row.URI, Val: row.Val, Version: labeling.ATPROTO_LABEL_VERSION}
	if row.CID != "" {
		l.CID = &row.CID
	}
	if row.Exp != "" {
		l.ExpiresAt = &row.Exp
	}
	if row.Neg {
		l.Negated = &row.Neg
	}
	unsigned, err := l.UnsignedBytes()
	if err != nil {
		return nil, fmt.Errorf("encode label: %w", err)
	}
	if l.Sig, err = src.LabelKey.Sign(unsigned); err != nil {
		return nil, fmt.Errorf("sign label: %w", err)
	}
	out := l.ToLexicon()
	return &out, nil
}

// Labels returns the label frames after cursor, and a channel that is closed
// when there may be more.
func (w *World) Labels(cursor int64) ([]LabelFrame, <-chan struct{}) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if cursor < 0 {
		cursor = 0
	}
	if cursor >= int64(len(w.labels)) {
		return nil, w.changed
	}
	end := len(w.labels)
	return w.labels[cursor:end:end], w.changed
}

// LastLabel is the sequence number of the newest label frame.
func (w *World) LastLabel() int64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.labelled.seq
}
