package incident

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// count looks at what is left and says what became of each entry.
func (w *world) count(ctx context.Context) (Outcome, error) {
	o := Outcome{}
	for _, stream := range streams {
		live, numbers, err := w.ids(ctx, stream)
		if err != nil {
			return o, fmt.Errorf("list %s: %w", stream, err)
		}
		pending, err := w.pending(ctx, stream)
		if err != nil {
			return o, fmt.Errorf("list pending of %s: %w", stream, err)
		}
		delivered, err := w.lastDelivered(ctx, stream)
		if err != nil {
			return o, fmt.Errorf("inspect %s: %w", stream, err)
		}
		o.Length += len(live)
		for id := range pending {
			if !live[id] {
				o.Phantoms++
			}
		}
		w.mu.Lock()
		for number := range w.in[stream] {
			o.In++
			id, there := numbers[number]
			switch reachable := there && (pending[id] || after(id, delivered)); {
			case w.done[stream][number]:
				o.Indexed++
			case reachable:
				o.Stuck++
			default:
				o.Lost++
			}
		}
		w.mu.Unlock()
	}
	if o.Stuck > 0 {
		w.mu.Lock()
		for _, name := range append([]string{haunted}, healthy...) {
			if time.Since(w.worked[name]) > w.opts.Quiet {
				o.Idle++
			}
		}
		w.mu.Unlock()
	}
	return o, nil
}

// ids returns the ids of the entries of a stream, and those of the events by number.
func (w *world) ids(ctx context.Context, stream string) (live map[string]bool, numbers map[int]string, err error) {
	list, err := w.do(ctx, "XRANGE", w.key(stream), "-", "+").AsXRangeSlices()
	live, numbers = make(map[string]bool, len(list)), make(map[int]string, len(list))
	for _, e := range list {
		live[e.ID] = true
		if number, err := strconv.Atoi(e.FieldValues[0].Value); err == nil && e.FieldValues[0].Field == "event" {
			numbers[number] = e.ID
		}
	}
	return live, numbers, err
}

func (w *world) pending(ctx context.Context, stream string) (map[string]bool, error) {
	rows, err := w.do(ctx, "XPENDING", w.key(stream), group, "-", "+", "10000000").ToArray()
	if err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(rows))
	for i := range rows {
		cells, err := rows[i].ToArray()
		if err != nil || len(cells) == 0 {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
		id, err := cells[0].ToString()
		if err != nil {
			return nil, err
		}
		ids[id] = true
	}
	return ids, nil
}

func (w *world) lastDelivered(ctx context.Context, stream string) (string, error) {
	rows, err := w.do(ctx, "XINFO", "GROUPS", w.key(stream)).ToArray()
	if err != nil || len(rows) == 0 {
		return "0-0", err
	}
	info, err := rows[0].AsMap()
	if err != nil {
		return "", err
	}
	m := info["last-delivered-id"]
	return m.ToString()
}

// after compares two ids.
func after(a, b string) bool {
	ams, aseq := halves(a)
	bms, bseq := halves(b)
	return ams > bms || ams == bms && aseq > bseq
}

func halves(id string) (ms, seq uint64) {
	left, right, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(left, 10, 64)
	seq, _ = strconv.ParseUint(right, 10, 64)
	return ms, seq
}
