package redstream

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// DeadLetter is a parked entry: the original with why it was parked.
type DeadLetter struct {
	ID        string // in the stream of dead letters
	SourceID  string // in the original stream
	Fields    []Field
	Reason    string
	Error     string
	Attempts  int64
	FirstSeen time.Time
	ParkedAt  time.Time
}

// DLQ is the dead letters of one stream.
type DLQ struct {
	c           *Client
	stream, key string
	source      string
}

// DeadLetters returns the dead letters of a stream. name is the stream that
// holds them; "" is the name of the stream + "_dlq".
func (c *Client) DeadLetters(stream, name string) *DLQ {
	if name == "" {
		name = stream + dlqSuffix
	}
	return &DLQ{c: c, stream: stream, key: c.keys.under(stream, name), source: c.keys.stream(stream)}
}

// Filter chooses dead letters: those named, else those with the reason, else all.
type Filter struct {
	IDs    []string
	Reason string
}

// Writer opens a writer of dead letters that were never entries of the stream.
func (q *DLQ) Writer() (*Writer, error) {
	w, err := q.c.NewWriter(WriterConfig{Stream: q.stream + dlqSuffix})
	if err != nil {
		return nil, err
	}
	w.key = q.key
	return w, nil
}

// Len is the number of dead letters.
func (q *DLQ) Len(ctx context.Context) (int64, error) {
	n, err := q.c.do(ctx, q.c.rc.B().Xlen().Key(q.key).Build()).AsInt64()
	return n, classify("xlen", q.key, err)
}

// List returns at most n dead letters after the given id ("" from the first),
// oldest first.
func (q *DLQ) List(ctx context.Context, after string, n int) ([]DeadLetter, error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	return q.scan(ctx, from, "+", n)
}

// Show returns one dead letter; ErrNotFound if there is none.
func (q *DLQ) Show(ctx context.Context, id string) (DeadLetter, error) {
	if _, err := parseID(id); err != nil {
		return DeadLetter{}, err
	}
	list, err := q.scan(ctx, id, id, 1)
	if err == nil && len(list) == 0 {
		err = fault.Permanentf("show %s of %s: %w", id, q.key, ErrNotFound)
	}
	if err != nil {
		return DeadLetter{}, err
	}
	return list[0], nil
}

// Reasons counts the dead letters by reason.
func (q *DLQ) Reasons(ctx context.Context) (map[string]int64, error) {
	counts := make(map[string]int64)
	err := q.each(ctx, Filter{}, func(page []DeadLetter) error {
		for _, d := range page {
			counts[d.Reason]++
		}
		return nil
	})
	return counts, err
}

// Redrive appends the original entries to their stream again, oldest first,
// and removes the dead letters: each in one step. It returns how many. Those
// that are too wide for that stay; when all others are done they are reported
// with ErrTooWide.
func (q *DLQ) Redrive(ctx context.Context, f Filter) (int, error) {
	if q.c.keys.cluster && tag(q.key) != tag(q.source) {
		return 0, fault.Fatalf("redrive: %w: %s and %s", ErrSlot, q.key, q.source)
	}
	total := 0
	var wide []string
	err := q.each(ctx, f, func(page []DeadLetter) error {
		ids, stay := split(page)
		wide = append(wide, stay...)
		if len(ids) == 0 {
			return nil
		}
		n, err := q.c.script(ctx, redriveEntries, []string{q.key, q.source}, ids).AsInt64()
		if err != nil {
			return classify("redrive", q.key, err)
		}
		total += int(n)
		q.c.metrics.redriven.WithLabelValues(q.stream).Add(float64(n))
		return nil
	})
	if err == nil && len(wide) > 0 {
		err = fault.Permanentf("redrive of %s: %d stay, the first is %s: %w", q.key, len(wide), wide[0], ErrTooWide)
	}
	return total, err
}

// split returns the ids that a script can carry, and those that are too wide.
func split(page []DeadLetter) (ids, wide []string) {
	for _, d := range page {
		if len(d.Fields) > maxParkFields {
			wide = append(wide, d.ID)
			continue
		}
		ids = append(ids, d.ID)
	}
	return ids, wide
}

// Drop deletes dead letters for good and returns how many.
func (q *DLQ) Drop(ctx context.Context, f Filter) (int, error) {
	total := 0
	err := q.each(ctx, f, func(page []DeadLetter) error {
		ids := make([]string, len(page))
		for i, d := range page {
			ids[i] = d.ID
		}
		n, err := q.c.do(ctx, q.c.rc.B().Xdel().Key(q.key).Id(ids...).Build()).AsInt64()
		total += int(n)
		return classify("drop", q.key, err)
	})
	return total, err
}

const dlqPage = 100

// each calls do with pages of what the filter chooses. What is parked while it
// runs is not looked at.
func (q *DLQ) each(ctx context.Context, f Filter, do func([]DeadLetter) error) error {
	if len(f.IDs) > 0 {
		return q.named(ctx, f.IDs, do)
	}
	end, err := q.lastID(ctx)
	if err != nil || end == "" {
		return err
	}
	for from := "-"; ; {
		page, err := q.scan(ctx, from, end, dlqPage)
		if err != nil || len(page) == 0 {
			return err
		}
		from = "(" + page[len(page)-1].ID
		if f.Reason != "" {
			page = slices.DeleteFunc(page, func(d DeadLetter) bool { return d.Reason != f.Reason })
		}
		if len(page) == 0 {
			continue
		}
		if err := do(page); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (q *DLQ) named(ctx context.Context, ids []string, do func([]DeadLetter) error) error {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, CompareIDs)
	for _, id := range slices.Compact(ids) {
		d, err := q.Show(ctx, id)
		if err != nil {
			return err
		}
		if err := do([]DeadLetter{d}); err != nil {
			return err
		}
	}
	return nil
}

func (q *DLQ) lastID(ctx context.Context) (string, error) {
	list, err := q.c.do(ctx, q.c.rc.B().Xrevrange().Key(q.key).End("+").Start("-").Count(1).Build()).AsXRangeSlices()
	if err != nil || len(list) == 0 {
		return "", classify("list", q.key, err)
	}
	return list[0].ID, nil
}

func (q *DLQ) scan(ctx context.Context, from, to string, n int) ([]DeadLetter, error) {
	list, err := q.c.do(ctx, q.c.rc.B().Xrange().Key(q.key).Start(from).End(to).Count(int64(n)).Build()).AsXRangeSlices()
	if err != nil {
		return nil, classify("list", q.key, err)
	}
	letters := make([]DeadLetter, len(list))
	for i, x := range list {
		letters[i] = deadLetterOf(x)
	}
	return letters, nil
}

// deadLetterOf takes the fields that parking added off the end of an entry.
// An entry that somebody else wrote may have them anywhere.
func deadLetterOf(x rueidis.XRangeSlice) DeadLetter {
	e, _ := entryOf("", x)
	d := DeadLetter{ID: e.ID}
	own := e.Fields
	meta := map[string]string{}
	if n := len(own); n >= 6 && own[n-6].Name == "reason" && own[n-1].Name == "source_id" {
		for _, f := range own[n-6:] {
			meta[f.Name] = f.Value
		}
		d.Fields = own[: n-6 : n-6]
	} else {
		for _, f := range own {
			switch f.Name {
			case "reason", "error", "attempts", "first_seen", "parked_at", "source_id":
				meta[f.Name] = f.Value
			default:
				d.Fields = append(d.Fields, f)
			}
		}
	}
	d.Reason, d.Error, d.SourceID = meta["reason"], meta["error"], meta["source_id"]
	d.Attempts, _ = strconv.ParseInt(meta["attempts"], 10, 64)
	d.FirstSeen, _ = time.Parse(time.RFC3339Nano, meta["first_seen"])
	d.ParkedAt, _ = time.Parse(time.RFC3339Nano, meta["parked_at"])
	if len(d.Fields) == 1 && d.Fields[0].Name == packedField {
		if wide, err := unpackFields(d.Fields[0].Value); err == nil && len(wide) > maxParkFields {
			d.Fields = wide
		}
	}
	return d
}

// String says what the dead letter is, in one line.
func (d DeadLetter) String() string {
	return fmt.Sprintf("%s %s (%d attempts, source %s): %s", d.ID, d.Reason, d.Attempts, d.SourceID, d.Error)
}
