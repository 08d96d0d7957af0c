package road

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/render"
)

// The states of the road.
const (
	Healthy = "healthy"
	Behind  = "behind"
	Broken  = "broken"
	Looking = "looking" // before the first look
)

// Verdict is the road in one sentence.
type Verdict struct {
	State string `json:"state"`
	// Because is why, Do what mends it.
	Because string `json:"because"`
	Do      string `json:"do,omitempty"`
	// Also are further reasons, Notes warnings that hold nothing up.
	Also  []string `json:"also"`
	Notes int      `json:"notes"`
}

// Limits say from when on the road is behind.
type Limits struct {
	// Lag is the age of an unfinished live entry or label.
	Lag time.Duration
	// Quiet is the time without anything new from the relays; 0 is no limit.
	Quiet time.Duration
}

type reason struct{ because, do string }

// holdUp are the checks of doctor whose warnings say that the road is behind;
// other warnings are notes.
var holdUp = []string{"floor", "pending", "database backlog"}

// judge gives the verdict over a view. confirmed says whether a finding has
// lasted; one that has not does not break the road yet.
func judge(v *View, lim Limits, confirmed func(doctor.Finding) bool) Verdict {
	var broken, behind []reason
	notes := 0
	for _, f := range v.Findings {
		switch {
		case f.Level == doctor.Bad && confirmed(f):
			broken = append(broken, reason{f.What, f.Do})
		case f.Level == doctor.Warn && slices.Contains(holdUp, f.Check) && confirmed(f):
			behind = append(behind, reason{f.What, f.Do})
		case f.Level == doctor.Warn && f.Check != "high-water marks":
			notes++
		}
	}
	behind = once(v, broken, append(late(v, lim), behind...))
	out := Verdict{State: Healthy, Also: []string{}, Notes: notes}
	all := slices.Concat(broken, behind)
	switch {
	case len(broken) > 0:
		out.State = Broken
	case len(behind) > 0:
		out.State = Behind
	default:
		out.Because = calm(v)
		return out
	}
	out.Because, out.Do = all[0].because, all[0].do
	for _, r := range all[1:] {
		out.Also = append(out.Also, r.because)
	}
	return out
}

// late finds what is slow or held up now, the live road first.
func late(v *View, lim Limits) []reason {
	var out []reason
	for _, role := range []string{"live", "labels"} {
		if s := v.Find(role); lim.Lag > 0 && s.Wait > lim.Lag.Seconds() {
			do := "add replicas of the indexer, or see why PostgreSQL is slow; nothing is lost"
			if s.Lag == 0 && s.HolderConsumer != "" {
				do = "all is read: see the log of " + s.HolderConsumer + ", which has it in work"
			}
			out = append(out, reason{fmt.Sprintf("the oldest entry of %s waits for %s", s.Name, span(s.Wait)), do})
		}
	}
	for _, s := range v.Streams {
		if !s.Closed {
			continue
		}
		why := fmt.Sprintf("%s is at its mark of %s, so what fills it waits", s.Name, render.Count(s.Mark))
		if s.Length < s.Mark*8/10 {
			why = fmt.Sprintf("Redis is nearly full, so what fills %s waits", s.Name)
		}
		do := "nothing is lost; add replicas of the indexer, or see why PostgreSQL is slow"
		if s.Role == "jobs" {
			do = "nothing is lost; add replicas of the backfiller"
		}
		out = append(out, reason{why, do})
	}
	if s := v.Find("live"); lim.Quiet > 0 && s.written && s.Quiet > lim.Quiet.Seconds() && !s.Closed {
		out = append(out, reason{"nothing has come from the relays for " + span(s.Quiet), "see the log of the ingester, and whether the relay answers"})
	}
	return out
}

// once keeps the first reason of each stream that nothing in before names: one
// hold-up shows in several ways.
func once(v *View, before, all []reason) []reason {
	said := map[string]bool{}
	for _, s := range v.Streams {
		said[s.Name] = slices.ContainsFunc(before, func(r reason) bool { return strings.Contains(r.because, s.Name) })
	}
	return slices.DeleteFunc(all, func(r reason) bool {
		for _, s := range v.Streams {
			if strings.Contains(r.because, s.Name) {
				again := said[s.Name]
				said[s.Name] = true
				return again
			}
		}
		return false
	})
}

// calm says how it is when nothing is wrong.
func calm(v *View) string {
	live := v.Find("live")
	text := "everything that comes in is in the tables"
	switch {
	case !live.written:
		text = "nothing has come in yet"
	case live.Wait > 0:
		text = "what comes in is in the tables within " + span(max(live.Wait, 0.1))
	}
	b := v.Backfill
	switch {
	case b == nil || b.Total == 0:
	case b.Paused:
		text += "; the backfill is paused"
	case b.Done < b.Total:
		text += fmt.Sprintf("; the backfill has done %s of %s repositories", render.Count(b.Done), render.Count(b.Total))
		if b.Left > 0 {
			text += ", about " + span(b.Left) + " are left"
		}
	}
	return text
}

func span(s float64) string { return render.Age(time.Duration(s * float64(time.Second))) }

// Word is the state as a word that begins a sentence.
func (v Verdict) Word() string {
	if v.State == "" {
		return ""
	}
	return strings.ToUpper(v.State[:1]) + v.State[1:]
}

// Mark is a sign for the state that is not told apart by its colour.
func (v Verdict) Mark() string {
	switch v.State {
	case Healthy:
		return "●"
	case Behind:
		return "▲"
	case Broken:
		return "■"
	}
	return "○"
}
