// Package top shows the road in a terminal: one frame that fits the window, and
// keys to sort it and to look into a stream.
package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/road"
)

// order is what the streams are sorted by.
type order int

const (
	byRoad order = iota // in the order in which entries travel
	byWait
	byLag
	byFill
	orders
)

var orderNames = [orders]string{"road", "oldest", "lag", "fill"}

// state is what the keys have chosen.
type state struct {
	order order
	// chosen is the stream under the cursor; only shows nothing but its consumers.
	chosen string
	only   bool
	paused bool
	help   bool
}

// painter writes styled text, or plain text where colours are not wanted.
type painter struct{ plain bool }

const (
	bold    = "1"
	dim     = "2"
	green   = "32"
	yellow  = "33"
	red     = "31"
	reverse = "7"
)

func (p painter) style(code, text string) string {
	if p.plain || code == "" || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// fit is text of exactly n columns.
func fit(text string, n int) string {
	text = render.Clip(text, n)
	return text + strings.Repeat(" ", max(n-utf8.RuneCountInString(text), 0))
}

// right is text of exactly n columns, flush right.
func right(text string, n int) string {
	text = render.Clip(text, n)
	return strings.Repeat(" ", max(n-utf8.RuneCountInString(text), 0)) + text
}

// frame draws a view into lines of at most width columns; height 0 is as many
// lines as it takes.
func frame(v *road.View, s state, p painter, width, height int) []string {
	f := &sheet{p: p, width: max(width, 40)}
	f.head(v, s)
	if len(v.Streams) > 0 {
		f.streams(v, s)
		f.backfill(v)
		f.consumers(v, s)
		f.parked(v)
	}
	f.findings(v)
	if height > 0 {
		foot := 1
		if len(f.lines) > height-foot {
			f.lines = append(f.lines[:max(height-foot-1, 0)], f.p.style(dim, fit("… a taller window shows more", f.width)))
		}
		for len(f.lines) < height-foot {
			f.lines = append(f.lines, "")
		}
		f.lines = append(f.lines, f.keys(s))
	}
	return f.lines
}

// sheet collects the lines of a frame.
type sheet struct {
	p     painter
	width int
	lines []string
}

// line adds a line of unstyled text in a style.
func (f *sheet) line(code, format string, args ...any) {
	f.lines = append(f.lines, f.p.style(code, render.Clip(fmt.Sprintf(format, args...), f.width)))
}

func (f *sheet) gap() { f.lines = append(f.lines, "") }

var colours = map[string]string{road.Healthy: green, road.Behind: yellow, road.Broken: red}

func (f *sheet) head(v *road.View, s state) {
	right := v.At.Local().Format("15:04:05")
	if s.paused {
		right = "paused " + right
	}
	if v.Redis.Version != "" {
		limit := "no limit"
		if v.Redis.Max > 0 {
			limit = render.Bytes(v.Redis.Max)
		}
		right = fmt.Sprintf("redis %s, %s of %s   %s", v.Redis.Version, render.Bytes(v.Redis.Used), limit, right)
	}
	word := v.Verdict.Mark() + " " + v.Verdict.Word()
	left := max(f.width-utf8.RuneCountInString(right)-1, 12)
	f.lines = append(f.lines, f.p.style(bold+";"+cmp.Or(colours[v.Verdict.State], dim), fit(word, left))+" "+f.p.style(dim, render.Clip(right, f.width-left-1)))
	for _, l := range wrap(because(v.Verdict), f.width) {
		f.line("", "%s", l)
	}
	if v.Verdict.Do != "" {
		for _, l := range wrap("do: "+v.Verdict.Do, f.width) {
			f.line(bold, "%s", l)
		}
	}
	for _, a := range v.Verdict.Also {
		f.line("", "and %s", a)
	}
	if v.Age > 0 {
		f.line(red, "the numbers are %s old", render.Age(time.Duration(v.Age*float64(time.Second))))
	}
	f.gap()
}

func because(v road.Verdict) string {
	if v.State == road.Behind || v.State == road.Broken {
		return "because " + v.Because
	}
	return v.Because
}

// wrap breaks text into lines of at most n columns, at spaces where there are any.
func wrap(text string, n int) []string {
	var out []string
	line := ""
	for w := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = w
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) <= n:
			line += " " + w
		default:
			out, line = append(out, line), w
		}
	}
	return append(out, line)
}

// sorted are the streams in the chosen order.
func sorted(v *road.View, o order) []road.Stream {
	list := slices.Clone(v.Streams)
	key := map[order]func(road.Stream) float64{
		byWait: func(s road.Stream) float64 { return s.Wait },
		byLag:  func(s road.Stream) float64 { return float64(s.Lag) },
		byFill: fill,
	}[o]
	if key != nil {
		slices.SortStableFunc(list, func(a, b road.Stream) int { return cmp.Compare(key(b), key(a)) })
	}
	return list
}

func fill(s road.Stream) float64 {
	if s.Mark <= 0 {
		return 0
	}
	return float64(s.Length) / float64(s.Mark)
}

// bar is a bar of n columns that is filled to share.
func bar(share float64, n int) string {
	full := min(int(share*float64(n)+0.5), n)
	if share > 0 && full == 0 {
		full = 1
	}
	return strings.Repeat("█", full) + strings.Repeat("░", n-full)
}

func (f *sheet) streams(v *road.View, s state) {
	// 80 columns: name 19, bar 8, share 5, then the numbers; what is wider goes to the name and the bar.
	extra := max(f.width-80, 0)
	name, bars := 19+min(extra/2, 12), 8+min(extra/2, 22)
	f.line(dim, "  %s %s %s %s %s %s %s %s", fit("STREAM", name-2), fit("FILL", bars+5), fit("GATE", 6), right("LAG", 7), right("WORK", 6), right("OLDEST", 7), right("IN/S", 7), right("OUT/S", 7))
	for _, st := range sorted(v, s.order) {
		mark, code := "  ", ""
		if st.Name == s.chosen {
			mark = "> "
		}
		gate := "open"
		if st.Closed {
			gate, code = "CLOSED", red
		}
		text := fmt.Sprintf("%s%s %s%s %s %s %s %s %s %s", mark, fit(st.Name, name-2), bar(fill(st), bars), right(strconv.Itoa(int(fill(st)*100))+"%", 5), fit(gate, 6),
			right(short(st.Lag), 7), right(short(st.Pending), 6), right(wait(st.Wait), 7), right(rate(st.In), 7), right(rate(st.Out), 7))
		if st.Name == s.chosen && !f.p.plain {
			code = reverse
		}
		f.line(code, "%s", text)
	}
	for _, st := range v.Streams {
		if st.Wait > 1 && st.HolderGroup != "" {
			who := st.HolderGroup + ", not read yet"
			if st.HolderConsumer != "" {
				who = st.HolderConsumer + " of " + st.HolderGroup
			}
			f.line(dim, "  the floor of %s is held by %s", st.Name, who)
		}
		if len(st.Unknown) > 0 {
			f.line(red, "  unknown group on %s: %s", st.Name, strings.Join(st.Unknown, ", "))
		}
	}
	f.gap()
}

// short is a count in at most six columns.
func short(n int64) string {
	switch {
	case n < 0:
		return "?"
	case n < 100_000:
		return strconv.FormatInt(n, 10)
	case n < 10_000_000:
		return strconv.FormatInt(n/1000, 10) + "k"
	default:
		return strconv.FormatInt(n/1_000_000, 10) + "M"
	}
}

func wait(s float64) string {
	if s == 0 {
		return "-"
	}
	return render.Age(time.Duration(s * float64(time.Second)))
}

func rate(n float64) string {
	switch {
	case n < 0:
		return "?"
	case n > 0 && n < 10:
		return strconv.FormatFloat(n, 'f', 1, 64)
	default:
		return short(int64(n + 0.5))
	}
}

func (f *sheet) backfill(v *road.View) {
	b := v.Backfill
	if b == nil || b.Total == 0 {
		return
	}
	share := float64(b.Done) / float64(b.Total)
	left := "measuring the pace"
	switch {
	case b.Paused:
		left = "PAUSED (streamctl backfill resume)"
	case b.Done >= b.Total:
		left = "done"
	case b.Left > 0:
		left = fmt.Sprintf("%s left at %s", wait(b.Left), render.Rate(b.Rate))
	case b.Rate == 0:
		left = "no repository was finished in the last minutes"
	}
	f.line("", "backfill %s %.1f%%, %s, %s of %s", bar(share, 20), share*100, left, render.Count(b.Done), render.Count(b.Total))
	f.gap()
}

var readerStates = map[string]struct{ word, code string }{
	road.Reading: {"reading", ""}, road.Stuck: {"STUCK", red}, road.Abandoned: {"DEAD", red}, road.Gone: {"gone", dim},
}

func (f *sheet) consumers(v *road.View, s state) {
	name := 22 + min(max(f.width-80, 0)/2, 20)
	title := "CONSUMER"
	if s.only {
		title = render.Clip("READ "+s.chosen, name-2)
	}
	f.line(dim, "  %s %s %s %s  %s", fit(title, name-2), fit("STATE", 8), right("WORK", 7), right("LAST READ", 10), "STREAMS")
	n := 0
	for _, r := range v.Readers {
		if s.only && !slices.Contains(r.Streams, s.chosen) {
			continue
		}
		n++
		st := readerStates[r.State]
		asked := "-"
		if r.Asked >= 0 {
			asked = wait(r.Asked)
		}
		f.line(st.code, "  %s %s %s %s  %s", fit(r.Name, name-2), fit(st.word, 8), right(short(r.Pending), 7), right(asked, 10), strings.Join(r.Streams, ","))
	}
	if n == 0 {
		f.line(dim, "  none")
	}
	f.gap()
}

func (f *sheet) parked(v *road.View) {
	for _, p := range v.Parked {
		f.line(yellow, "parked: %s of %s, %s (streamctl dlq ls %s)", short(p.Count), p.Stream, p.Reason, p.Stream)
	}
	if len(v.Parked) > 0 {
		f.gap()
	}
}

func (f *sheet) findings(v *road.View) {
	for _, x := range v.Findings {
		if x.Level != doctor.Bad && x.Level != doctor.Warn || strings.Contains(because(v.Verdict)+strings.Join(v.Verdict.Also, " "), x.What) || x.Check == "dead letters" {
			continue
		}
		code := yellow
		if x.Level == doctor.Bad {
			code = red
		}
		f.line(code, "%s %s: %s", x.Level, x.Check, x.What)
		if x.Do != "" {
			f.line("", "     do %s", x.Do)
		}
	}
}

func (f *sheet) keys(s state) string {
	text := fmt.Sprintf("q quit  ↑↓ choose  enter its consumers  s sort: %s  space pause  ? help", orderNames[s.order])
	if s.help {
		text = "gate CLOSED: what fills it waits · WORK: given, not finished · do: what mends it"
	}
	return f.p.style(dim, render.Clip(text, f.width))
}
