package status

import "time"

// Pace is how fast the backfill went between two looks.
type Pace struct {
	Repos   float64 `json:"repos_per_second"`
	Records float64 `json:"records_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
	// Remaining is the time to the end of the jobs at this pace, in seconds; -1
	// is unknown.
	Remaining float64 `json:"remaining_seconds"`
}

// PaceSince compares with an earlier look.
func (b *Backfill) PaceSince(before *Backfill, took time.Duration) Pace {
	rate := func(names ...string) float64 {
		var n int64
		for _, name := range names {
			n += b.Totals[name] - before.Totals[name]
		}
		return max(float64(n)/took.Seconds(), 0)
	}
	p := Pace{Repos: rate("repos"), Records: rate("records"), Bytes: rate("bytes"), Remaining: -1}
	left := b.Jobs + b.Delayed
	switch ended := rate("repos", "gone", "failed", "skipped"); {
	case left == 0:
		p.Remaining = 0
	case ended > 0:
		p.Remaining = float64(left) / ended
	}
	return p
}
