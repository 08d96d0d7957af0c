// Package road watches the whole sluice and says how it is: relays, streams
// with their marks and gates, readers, tables, what is parked, and one verdict
// over all of it. The console and the terminal show what it sees.
package road

import (
	"time"

	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/status"
)

// View is the road at one moment. Times are seconds; -1 is unknown.
type View struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	// Age is the time since Redis was last seen; what is shown is that old.
	Age      float64          `json:"age_seconds"`
	Verdict  Verdict          `json:"verdict"`
	Redis    Redis            `json:"redis"`
	Sources  []Source         `json:"sources"`
	Streams  []Stream         `json:"streams"`
	Readers  []Reader         `json:"readers"`
	Backfill *Backfill        `json:"backfill,omitempty"`
	Tables   Tables           `json:"tables"`
	Parked   []Parked         `json:"parked"`
	Findings []doctor.Finding `json:"findings"`
	Checked  *time.Time       `json:"checked_at,omitempty"`
}

// Redis is the server of the streams.
type Redis struct {
	Version string `json:"version"`
	Policy  string `json:"policy"`
	Used    int64  `json:"used_bytes"`
	Max     int64  `json:"max_bytes"`
}

// Source is a host from which a stream is filled.
type Source struct {
	Stream string `json:"stream"`
	Host   string `json:"host"`
	Cursor string `json:"cursor"`
	// Done: a listing that was read to its end.
	Done bool `json:"done"`
}

// Stream is one stream of the road.
type Stream struct {
	Name string `json:"name"`
	// Role is live, jobs, backfill or labels.
	Role   string `json:"role"`
	Length int64  `json:"length"`
	Mark   int64  `json:"mark"`
	// Closed: its producers wait at the gate, since ClosedFor seconds.
	Closed    bool    `json:"gate_closed"`
	ClosedFor float64 `json:"gate_closed_seconds"`
	// Lag is what nobody has been given, Pending what was given and is not finished.
	Lag     int64 `json:"lag"`
	Pending int64 `json:"pending"`
	// Wait is the age of the oldest entry that is not finished.
	Wait  float64 `json:"wait_seconds"`
	In    float64 `json:"in_per_second"`
	Out   float64 `json:"out_per_second"`
	Empty float64 `json:"empty_in_seconds"`
	// Quiet is the time since something was written; -1 never.
	Quiet float64 `json:"quiet_seconds"`
	// Holder needs the oldest entry; Consumer is empty while nobody has it.
	HolderGroup    string `json:"holder_group"`
	HolderConsumer string `json:"holder_consumer"`
	DeadLetters    int64  `json:"dead_letters"`
	// Reading is how many members of its groups are alive.
	Reading int `json:"reading"`
	// Unknown are groups that nobody declared.
	Unknown []string `json:"unknown_groups,omitempty"`
	written bool
}

// Reader is a consumer with its state.
type Reader struct {
	Name string `json:"name"`
	// Kind is indexer, backfiller or unknown, by the groups that it is in.
	Kind string `json:"kind"`
	// State is reading, stuck, gone, or abandoned (gone, and holds entries).
	State   string   `json:"state"`
	Pending int64    `json:"pending"`
	Asked   float64  `json:"asked_seconds"`
	Streams []string `json:"streams"`
}

// The states of a reader.
const (
	Reading   = "reading"
	Stuck     = "stuck"
	Gone      = "gone"
	Abandoned = "abandoned"
)

// Backfill is how far the backfill is, with an estimate.
type Backfill struct {
	status.Backfill
	// Done and Total count repositories; Failed are those of Done in the dead letters.
	Done   int64 `json:"done"`
	Total  int64 `json:"total"`
	Failed int64 `json:"failed"`
	// Rate is repositories per second over the last minutes, Left the time
	// that the rest takes at that rate.
	Rate float64 `json:"rate_per_second"`
	Left float64 `json:"left_seconds"`
	// Listed: every listing was read to its end, so Total is all there is.
	Listed bool `json:"listed"`
}

// Tables is the database.
type Tables struct {
	// State is ok, unreachable, or unknown before the first look.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Rows: table → rows as PostgreSQL estimates them.
	Rows    map[string]int64 `json:"rows"`
	Version string           `json:"version"`
	// Waiting is work that is in the database and not done yet.
	Waiting int64 `json:"waiting"`
}

// Parked are the dead letters of one stream with one reason.
type Parked struct {
	Stream string `json:"stream"`
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// Find returns the stream with the role.
func (v *View) Find(role string) Stream {
	for _, s := range v.Streams {
		if s.Role == role {
			return s
		}
	}
	return Stream{Role: role}
}
