package redstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	// trimLimit bounds the entries that one step removes, so that no step
	// blocks Redis for more than a few milliseconds.
	trimLimit = 10000
	// trimLogEvery is the least time between two log lines of one stream.
	trimLogEvery = 2 * time.Second
)

// TrimConfig describes one trimmer.
type TrimConfig struct {
	// Streams: stream → the groups that are expected on it. An expected group
	// that does not exist yet still needs everything. A group that exists and
	// is not expected is respected all the same, and reported. No groups: what
	// exists is expected.
	Streams map[string][]string
	// Every is the time between two rounds. Default 1s.
	Every time.Duration
}

// Trimmer removes what every group has finished. Any number of replicas may
// run one: each round is right by itself.
type Trimmer struct {
	c     *Client
	every time.Duration
	jobs  []*trimJob // owned by Run
}

type trimJob struct {
	stream  string
	groups  []string
	log     *slog.Logger
	unknown []string // as reported last
	failing bool
	unsaid  int64 // removed since the last log line
	said    time.Time
	holder  Holder
}

// Holder says what keeps a stream from being trimmed further.
type Holder struct {
	// Floor is the lowest id that is still needed; all below it is finished.
	// "" if there is no stream or no group.
	Floor string
	// Group needs it; Consumer has it pending, or "" if it was not delivered yet.
	Group, Consumer string
	// Age is that of the entry at the floor; 0 if nothing is outstanding.
	Age time.Duration
}

// NewTrimmer prepares a trimmer; Run does the work.
func (c *Client) NewTrimmer(cfg TrimConfig) *Trimmer {
	t := &Trimmer{c: c, every: cfg.Every}
	if t.every <= 0 {
		t.every = time.Second
	}
	for stream, groups := range cfg.Streams {
		c.metrics.initStream(stream)
		c.metrics.unknownGroups.WithLabelValues(stream).Set(0)
		c.metrics.floorAge.WithLabelValues(stream).Set(0)
		t.jobs = append(t.jobs, &trimJob{
			stream: stream, groups: slices.Clone(groups), log: c.log.With(slog.String("stream", stream)),
		})
	}
	slices.SortFunc(t.jobs, func(a, b *trimJob) int { return strings.Compare(a.stream, b.stream) })
	return t
}

// Run trims until ctx ends. An error of one stream is logged and does not stop
// the others.
func (t *Trimmer) Run(ctx context.Context) error {
	for {
		for _, j := range t.jobs {
			if ctx.Err() != nil {
				break
			}
			t.round(ctx, j)
		}
		jitter := time.Duration(rand.Int64N(int64(t.every)/5 + 1))
		if pause(ctx, t.every-t.every/10+jitter) {
			for _, j := range t.jobs {
				j.say(ctx, true)
			}
			return nil
		}
	}
}

// round trims one stream and reports.
func (t *Trimmer) round(ctx context.Context, j *trimJob) {
	removed, f, err := t.c.trim(ctx, j.stream, j.groups)
	j.unsaid += removed
	j.holder = f.holder()
	if err != nil && !j.failing {
		j.log.ErrorContext(ctx, "trim interrupted", slog.Any("err", err))
	}
	if j.failing = err != nil; j.failing {
		return
	}
	t.report(ctx, j, f)
	j.say(ctx, false)
}

// report exports the floor and warns of groups that nobody declared.
func (t *Trimmer) report(ctx context.Context, j *trimJob, f floor) {
	m := t.c.metrics
	m.setHolder(j.stream, j.holder)
	if len(j.groups) == 0 {
		return
	}
	var unknown []string
	for _, g := range f.names {
		if !slices.Contains(j.groups, g) {
			unknown = append(unknown, g)
			if !slices.Contains(j.unknown, g) {
				j.log.WarnContext(ctx, "unknown group: nothing that it has not read is trimmed",
					slog.String("group", g))
			}
		}
	}
	j.unknown = unknown
	m.unknownGroups.WithLabelValues(j.stream).Set(float64(len(unknown)))
}

// say logs what was removed since the last line.
func (j *trimJob) say(ctx context.Context, last bool) {
	if j.unsaid == 0 || !last && time.Since(j.said) < trimLogEvery {
		return
	}
	//nolint:sloglint // operators search the logs for this text with its number
	j.log.InfoContext(ctx, fmt.Sprintf("Trimmed %d messages", j.unsaid),
		slog.String("bound", j.holder.Floor), slog.Int64("count", j.unsaid))
	j.unsaid, j.said = 0, time.Now()
}

// setHolder replaces what was said of the floor of a stream.
func (m *metrics) setHolder(stream string, h Holder) {
	m.floorAge.WithLabelValues(stream).Set(h.Age.Seconds())
	m.floorHolder.DeletePartialMatch(map[string]string{"stream": stream})
	if h.Group != "" && h.Age > 0 {
		m.floorHolder.WithLabelValues(stream, h.Group, h.Consumer).Set(1)
	}
}

// Trim removes what every group of the stream has finished, now, and returns
// how many entries that were. groups must all exist for anything to go.
func (c *Client) Trim(ctx context.Context, stream string, groups ...string) (int64, Holder, error) {
	n, f, err := c.trim(ctx, stream, groups)
	return n, f.holder(), err
}

// Floor is the lowest id of the stream that any group still needs, as of now,
// and the group that needs it. Everything below it is finished by every group.
func (c *Client) Floor(ctx context.Context, stream string) (id string, holder string, err error) {
	f, err := c.trimStep(ctx, stream, nil, 0)
	return f.id, f.group, err
}

// Holder returns who holds the floor of the stream.
func (c *Client) Holder(ctx context.Context, stream string, groups ...string) (Holder, error) {
	f, err := c.trimStep(ctx, stream, groups, 0)
	return f.holder(), err
}

// trim removes whole nodes in bounded steps until none is left, then the rest
// of the last node in one exact step.
func (c *Client) trim(ctx context.Context, stream string, groups []string) (total int64, f floor, err error) {
	for {
		if f, err = c.trimStep(ctx, stream, groups, trimLimit); err != nil {
			return total, f, err
		}
		total += f.removed
		c.metrics.trimmed.WithLabelValues(stream).Add(float64(f.removed))
		if f.removed == 0 || ended(ctx) {
			break
		}
	}
	if f.id == "" || ended(ctx) {
		return total, f, nil
	}
	if f, err = c.trimStep(ctx, stream, groups, -1); err != nil {
		return total, f, err
	}
	c.metrics.trimmed.WithLabelValues(stream).Add(float64(f.removed))
	return total + f.removed, f, nil
}

// floor is the reply of one step.
type floor struct {
	removed             int64
	id, group, consumer string
	last                string // last generated id
	now                 time.Time
	names               []string // of all groups
}

func (c *Client) trimStep(ctx context.Context, stream string, groups []string, limit int) (floor, error) {
	key := c.keys.stream(stream)
	args := append([]string{strconv.Itoa(limit)}, groups...)
	reply, err := c.script(ctx, trimStep, []string{key}, args).ToArray()
	if err != nil {
		return floor{}, classify("trim", key, err)
	}
	f, err := floorOf(reply)
	return f, classify("trim", key, err)
}

func floorOf(reply []rueidis.RedisMessage) (f floor, err error) {
	if len(reply) != 7 {
		return f, fmt.Errorf("script returned %d values", len(reply))
	}
	var errs [7]error
	f.removed, errs[0] = reply[0].AsInt64()
	f.id, errs[1] = reply[1].ToString()
	f.group, errs[2] = reply[2].ToString()
	f.consumer, errs[3] = reply[3].ToString()
	f.last, errs[4] = reply[4].ToString()
	ms, err := reply[5].AsInt64()
	f.now, errs[5] = time.UnixMilli(ms), err
	f.names, errs[6] = reply[6].AsStrSlice()
	return f, errors.Join(errs[:]...)
}

// holder turns the floor into what is reported. Nothing is outstanding when
// the floor is above the last id.
func (f floor) holder() Holder {
	h := Holder{Floor: f.id, Group: f.group, Consumer: f.consumer}
	at, err := parseID(f.id)
	last, err2 := parseID(f.last)
	if err == nil && err2 == nil && !last.less(at) {
		h.Age = max(at.age(f.now), time.Millisecond)
	}
	return h
}
