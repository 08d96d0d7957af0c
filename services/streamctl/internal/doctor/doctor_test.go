package doctor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/status"
	"sluice/services/streamctl/internal/store"
)

var topology = status.Topology{Live: "live", Backfill: "back", Labels: "labels", Jobs: "jobs", Group: "g", LabelGroup: "l", JobGroup: "j"}

// healthy is a patient with one stream that is being worked off.
func healthy() *Patient {
	now := time.Now()
	stream := func(removed int64) status.Stream {
		return status.Stream{Name: "live", In: 10, Out: 20, StreamStats: redstream.StreamStats{
			Length: 100, Added: 100 + removed, Pending: 5, Lag: 95,
			Groups: []redstream.GroupStats{{Name: "g", Pending: 5, Lag: 95, Consumers: []redstream.ConsumerStats{{Name: "c", Pending: 5, Alive: true, Asked: time.Second}}}},
		}}
	}
	server := redstream.Server{Version: "7.4", Policy: "noeviction", UsedMemory: 1 << 20, MaxMemory: 1 << 30, AOF: true}
	return &Patient{
		Topology: topology, Lanes: 4, Batch: 100, Pool: 10,
		First: &status.Picture{At: now, Server: server, Streams: []status.Stream{stream(50)}},
		Last:  &status.Picture{At: now.Add(time.Second), Server: server, Streams: []status.Stream{stream(70)}},
		Marks: map[string]int64{"live": 100_000}, EntryBytes: map[string]int64{"live": 1000},
		Database: &store.Server{Version: "17", Locks: 10_000, MaxConnections: 100, Fsync: true},
	}
}

func TestNothingIsWrong(t *testing.T) {
	t.Parallel()
	found := Examine(healthy())
	require.Equal(t, OK, Worst(found), "%+v", found)
	require.GreaterOrEqual(t, len(found), 10)
}

func TestEachIllnessIsFound(t *testing.T) {
	t.Parallel()
	live := func(p *Patient) *status.Stream { return &p.Last.Streams[0] }
	for check, c := range map[string]struct {
		level Level
		harm  func(*Patient)
	}{
		"consumers": {Bad, func(p *Patient) { live(p).Groups[0].Consumers[0].Asked = time.Minute }},
		"idle consumers": {Warn, func(p *Patient) {
			g := &live(p).Groups[0]
			g.Lag, g.Consumers[0].Pending, g.Consumers[0].Idle = 5000, 0, time.Minute
		}},
		"orphans":              {Bad, func(p *Patient) { c := &live(p).Groups[0].Consumers[0]; c.Alive, c.Idle = false, time.Hour }},
		"redis clock and disk": {Warn, func(p *Patient) { p.Last.Server.ClockSkew = -time.Minute }},
		"streams shrink":       {Bad, func(p *Patient) { live(p).Out = 0 }},
		"phantoms":             {Warn, func(p *Patient) { p.Phantoms = map[string]int{"live/g": 3} }},
		"groups":               {Bad, func(p *Patient) { live(p).Groups[0].Unknown = true; live(p).Groups[0].Lag = 0 }},
		"floor":                {Warn, func(p *Patient) { live(p).Holder = redstream.Holder{Group: "g", Consumer: "c", Age: time.Hour} }},
		"pending":              {Warn, func(p *Patient) { live(p).Groups[0].OldestPending = time.Hour }},
		"high-water marks":     {Warn, func(p *Patient) { p.Marks["live"] = 90 }},
		"redis memory":         {Bad, func(p *Patient) { p.Last.Server.UsedMemory = 1 << 30 }},
		"dead letters":         {Warn, func(p *Patient) { live(p).DeadLetters = 1 }},
		"postgresql":           {Bad, func(p *Patient) { p.Database, p.DatabaseError = nil, "away" }},
		"sizing":               {Warn, func(p *Patient) { p.Database.Locks = 10 }},
		"database backlog":     {Warn, func(p *Patient) { p.Backlog.CountDeltas = 2_000_000 }},
		"versions":             {Info, func(p *Patient) { p.Versions = map[string][]string{"v1": {"a"}, "v2": {"b"}} }},
	} {
		p := healthy()
		c.harm(p)
		found := Examine(p)
		ok := false
		for _, f := range found {
			if f.Check == check && f.Level == c.level {
				ok = true
				require.NotEmpty(t, f.What, check)
				require.NotEmpty(t, f.Means, check)
			}
		}
		require.True(t, ok, "%s: %+v", check, found)
	}
}

func TestDeadConsumerWithoutSuccessorIsBad(t *testing.T) {
	t.Parallel()
	p := healthy()
	c := &p.Last.Streams[0].Groups[0].Consumers[0]
	c.Alive, c.Idle = false, time.Hour
	found := Examine(p)
	require.Equal(t, Bad, Worst(found))
	require.Contains(t, found[0].What+found[1].What, "nobody reads live for g")
	require.Contains(t, found[0].What+found[1].What, "is dead and holds 5 entries")
}

func TestRedisThatForgetsIsFound(t *testing.T) {
	t.Parallel()
	p := healthy()
	p.Last.Server.AOF = false
	require.Equal(t, Info, Worst(Examine(p)))
}

func TestReadersThatMayBeIdleAreLeftAlone(t *testing.T) {
	t.Parallel()
	p := healthy()
	g := &p.Last.Streams[0].Groups[0]
	g.Consumers[0].Pending, g.Consumers[0].Idle = 0, time.Hour
	require.Equal(t, OK, Worst(Examine(p)), "little waits: others may have it")
	g.Lag = 5000
	p.Topology.Jobs, p.Topology.Live = "live", "other"
	p.Topology.JobGroup = "g"
	for _, f := range Examine(p) {
		require.False(t, f.Check == "idle consumers" && f.Level != OK, "%+v", f)
	}
}

func TestUnknownGroupsSayWhoReads(t *testing.T) {
	t.Parallel()
	p := healthy()
	g := &p.Last.Streams[0].Groups[0]
	g.Unknown = true
	require.Contains(t, Examine(p)[0].What, "read by c")
	g.Consumers = nil
	found := Examine(p)
	require.Contains(t, found[0].What+found[1].What, "abandoned")
}
