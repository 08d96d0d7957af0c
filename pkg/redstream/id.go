package redstream

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/fault"
)

// streamID is an entry id, compared as two numbers.
type streamID struct{ ms, seq uint64 }

// parseID reads "ms-seq" or "ms".
func parseID(s string) (streamID, error) {
	left, right, two := strings.Cut(s, "-")
	ms, err := strconv.ParseUint(left, 10, 64)
	if err != nil {
		return streamID{}, fault.Permanentf("%w %q", ErrBadID, s)
	}
	if !two {
		return streamID{ms: ms}, nil
	}
	seq, err := strconv.ParseUint(right, 10, 64)
	if err != nil {
		return streamID{}, fault.Permanentf("%w %q", ErrBadID, s)
	}
	return streamID{ms, seq}, nil
}

// String writes the id as Redis does.
func (id streamID) String() string { return fmt.Sprintf("%d-%d", id.ms, id.seq) }

// next is the smallest id above id.
func (id streamID) next() streamID {
	if id.seq == math.MaxUint64 {
		return streamID{ms: id.ms + 1}
	}
	return streamID{id.ms, id.seq + 1}
}

func (id streamID) less(other streamID) bool {
	return id.ms < other.ms || id.ms == other.ms && id.seq < other.seq
}

// age is the time from the moment in id until now, never negative.
func (id streamID) age(now time.Time) time.Duration {
	ms := now.UnixMilli() - int64(min(id.ms, math.MaxInt64))
	return time.Duration(max(ms, 0)) * time.Millisecond
}

// CompareIDs orders two entry ids: -1, 0 or 1. Ids that cannot be read sort first.
func CompareIDs(a, b string) int {
	x, _ := parseID(a)
	y, _ := parseID(b)
	switch {
	case x.less(y):
		return -1
	case y.less(x):
		return 1
	}
	return 0
}
