// Package status takes a picture of the whole sluice as Redis sees it: the
// streams with their groups and consumers, rates between two pictures, the
// cursors and the server.
package status

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"sluice/pkg/redstream"
)

// Silent is how long a reader that lives may go without an answer to a read;
// longer, and it is stuck.
const Silent = 10 * time.Second

// Topology says which streams there are and which groups are expected on them.
type Topology struct {
	Live, Backfill, Labels, Jobs string
	Group, LabelGroup, JobGroup  string
	// JobLetters holds the dead letters of the jobs; empty: Jobs + "_dlq".
	JobLetters string
}

// Streams lists the streams in the order of the road, with their groups.
func (t Topology) Streams() []string { return []string{t.Live, t.Jobs, t.Backfill, t.Labels} }

// Groups are the groups expected on stream.
func (t Topology) Groups(stream string) []string {
	switch stream {
	case t.Live, t.Backfill:
		return []string{t.Group}
	case t.Labels:
		return []string{t.LabelGroup}
	case t.Jobs:
		return []string{t.JobGroup, t.JobGroup + "_urgent"}
	}
	return nil
}

// Letters is the name of the stream with the dead letters of a stream; empty is
// the default.
func (t Topology) Letters(stream string) string {
	if stream == t.Jobs {
		return t.JobLetters
	}
	return ""
}

// Picture is the sluice at one moment.
type Picture struct {
	At      time.Time        `json:"at"`
	Server  redstream.Server `json:"server"`
	Streams []Stream         `json:"streams"`
	// Cursors: stream → host → cursor.
	Cursors map[string]map[string]string `json:"cursors,omitempty"`
	// Delayed are jobs that come later; Repos are totals of the backfill.
	Delayed int64            `json:"delayed_jobs"`
	Repos   map[string]int64 `json:"backfill_totals,omitempty"`
}

// Stream is one stream, with its rates since the picture before.
type Stream struct {
	Name string `json:"name"`
	redstream.StreamStats
	// In and Out are entries per second written and removed; -1 is unknown.
	In  float64 `json:"in_per_second"`
	Out float64 `json:"out_per_second"`
	// Remaining is the time until the stream is empty at these rates; 0 when it
	// is, -1 when it does not shrink or the rates are unknown.
	Remaining time.Duration `json:"remaining_ns"`
}

// Group is one group of a stream.
type Group = redstream.GroupStats

// Stats are the numbers without the rates.
func (s Stream) Stats() redstream.StreamStats { return s.StreamStats }

// Removed is how many entries were ever removed.
func (s Stream) Removed() int64 { return max(s.Added-s.Length, 0) }

// Drained says that nothing is in it and nothing is outstanding.
func (s Stream) Drained() bool { return s.Length == 0 && s.Pending == 0 }

// Find returns the stream of that name.
func (p *Picture) Find(name string) Stream {
	for _, s := range p.Streams {
		if s.Name == name {
			return s
		}
	}
	return Stream{Name: name}
}

// Drained says that every stream is, and that no job is put off.
func (p *Picture) Drained() bool {
	return p.Delayed == 0 && !slices.ContainsFunc(p.Streams, func(s Stream) bool { return !s.Drained() })
}

// Camera takes pictures.
type Camera struct {
	Redis    *redstream.Client
	Topology Topology
	// Cursors asks for the cursors too, which scans the keyspace.
	Cursors bool

	last *Picture
}

// Take takes a picture; rates are known from the second one on.
func (c *Camera) Take(ctx context.Context) (*Picture, error) {
	p := &Picture{At: time.Now()}
	var err error
	if p.Server, err = c.Redis.Inspect(ctx); err != nil {
		return nil, err
	}
	for _, name := range c.Topology.Streams() {
		s := Stream{Name: name, In: -1, Out: -1, Remaining: -1}
		if s.StreamStats, err = c.Redis.StatsWith(ctx, name, c.Topology.Letters(name), c.Topology.Groups(name)...); err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		if c.last != nil {
			s = s.withRates(c.last.Find(name), p.At.Sub(c.last.At))
		}
		if s.Drained() {
			s.Remaining = 0
		}
		p.Streams = append(p.Streams, s)
	}
	jobs := c.Topology.Jobs
	// What the backfiller tries again, and what the ingester asks for later.
	for _, schedule := range []string{":delayed", ":resync"} {
		n, err := c.Redis.NewDelayed(jobs+schedule, jobs).Len(ctx)
		if err != nil {
			return nil, err
		}
		p.Delayed += n
	}
	if p.Repos, err = c.Redis.Totals(ctx, jobs, progressKey); err != nil {
		return nil, err
	}
	if c.Cursors {
		if err := c.cursors(ctx, p); err != nil {
			return nil, err
		}
	}
	c.last = p
	return p, nil
}

func (c *Camera) cursors(ctx context.Context, p *Picture) error {
	p.Cursors = map[string]map[string]string{}
	for _, name := range c.Topology.Streams() {
		found, err := c.Redis.Cursors(ctx, name)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			p.Cursors[name] = found
		}
	}
	return nil
}

func (s Stream) withRates(before Stream, took time.Duration) Stream {
	if took <= 0 || s.Added < before.Added {
		return s
	}
	s.In = float64(s.Added-before.Added) / took.Seconds()
	s.Out = max(float64(s.Removed()-before.Removed())/took.Seconds(), 0)
	if net := s.Out - s.In; net > 0 && s.Length > 0 {
		s.Remaining = time.Duration(float64(s.Length) / net * float64(time.Second))
	}
	return s
}

// Consumers lists every consumer name once, sorted, with its state on each
// stream that it reads.
func (p *Picture) Consumers() []Consumer {
	byName := map[string]*Consumer{}
	for _, s := range p.Streams {
		for _, g := range s.Groups {
			for _, m := range g.Consumers {
				c := byName[m.Name]
				if c == nil {
					c = &Consumer{Name: m.Name, Asked: -1}
					byName[m.Name] = c
				}
				c.Streams = append(c.Streams, s.Name)
				c.Pending += m.Pending
				if m.Alive {
					c.Alive = true
					c.Asked = max(c.Asked, m.Asked)
				}
			}
		}
	}
	out := make([]Consumer, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		c := byName[name]
		slices.Sort(c.Streams)
		c.Streams = slices.Compact(c.Streams)
		out = append(out, *c)
	}
	return out
}

// Consumer is one consumer over all streams.
type Consumer struct {
	Name    string   `json:"name"`
	Streams []string `json:"streams"`
	Pending int64    `json:"pending"`
	Alive   bool     `json:"alive"`
	// Asked is the longest time since it got an answer to a read; -1 without a heartbeat.
	Asked time.Duration `json:"asked_ns"`
}
