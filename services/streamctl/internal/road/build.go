package road

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/status"
)

// Look is what one look at Redis brings.
type Look struct {
	Topology status.Topology
	Picture  *status.Picture
	Backfill *status.Backfill
	// Marks: stream → high-water mark. Closed: stream → its producers wait.
	Marks  map[string]int64
	Closed map[string]bool
}

// Examination is what takes longer, and is done less often.
type Examination struct {
	At       time.Time
	Findings []doctor.Finding
	// Reasons: stream → reason → dead letters.
	Reasons map[string]map[string]int64
	// Cursors: stream → host → cursor.
	Cursors map[string]map[string]string
	Tables  Tables
}

// build puts a look and the last examination, which may be nil, into a view.
func build(l *Look, x *Examination) *View {
	p, top := l.Picture, l.Topology
	v := &View{
		At: p.At, Redis: Redis{Version: p.Server.Version, Policy: p.Server.Policy, Used: p.Server.UsedMemory, Max: p.Server.MaxMemory},
		Sources: []Source{}, Parked: []Parked{}, Findings: []doctor.Finding{}, Tables: Tables{State: "unknown"}, Readers: readers(p, top),
	}
	roles := map[string]string{top.Live: "live", top.Jobs: "jobs", top.Backfill: "backfill", top.Labels: "labels"}
	for _, s := range p.Streams {
		v.Streams = append(v.Streams, streamOf(s, roles[s.Name], l))
	}
	if l.Backfill != nil {
		v.Backfill = backfillOf(l.Backfill)
	}
	if x == nil {
		return v
	}
	v.Checked, v.Tables = &x.At, x.Tables
	v.Sources = append(v.Sources, sources(top, x.Cursors)...)
	for _, stream := range top.Streams() {
		for _, reason := range slices.Sorted(maps.Keys(x.Reasons[stream])) {
			v.Parked = append(v.Parked, Parked{stream, reason, x.Reasons[stream][reason]})
		}
	}
	v.Findings = append(v.Findings, x.Findings...)
	if v.Backfill != nil {
		v.Backfill.Listed = listed(x.Cursors[top.Jobs])
	}
	return v
}

func streamOf(s status.Stream, role string, l *Look) Stream {
	out := Stream{
		Name: s.Name, Role: role, Length: s.Length, Mark: l.Marks[s.Name], Closed: l.Closed[s.Name], Lag: s.Lag, Pending: s.Pending,
		Wait: max(s.Holder.Age.Seconds(), 0), In: s.In, Out: s.Out, Empty: seconds(s.Remaining), Quiet: -1,
		HolderGroup: s.Holder.Group, HolderConsumer: s.Holder.Consumer, DeadLetters: s.DeadLetters, written: s.Added > 0,
	}
	if s.Drained() {
		out.Wait, out.HolderGroup, out.HolderConsumer = 0, "", ""
	}
	if ms, _, ok := strings.Cut(s.LastID, "-"); ok && s.Added > 0 {
		if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n > 0 {
			out.Quiet = max(l.Picture.At.Sub(time.UnixMilli(n)).Seconds(), 0)
		}
	}
	for _, g := range s.Groups {
		if g.Unknown {
			out.Unknown = append(out.Unknown, g.Name)
			continue
		}
		n := 0
		for _, c := range g.Consumers {
			if c.Alive {
				n++
			}
		}
		out.Reading = max(out.Reading, n)
	}
	return out
}

func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}

// readers are the consumers, the ones that need attention first.
func readers(p *status.Picture, top status.Topology) []Reader {
	kind := map[string]string{}
	for _, s := range p.Streams {
		for _, g := range s.Groups {
			for _, c := range g.Consumers {
				switch {
				case g.Unknown:
					kind[c.Name] = cmp.Or(kind[c.Name], "unknown")
				case s.Name == top.Jobs:
					kind[c.Name] = "backfiller"
				default:
					kind[c.Name] = "indexer"
				}
			}
		}
	}
	out := []Reader{}
	for _, c := range p.Consumers() {
		r := Reader{Name: c.Name, Kind: kind[c.Name], Pending: c.Pending, Asked: seconds(c.Asked), Streams: c.Streams, State: Reading}
		switch {
		case c.Alive && c.Asked > status.Silent:
			r.State = Stuck
		case !c.Alive && c.Pending > 0:
			r.State = Abandoned
		case !c.Alive:
			r.State = Gone
		}
		out = append(out, r)
	}
	order := []string{Abandoned, Stuck, Reading, Gone}
	slices.SortStableFunc(out, func(a, b Reader) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State)), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out
}

func backfillOf(b *status.Backfill) *Backfill {
	out := &Backfill{Backfill: *b, Rate: -1, Left: -1, Failed: b.States["failed (dead letter)"]}
	out.Done = b.States["done"] + b.States["gone"] + out.Failed
	out.Total = out.Done + b.Jobs + b.Delayed
	return out
}

// finished counts the repositories that were ever finished, one way or another.
func finished(b *status.Backfill) int64 {
	t := b.Totals
	return t["repos"] + t["gone"] + t["failed"] + t["skipped"]
}

const listedToTheEnd = "!ingester-done"

func listed(cursors map[string]string) bool {
	for _, v := range cursors {
		if v != listedToTheEnd {
			return false
		}
	}
	return len(cursors) > 0
}

func sources(top status.Topology, cursors map[string]map[string]string) []Source {
	var out []Source
	for _, stream := range []string{top.Live, top.Jobs, top.Labels} {
		for _, host := range slices.Sorted(maps.Keys(cursors[stream])) {
			v := cursors[stream][host]
			out = append(out, Source{Stream: stream, Host: host, Cursor: v, Done: v == listedToTheEnd})
		}
	}
	return out
}
