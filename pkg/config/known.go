package config

import (
	_ "embed"
	"slices"
	"strings"
)

// suite lists every variable that some program of the suite knows, so that one
// environment can serve all of them; it is generated from their structs.
//
//go:embed suite.txt
var suite string

// SuiteNames lists every variable that some program of the suite knows.
func SuiteNames() []string {
	var names []string
	for line := range strings.SplitSeq(suite, "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			names = append(names, line)
		}
	}
	return names
}

func knownNames(settings []*Setting) []string {
	names := SuiteNames()
	for _, s := range settings {
		names = append(names, s.names()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func nearestName(name string, known []string) string {
	return suggestion(nearest(name, known), "")
}

func nearestKey(key string, known []string) string {
	return suggestion(strings.ToLower(nearest(strings.ToUpper(key), known)), "")
}

func nearestFlag(name string, known []string) string {
	return suggestion(nearest(name, known), "--")
}

func suggestion(name, prefix string) string {
	if name == "" {
		return ""
	}
	return "; the nearest known one is " + prefix + name
}

// nearest returns the known name with the smallest edit distance, "" when the
// list is empty.
func nearest(name string, known []string) string {
	best, bestDist := "", 1<<30
	for _, k := range known {
		if d := distance(name, k); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two ASCII names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next := min(row[j]+1, row[j-1]+1, diag+cost)
			diag, row[j] = row[j], next
		}
	}
	return row[len(b)]
}
