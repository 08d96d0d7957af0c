package redstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// StreamStats is one stream at one moment.
type StreamStats struct {
	Length, Added, Pending int64
	// Lag counts entries not yet delivered: the most of all groups. -1 is unknown.
	Lag           int64
	OldestPending time.Duration
	LastID        string
	DeadLetters   int64
	Groups        []GroupStats
	Holder        Holder
}

// GroupStats is one group of a stream.
type GroupStats struct {
	Name          string
	Pending       int64
	Lag           int64 // -1 is unknown
	LastDelivered string
	// Behind is the age of the last delivered entry; 0 at the end of the stream.
	Behind time.Duration
	// OldestPending is the age of the oldest pending entry that still exists.
	OldestPending time.Duration
	// Unknown: the group is not one of those expected.
	Unknown   bool
	Consumers []ConsumerStats
}

// ConsumerStats is one consumer of a group.
type ConsumerStats struct {
	Name    string
	Pending int64
	// Idle is the time since it last did something by the account of Redis; on
	// Redis 7.0 empty reads do not count.
	Idle time.Duration
	// Alive: its heartbeat is there. Asked is the time since it last got an
	// answer to a read; -1 without heartbeat.
	Alive bool
	Asked time.Duration
}

// Stats looks at one stream. groups are those that are expected on it; none:
// what exists is expected. A stream that does not exist has length 0 and an
// unknown lag. Dead letters are those of the default name.
func (c *Client) Stats(ctx context.Context, stream string, groups ...string) (StreamStats, error) {
	return c.StatsWith(ctx, stream, "", groups...)
}

// StatsWith is Stats for a stream whose dead letters have a name of their own;
// "" is the default.
func (c *Client) StatsWith(ctx context.Context, stream, deadLetters string, groups ...string) (StreamStats, error) {
	st := StreamStats{Lag: -1}
	f, err := c.trimStep(ctx, stream, groups, 0)
	if err != nil {
		return st, err
	}
	st.Holder, st.LastID = f.holder(), f.last
	if st.DeadLetters, err = c.DeadLetters(stream, deadLetters).Len(ctx); err != nil && !errors.Is(err, ErrWrongType) {
		return st, err
	}
	key := c.keys.stream(stream)
	info, err := c.do(ctx, c.rc.B().XinfoStream().Key(key).Build()).AsMap()
	if err != nil {
		if err = classify("inspect", key, err); errors.Is(err, ErrNoGroup) {
			return st, nil
		}
		return st, err
	}
	st.Length, st.Added = number(info, "length"), number(info, "entries-added")
	first := firstID(info)
	list, err := c.do(ctx, c.rc.B().XinfoGroups().Key(key).Build()).ToArray()
	if err != nil {
		return st, classify("inspect groups of", key, err)
	}
	for i := range list {
		g, err := c.groupStats(ctx, stream, first, f, &list[i])
		if err != nil {
			return st, err
		}
		g.Unknown = len(groups) > 0 && !slices.Contains(groups, g.Name)
		st.Groups = append(st.Groups, g)
	}
	st.sum()
	return st, nil
}

// sum fills in what is said of the stream as a whole.
func (st *StreamStats) sum() {
	for i, g := range st.Groups {
		st.Pending += g.Pending
		st.OldestPending = max(st.OldestPending, g.OldestPending)
		if i == 0 {
			st.Lag = g.Lag
		} else if st.Lag >= 0 {
			st.Lag = max(st.Lag, g.Lag)
		}
		if g.Lag < 0 {
			st.Lag = -1
		}
	}
}

func (c *Client) groupStats(ctx context.Context, stream, first string, f floor, m *rueidis.RedisMessage) (GroupStats, error) {
	info, err := m.AsMap()
	if err != nil {
		return GroupStats{}, classify("inspect groups of", stream, err)
	}
	g := GroupStats{Name: text(info, "name"), Pending: number(info, "pending"), LastDelivered: text(info, "last-delivered-id")}
	g.Lag = lagOf(info, g.LastDelivered, f.last)
	if at, err := parseID(g.LastDelivered); err == nil && CompareIDs(g.LastDelivered, f.last) < 0 {
		g.Behind = at.age(f.now)
		if at.ms == 0 {
			g.Behind = idAge(first, f.now)
		}
	}
	if g.Pending > 0 && first != "" {
		oldest, err := c.pending(ctx, c.keys.stream(stream), g.Name, pendingQuery{from: first, to: "+", count: 1})
		if err != nil {
			return g, err
		}
		if len(oldest) > 0 {
			g.OldestPending = idAge(oldest[0].id, f.now)
		}
	}
	g.Consumers, err = c.consumers(ctx, stream, g.Name)
	return g, err
}

// lagOf takes the lag from Redis where it knows, and 0 where the group is at
// the end.
func lagOf(info map[string]rueidis.RedisMessage, delivered, last string) int64 {
	if CompareIDs(delivered, last) >= 0 {
		return 0
	}
	if m, ok := info["lag"]; ok && !m.IsNil() {
		if n, err := m.AsInt64(); err == nil && n >= 0 {
			return n
		}
	}
	return -1
}

func idAge(id string, now time.Time) time.Duration {
	at, err := parseID(id)
	if err != nil {
		return 0
	}
	return at.age(now)
}

// consumers lists the consumers of a group with their heartbeats.
func (c *Client) consumers(ctx context.Context, stream, group string) ([]ConsumerStats, error) {
	key := c.keys.stream(stream)
	list, err := c.do(ctx, c.rc.B().XinfoConsumers().Key(key).Group(group).Build()).ToArray()
	if err != nil {
		return nil, classify("inspect consumers of", key, err)
	}
	consumers := make([]ConsumerStats, 0, len(list))
	beats := make([]rueidis.Completed, 0, len(list))
	for i := range list {
		info, err := list[i].AsMap()
		if err != nil {
			return nil, classify("inspect consumers of", key, err)
		}
		m := ConsumerStats{
			Name: text(info, "name"), Pending: number(info, "pending"), Asked: -1,
			Idle: time.Duration(number(info, "idle")) * time.Millisecond,
		}
		consumers = append(consumers, m)
		beats = append(beats, c.rc.B().Get().Key(c.keys.heartbeat(stream, group, m.Name)).Build())
	}
	once, cancel := attempt(ctx)
	defer cancel()
	for i, r := range c.rc.DoMulti(once, beats...) {
		beat, err := r.ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, classify("read heartbeats of", key, err)
		}
		ms, err := strconv.ParseInt(beat, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read heartbeats of %s: %w", key, err)
		}
		consumers[i].Alive, consumers[i].Asked = true, max(0, time.Since(time.UnixMilli(ms)))
	}
	return consumers, nil
}

func number(info map[string]rueidis.RedisMessage, name string) int64 {
	m := info[name]
	n, _ := m.AsInt64()
	return n
}

func text(info map[string]rueidis.RedisMessage, name string) string {
	m := info[name]
	s, _ := m.ToString()
	return s
}

// firstID is the id of the first entry, "" if there is none.
func firstID(info map[string]rueidis.RedisMessage) string {
	m := info["first-entry"]
	cells, err := m.ToArray()
	if err != nil || len(cells) == 0 {
		return ""
	}
	id, _ := cells[0].ToString()
	return id
}
