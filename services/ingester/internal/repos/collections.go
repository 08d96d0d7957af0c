package repos

import (
	"fmt"
	"strings"
)

// Collections says which record collections are kept. The zero value keeps
// none.
type Collections struct {
	all      bool
	exact    map[string]struct{}
	prefixes []string
}

// ParseCollections reads patterns: a full NSID, a prefix of whole segments
// followed by ".*", or "*" for everything.
func ParseCollections(patterns ...string) (*Collections, error) {
	c := &Collections{exact: map[string]struct{}{}}
	for _, p := range patterns {
		p = strings.TrimSpace(p)
		switch {
		case p == "":
		case p == "*":
			c.all = true
		case !validPattern(p):
			return nil, fmt.Errorf("collection %q: want an NSID, a prefix like app.bsky.*, or *", p)
		case strings.HasSuffix(p, ".*"):
			c.prefixes = append(c.prefixes, strings.TrimSuffix(p, "*"))
		default:
			c.exact[p] = struct{}{}
		}
	}
	if !c.all && len(c.exact) == 0 && len(c.prefixes) == 0 {
		return nil, fmt.Errorf("collections %q keep nothing", patterns)
	}
	return c, nil
}

func validPattern(p string) bool {
	for segment := range strings.SplitSeq(strings.TrimSuffix(p, ".*"), ".") {
		if segment == "" {
			return false
		}
		for _, r := range segment {
			if r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
				return false
			}
		}
	}
	return true
}

// Keep says whether records of the collection are kept.
func (c *Collections) Keep(nsid string) bool {
	if c.all {
		return true
	}
	if _, ok := c.exact[nsid]; ok {
		return true
	}
	for _, p := range c.prefixes {
		if strings.HasPrefix(nsid, p) {
			return true
		}
	}
	return false
}
