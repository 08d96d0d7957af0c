package status

import (
	"encoding/json"
	"time"

	"sluice/pkg/redstream"
)

type streamJSON struct {
	Name          string      `json:"name"`
	Length        int64       `json:"length"`
	Added         int64       `json:"entries_added"`
	Removed       int64       `json:"entries_removed"`
	Lag           int64       `json:"lag"`
	Pending       int64       `json:"pending"`
	OldestPending float64     `json:"oldest_pending_seconds"`
	DeadLetters   int64       `json:"dead_letters"`
	LastID        string      `json:"last_id"`
	In            float64     `json:"in_per_second"`
	Out           float64     `json:"out_per_second"`
	Remaining     float64     `json:"remaining_seconds"`
	Floor         floorJSON   `json:"floor"`
	Groups        []groupJSON `json:"groups"`
}

type floorJSON struct {
	ID       string  `json:"id"`
	Group    string  `json:"group"`
	Consumer string  `json:"consumer"`
	Age      float64 `json:"age_seconds"`
}

type groupJSON struct {
	Name          string         `json:"name"`
	Pending       int64          `json:"pending"`
	Lag           int64          `json:"lag"`
	LastDelivered string         `json:"last_delivered"`
	Behind        float64        `json:"behind_seconds"`
	OldestPending float64        `json:"oldest_pending_seconds"`
	Unknown       bool           `json:"unknown"`
	Consumers     []consumerJSON `json:"consumers"`
}

type consumerJSON struct {
	Name    string  `json:"name"`
	Pending int64   `json:"pending"`
	Idle    float64 `json:"idle_seconds"`
	Alive   bool    `json:"alive"`
	Asked   float64 `json:"asked_seconds"`
}

// MarshalJSON writes the stream with snake-case names and seconds.
func (s Stream) MarshalJSON() ([]byte, error) {
	out := streamJSON{
		Name: s.Name, Length: s.Length, Added: s.Added, Removed: s.Removed(), Lag: s.Lag, Pending: s.Pending,
		OldestPending: s.OldestPending.Seconds(), DeadLetters: s.DeadLetters, LastID: s.LastID, In: s.In, Out: s.Out,
		Remaining: seconds(s.Remaining),
		Floor:     floorJSON{ID: s.Holder.Floor, Group: s.Holder.Group, Consumer: s.Holder.Consumer, Age: s.Holder.Age.Seconds()},
		Groups:    []groupJSON{},
	}
	for _, g := range s.Groups {
		out.Groups = append(out.Groups, groupOf(g))
	}
	return json.Marshal(out)
}

func groupOf(g redstream.GroupStats) groupJSON {
	out := groupJSON{
		Name: g.Name, Pending: g.Pending, Lag: g.Lag, LastDelivered: g.LastDelivered, Behind: g.Behind.Seconds(),
		OldestPending: g.OldestPending.Seconds(), Unknown: g.Unknown, Consumers: []consumerJSON{},
	}
	for _, c := range g.Consumers {
		out.Consumers = append(out.Consumers, consumerJSON{
			Name: c.Name, Pending: c.Pending, Idle: c.Idle.Seconds(), Alive: c.Alive, Asked: seconds(c.Asked),
		})
	}
	return out
}

// seconds keeps -1 as it is.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}
