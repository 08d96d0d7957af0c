package status

import (
	"context"

	"sluice/pkg/redstream"
)

// Keys of the backfill beside its stream; the backfiller defines them.
const (
	PausedKey = ":paused"

	ledgerKey   = ":state"
	ledgerParts = 1 << 19
	progressKey = ":progress"
	hostsKey    = ":hosts"
)

// LedgerStates are the letters of the ledger in words.
var LedgerStates = map[string]string{"a": "being read", "w": "will be tried again", "d": "done", "g": "gone", "f": "failed (dead letter)"}

// Backfill is how far the backfill is.
type Backfill struct {
	Paused bool `json:"paused"`
	// Jobs are those in the stream, Delayed those that come later.
	Jobs    int64 `json:"jobs_left"`
	Delayed int64 `json:"delayed"`
	// Totals count since the keys were made; States are repositories by what is known of them.
	Totals map[string]int64 `json:"totals"`
	States map[string]int64 `json:"states"`
	// Output is the length of the stream that it fills, Mark the length at which it waits.
	Output int64 `json:"output_length"`
	Mark   int64 `json:"output_high_water_mark"`
	// Hosts: "{host} {what}" → repositories; only when asked for.
	Hosts map[string]int64 `json:"hosts,omitempty"`
}

// Backfill reads how far the backfill is at picture p; mark is the high-water
// mark of its output.
func (c *Camera) Backfill(ctx context.Context, p *Picture, mark int64, hosts bool) (*Backfill, error) {
	jobs := c.Topology.Jobs
	b := &Backfill{Delayed: p.Delayed, Totals: p.Repos, Output: p.Find(c.Topology.Backfill).Length, Mark: mark, States: map[string]int64{}}
	for _, g := range p.Find(jobs).Groups {
		if g.Name == c.Topology.JobGroup {
			b.Jobs = max(g.Lag, 0) + g.Pending
		}
	}
	var err error
	if b.Paused, err = c.Redis.Flag(ctx, jobs, PausedKey); err != nil {
		return nil, err
	}
	counts, err := Ledger(c.Redis, jobs).Counts(ctx)
	if err != nil {
		return nil, err
	}
	for letter, n := range counts {
		if name := LedgerStates[letter]; name != "" {
			b.States[name] = n
		}
	}
	if hosts {
		b.Hosts, err = c.Redis.Totals(ctx, jobs, hostsKey)
	}
	return b, err
}

// Ledger is the register of repositories of the job stream.
func Ledger(redis *redstream.Client, jobs string) *redstream.Register {
	return redis.NewRegister(jobs, ledgerKey, ledgerParts)
}
