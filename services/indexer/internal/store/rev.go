package store

import (
	"strings"
	"time"

	"sluice/services/indexer/internal/derive"
)

// Marks after a revision that is known from a fetch: the record was there as of
// it. Both sort after every revision with the same text.
const (
	markFetched = "~" // never seen on the live stream
	markBoth    = "|" // seen on the live stream too
)

func revBase(rev string) string { return strings.TrimRight(rev, markFetched+markBoth) }

func marked(rev string) bool { return len(revBase(rev)) != len(rev) }

// buried says that a deletion is not older than a version. What a fetch found as
// of that very revision is there: the tombstone is of a sweep that did not know
// of it. So is what a commit made in the place of an older version that it
// deleted.
func buried(rev string, tomb tombRow) bool {
	base := revBase(rev)
	return base < tomb.Rev || base == tomb.Rev && !marked(rev) && !tomb.Replaced
}

// quiet says that a record is known from fetches only, so nobody was notified.
func quiet(rev string) bool { return strings.HasSuffix(rev, markFetched) }

// mergeRev is the revision of a record that is the same in both.
func mergeRev(a, b string) string {
	if a == "" {
		return b
	}
	top := max(revBase(a), revBase(b))
	topMarked := (revBase(a) == top && marked(a)) || (revBase(b) == top && marked(b))
	switch {
	case !topMarked:
		return top
	case quiet(a) && quiet(b):
		return top + markFetched
	default:
		return top + markBoth
	}
}

const tidAlphabet = "234567abcdefghijklmnopqrstuvwxyz"

// tidOf is the TID of a time, with the given clock id (0 to 1023).
func tidOf(t time.Time, clock uint64) string {
	n := uint64(max(t.UnixMicro(), 0))<<10 | clock
	var b [13]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = tidAlphabet[n&31]
		n >>= 5
	}
	return string(b[:])
}

// tidAfter is above every TID made up to a time.
func tidAfter(at string) string {
	t, ok := derive.ParseDatetime(at)
	if !ok {
		return ""
	}
	return tidOf(t.Add(time.Millisecond-time.Microsecond), 1023)
}

// stamp is the place of a record in the order of judgement: its revision, or,
// where that is only an upper bound, the time it says it was made.
func stamp(rev, sortAt string) string {
	base := revBase(rev)
	if base != "" && base == rev {
		return rev
	}
	t, ok := derive.ParseDatetime(sortAt)
	if !ok {
		return base
	}
	tid := tidOf(t, 0)
	if base != "" && base < tid {
		return base
	}
	return tid
}
