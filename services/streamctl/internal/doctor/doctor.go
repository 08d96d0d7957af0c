// Package doctor judges a sluice: each check says what it found, what that
// means and the command that mends it.
package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
	"sluice/services/streamctl/internal/store"
)

// Level says how bad a finding is.
type Level string

// The levels. Warn and Bad make the exit code 2.
const (
	OK   Level = "ok"
	Info Level = "info"
	Warn Level = "warn"
	Bad  Level = "bad"
)

// Finding is the result of one check.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"`
	// What was found, what it Means and what to Do.
	What  string `json:"what"`
	Means string `json:"means,omitempty"`
	Do    string `json:"do,omitempty"`
}

// Patient is everything that is looked at.
type Patient struct {
	Topology status.Topology
	// First and Last are two pictures with some seconds in between.
	First, Last *status.Picture
	// Phantoms: stream/group → pending ids whose entry is gone.
	Phantoms map[string]int
	// EntryBytes: stream → average bytes of an entry in Redis; 0 is unknown.
	EntryBytes map[string]int64
	// Marks: stream → high-water mark.
	Marks map[string]int64
	// Reasons: stream → reason → dead letters.
	Reasons map[string]map[string]int64

	// Database is nil when it cannot be reached; DatabaseError says why.
	Database      *store.Server
	DatabaseError string
	Backlog       store.Backlog
	// Lanes, Batch and Pool are those of one indexer.
	Lanes, Batch, Pool int
	// Versions: version → processes that run it, where metrics could be read.
	Versions map[string][]string
}

// Thresholds of the checks.
const (
	silent     = status.Silent // a reader that has not asked for so long is stuck
	oldPending = 5 * time.Minute
	oldFloor   = 5 * time.Minute
	oldTx      = 5 * time.Minute
	skew       = 2 * time.Second
	fullShare  = 0.85
	idle       = 30 * time.Second
	muchWork   = 1000
	// spare is how many connections of an indexer are not for its lanes.
	spare = 4
)

// Examine runs every check and returns the findings, the worst first.
func Examine(p *Patient) []Finding {
	var all []Finding
	for _, check := range []func(*Patient) []Finding{
		consumers, idlers, orphans, shrinking, phantoms, groups, floors, pending, marks, memory, clock, letters, database, locks, backlog, versions,
	} {
		all = append(all, check(p)...)
	}
	order := []Level{Bad, Warn, Info, OK}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Level), slices.Index(order, b.Level))
	})
	return all
}

// Refusal is the finding for a Redis that no service works with, if err says so.
func Refusal(err error) (Finding, bool) {
	if !errors.Is(err, redstream.ErrEvicting) && !errors.Is(err, redstream.ErrTooOld) {
		return Finding{}, false
	}
	return Finding{
		Level: Bad, Check: "redis", What: err.Error(),
		Means: "no service works with it: entries could be lost", Do: "redis-cli CONFIG SET maxmemory-policy noeviction; Redis 7.0 or later",
	}, true
}

// Worst is the level of the worst finding.
func Worst(fs []Finding) Level {
	for _, level := range []Level{Bad, Warn, Info} {
		if slices.ContainsFunc(fs, func(f Finding) bool { return f.Level == level }) {
			return level
		}
	}
	return OK
}

// good is the finding when a check found nothing.
func good(found []Finding, check, what string) []Finding {
	if len(found) == 0 {
		return []Finding{{Level: OK, Check: check, What: what}}
	}
	return found
}

// work is what the group has still to do.
func work(lag, pending int64) bool { return lag != 0 || pending > 0 }

func consumers(p *Patient) []Finding {
	const check = "consumers"
	var out []Finding
	active := 0
	for _, s := range p.Last.Streams {
		for _, g := range s.Groups {
			alive := 0
			for _, c := range g.Consumers {
				where := fmt.Sprintf("%s of %s on %s", c.Name, g.Name, s.Name)
				switch {
				case c.Alive && c.Asked > silent && work(g.Lag, c.Pending):
					out = append(out, Finding{
						Bad, check, fmt.Sprintf("%s has not read for %s", where, render.Age(c.Asked)),
						"it lives but is stuck: its downstream (PostgreSQL, a full lane) does not take more", "look at its log and at /debug/pprof/goroutine; restart it: its entries are taken over",
					})
				case c.Alive:
					alive++
				case c.Pending == 0:
					out = append(out, Finding{
						Info, check, fmt.Sprintf("%s is dead, with nothing pending", where),
						"its name is removed by itself after a while", "streamctl repair removes it now",
					})
				}
			}
			active += alive
			if alive == 0 && work(g.Lag, g.Pending) && !g.Unknown && (g.Lag != -1 || s.Length > 0) {
				out = append(out, Finding{
					Bad, check, fmt.Sprintf("nobody reads %s for %s; %s entries wait", s.Name, g.Name, render.Count(max(g.Lag, 0)+g.Pending)),
					"the stream grows until its high-water mark stops the producers", "start the service that reads it",
				})
			}
		}
	}
	return good(out, check, fmt.Sprintf("all %d readers were active within %s", active, silent))
}

// idlers finds who reads, and gets nothing, while entries wait for its group: that was
// how consumers that stayed in their own history looked.
func idlers(p *Patient) []Finding {
	const check = "idle consumers"
	var out []Finding
	for _, s := range p.Last.Streams {
		if s.Name == p.Topology.Jobs {
			continue // a closed gate, or a pause, keeps the backfillers from reading
		}
		for _, g := range s.Groups {
			for _, c := range g.Consumers {
				if c.Alive && c.Asked <= silent && c.Pending == 0 && c.Idle > idle && g.Lag > muchWork {
					out = append(out, Finding{
						Warn, check, fmt.Sprintf("%s of %s on %s has got nothing for %s, though %s entries wait", c.Name, g.Name, s.Name, render.Age(c.Idle), render.Count(g.Lag)),
						"it asks, and asks for something else: its own history, or with other settings", "see its log and streamctl config of its environment; restart it",
					})
				}
			}
		}
	}
	return good(out, check, "every reader gets its share")
}

// orphans are entries of consumers that are dead.
func orphans(p *Patient) []Finding {
	const check = "orphans"
	var out []Finding
	for _, s := range p.Last.Streams {
		for _, g := range s.Groups {
			for _, c := range g.Consumers {
				if c.Alive || c.Pending == 0 {
					continue
				}
				f := Finding{
					Info, check, fmt.Sprintf("%s of %s on %s is dead and holds %s entries for %s", c.Name, g.Name, s.Name, render.Count(c.Pending), render.Age(c.Idle)),
					"they are taken over after the claim time", "",
				}
				if c.Idle > oldPending {
					f.Level, f.Means, f.Do = Bad, "nobody takes its entries over: no other member of the group runs", "start an indexer or backfiller of this group; never XGROUP DELCONSUMER, which loses them"
				}
				out = append(out, f)
			}
		}
	}
	return good(out, check, "no entry belongs to a dead consumer")
}

func shrinking(p *Patient) []Finding {
	const check = "streams shrink"
	var out []Finding
	for _, s := range p.Last.Streams {
		first := p.First.Find(s.Name)
		if s.Length == 0 || first.Length == 0 || s.Out != 0 {
			continue
		}
		f := Finding{
			Bad, check, fmt.Sprintf("%s has %s entries and nothing was removed in %s", s.Name, render.Count(s.Length), render.Age(p.Last.At.Sub(p.First.At))),
			"the group does not finish entries, or something holds the floor, or nobody trims", "see the floor and the consumers; streamctl trim trims now",
		}
		if h := s.Holder; h.Consumer != "" && h.Age < oldFloor {
			f.Level, f.Means, f.Do = Info, fmt.Sprintf("%s works on the oldest entry since %s; nothing after it can go before", h.Consumer, render.Age(h.Age)), ""
		}
		out = append(out, f)
	}
	return good(out, check, "every stream with entries is being worked off and trimmed")
}

func phantoms(p *Patient) []Finding {
	const check = "phantoms"
	var out []Finding
	for where, n := range p.Phantoms {
		if n > 0 {
			out = append(out, Finding{
				Warn, check, fmt.Sprintf("%d pending ids of %s have no entry any more", n, where),
				"somebody deleted or trimmed entries that were not finished; they do not block trimming", "streamctl repair forgets them",
			})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.What, b.What) })
	return good(out, check, "no pending id is without its entry")
}

func groups(p *Patient) []Finding {
	const check = "groups"
	var out []Finding
	for _, s := range p.Last.Streams {
		for _, g := range s.Groups {
			if g.Unknown {
				who := "abandoned: nobody reads for it"
				if i := slices.IndexFunc(g.Consumers, func(c redstream.ConsumerStats) bool { return c.Alive || c.Idle < oldPending }); i >= 0 {
					who = "read by " + g.Consumers[i].Name
				}
				out = append(out, Finding{
					Bad, check, fmt.Sprintf("unknown group %s on %s, %s behind, %s", g.Name, s.Name, render.Count(g.Lag), who),
					"nothing that it has not read is trimmed: the stream grows for ever", fmt.Sprintf("if nobody needs it: redis-cli XGROUP DESTROY %s %s", s.Name, g.Name),
				})
			}
		}
		if s.Added == 0 {
			continue
		}
		for _, want := range p.Topology.Groups(s.Name) {
			if !slices.ContainsFunc(s.Stats().Groups, func(g status.Group) bool { return g.Name == want }) {
				out = append(out, Finding{
					Warn, check, fmt.Sprintf("group %s does not exist on %s", want, s.Name),
					"nothing of the stream is trimmed before its reader has started once", "start the service that reads it, or streamctl repair",
				})
			}
		}
	}
	return good(out, check, "every group is known and there")
}

func floors(p *Patient) []Finding {
	const check = "floor"
	var out []Finding
	for _, s := range p.Last.Streams {
		h := s.Holder
		if h.Group == "" || h.Age < oldFloor {
			continue
		}
		who, do := h.Group+" has not read it yet", "add replicas of the service that reads it"
		if h.Consumer != "" {
			who, do = h.Consumer+" of "+h.Group+" has it and is not done", "see that process; when it is gone its entries are taken over"
		}
		out = append(out, Finding{Warn, check, fmt.Sprintf("the floor of %s is %s old: %s", s.Name, render.Age(h.Age), who), "nothing after it can be trimmed", do})
	}
	return good(out, check, "nobody holds a floor for long")
}

func pending(p *Patient) []Finding {
	const check = "pending"
	var out []Finding
	for _, s := range p.Last.Streams {
		for _, g := range s.Groups {
			if g.OldestPending > oldPending {
				out = append(out, Finding{
					Warn, check, fmt.Sprintf("the oldest unfinished entry of %s on %s is %s old", g.Name, s.Name, render.Age(g.OldestPending)),
					"it is retried, or its reader is stuck", "streamctl peek " + s.Name + " --oldest; see the log of its reader",
				})
			}
		}
	}
	return good(out, check, "no entry is unfinished for long")
}

func marks(p *Patient) []Finding {
	const check = "high-water marks"
	var out []Finding
	for _, s := range p.Last.Streams {
		mark := p.Marks[s.Name]
		if mark == 0 || s.Length < mark*8/10 {
			continue
		}
		level, state := Info, "near its mark"
		if s.Length >= mark {
			level, state = Warn, "at its mark: the producer waits"
		}
		out = append(out, Finding{
			level, check, fmt.Sprintf("%s has %s of %s entries, %s", s.Name, render.Count(s.Length), render.Count(mark), state),
			"reading is slower than writing; nothing is lost", "add replicas of the reader, or see why PostgreSQL is slow",
		})
	}
	return good(out, check, "no producer waits for a full stream")
}
