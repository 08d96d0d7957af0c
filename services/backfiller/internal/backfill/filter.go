package backfill

import (
	"fmt"
	"strings"
)

// declarations are the collections outside the default namespaces that the
// indexer knows; they are kept whatever the patterns say.
var declarations = []string{"com.germnetwork.declaration"}

// Filter decides which collections are emitted. The zero value keeps nothing.
type Filter struct {
	all      bool
	exact    map[string]bool
	prefixes []string
}

// NewFilter reads patterns: an NSID, a prefix that ends in ".*" at a segment
// end, or "*" for everything.
func NewFilter(patterns []string) (*Filter, error) {
	f := &Filter{exact: map[string]bool{}}
	for _, c := range declarations {
		f.exact[c] = true
	}
	for _, p := range patterns {
		p = strings.TrimSpace(p)
		switch prefix, wild := strings.CutSuffix(p, ".*"); {
		case p == "*":
			f.all = true
		case p == "" || strings.Contains(prefix, "*"):
			return nil, fmt.Errorf("collection pattern %q: want an NSID, a prefix ending in .*, or *", p)
		case wild:
			f.prefixes = append(f.prefixes, prefix+".")
		default:
			f.exact[p] = true
		}
	}
	return f, nil
}

// Keep says whether records of the collection are emitted.
func (f *Filter) Keep(collection string) bool {
	if f.all || f.exact[collection] {
		return true
	}
	for _, p := range f.prefixes {
		if strings.HasPrefix(collection, p) {
			return true
		}
	}
	return false
}
