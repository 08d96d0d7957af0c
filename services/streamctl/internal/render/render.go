// Package render makes tables that fit a terminal of 80 columns, and short
// forms of numbers, ages and sizes.
package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Table collects rows and writes them with aligned columns. Columns whose
// header begins with '>' are flush right.
type Table struct {
	head []string
	rows [][]string
}

// NewTable returns a table with the given column headers.
func NewTable(head ...string) *Table { return &Table{head: head} }

// Row adds a row; missing cells are empty.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// Len is the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// Write writes the table to w, nothing when it has no rows.
func (t *Table) Write(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	width := make([]int, len(t.head))
	right := make([]bool, len(t.head))
	head := make([]string, len(t.head))
	for i, h := range t.head {
		head[i], right[i] = strings.CutPrefix(h, ">")
		width[i] = utf8.RuneCountInString(head[i])
	}
	for _, row := range t.rows {
		for i, cell := range row[:min(len(row), len(width))] {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	fit(width, right)
	var b strings.Builder
	for _, row := range append([][]string{head}, t.rows...) {
		var line strings.Builder
		for i := range width {
			cell := ""
			if i < len(row) {
				cell = Clip(row[i], width[i])
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit narrows the widest columns of text until the table fits a terminal.
// Numbers, and text that is short, stay whole.
func fit(width []int, right []bool) {
	const terminal, gap, least = 80, 2, 12
	total := gap * (len(width) - 1)
	for _, w := range width {
		total += w
	}
	for total > terminal {
		widest := -1
		for i, w := range width {
			if !right[i] && w > least && (widest < 0 || w > width[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		width[widest]--
		total--
	}
}

// Count is n with thousands separated; a negative n is unknown.
func Count(n int64) string {
	if n < 0 {
		return "?"
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Age is a duration in one or two units, "-" for none.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "?"
	case d == 0:
		return "-"
	case d < time.Second:
		return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + "ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// Rate is entries per second in short.
func Rate(perSecond float64) string {
	switch {
	case perSecond < 0:
		return "?"
	case perSecond == 0:
		return "0/s"
	case perSecond < 10:
		return strconv.FormatFloat(perSecond, 'f', 1, 64) + "/s"
	default:
		return Count(int64(perSecond+0.5)) + "/s"
	}
}

// Bytes is a size in binary units.
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x, i = x/1024, i+1
	}
	if i == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(x, 'f', 1, 64) + " " + units[i]
}

// Clip shortens s to n runes, with an ellipsis for what is left out.
func Clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-1, 0)]) + "…"
}
