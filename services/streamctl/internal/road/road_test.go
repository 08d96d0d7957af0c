package road

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topology = status.Topology{Live: "live", Backfill: "back", Labels: "labels", Jobs: "jobs", Group: "g", LabelGroup: "l", JobGroup: "j"}

func limits() Limits { return Limits{Lag: time.Minute, Quiet: 2 * time.Minute} }

// look is a sluice that keeps up.
func look() *Look {
	now := time.Now()
	id := "1767225600000-0"
	stream := func(name, group, consumer string) status.Stream {
		return status.Stream{Name: name, In: 10, Out: 10, StreamStats: redstream.StreamStats{
			Added: 100, LastID: id, Groups: []redstream.GroupStats{{Name: group, Consumers: []redstream.ConsumerStats{{Name: consumer, Alive: true, Asked: time.Second}}}},
		}}
	}
	return &Look{
		Topology: topology, Marks: map[string]int64{"live": 1000, "jobs": 1000, "back": 1000, "labels": 1000}, Closed: map[string]bool{},
		Picture: &status.Picture{At: now, Streams: []status.Stream{stream("live", "g", "i1"), stream("jobs", "j", "b1"), stream("back", "g", "i1"), stream("labels", "l", "i1")}},
	}
}

func fresh(l *Look) *View {
	v := build(l, nil)
	for i := range v.Streams {
		v.Streams[i].Quiet = 1
	}
	return v
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	stray := doctor.Finding{Level: doctor.Bad, Check: "groups", What: "unknown group x on live", Do: "destroy it"}
	for name, c := range map[string]struct {
		change  func(*View)
		state   string
		because string
		do      string
		also    int
	}{
		"keeps up":             {func(*View) {}, Healthy, "everything that comes in is in the tables", "", 0},
		"a little lag":         {func(v *View) { v.Streams[0].Wait = 3 }, Healthy, "what comes in is in the tables within 3.0s", "", 0},
		"nothing yet":          {func(v *View) { v.Streams[0].written = false }, Healthy, "nothing has come in yet", "", 0},
		"backfill goes on":     {func(v *View) { v.Backfill = &Backfill{Done: 5, Total: 10, Left: 60} }, Healthy, "everything that comes in is in the tables; the backfill has done 5 of 10 repositories, about 1m00s are left", "", 0},
		"live lags":            {func(v *View) { v.Streams[0].Wait, v.Streams[0].Lag = 200, 5 }, Behind, "the oldest entry of live waits for 3m20s", "add replicas of the indexer, or see why PostgreSQL is slow; nothing is lost", 0},
		"live is held":         {func(v *View) { v.Streams[0].Wait, v.Streams[0].HolderConsumer = 200, "i1" }, Behind, "the oldest entry of live waits for 3m20s", "all is read: see the log of i1, which has it in work", 0},
		"an old job is no lag": {func(v *View) { v.Streams[1].Wait = 90000 }, Healthy, "everything that comes in is in the tables", "", 0},
		"gate":                 {func(v *View) { v.Streams[2].Closed, v.Streams[2].Length = true, 1000 }, Behind, "back is at its mark of 1,000, so what fills it waits", "nothing is lost; add replicas of the indexer, or see why PostgreSQL is slow", 0},
		"gate by memory":       {func(v *View) { v.Streams[2].Closed = true }, Behind, "Redis is nearly full, so what fills back waits", "nothing is lost; add replicas of the indexer, or see why PostgreSQL is slow", 0},
		"quiet relays":         {func(v *View) { v.Streams[0].Quiet = 300 }, Behind, "nothing has come from the relays for 5m00s", "see the log of the ingester, and whether the relay answers", 0},
		"a bad finding":        {func(v *View) { v.Findings = []doctor.Finding{stray} }, Broken, "unknown group x on live", "destroy it", 0},
		"said once": {func(v *View) {
			v.Findings = []doctor.Finding{stray, {Level: doctor.Warn, Check: "floor", What: "the floor of live is old"}, {Level: doctor.Warn, Check: "floor", What: "the floor of labels is old"}}
			v.Streams[0].Wait = 200
		}, Broken, "unknown group x on live", "destroy it", 1},
	} {
		v := fresh(look())
		c.change(v)
		got := judge(v, limits(), func(doctor.Finding) bool { return true })
		require.Equal(t, c.state, got.State, name)
		require.Equal(t, c.because, got.Because, name)
		require.Equal(t, c.do, got.Do, name)
		require.Len(t, got.Also, c.also, name)
	}
	v := fresh(look())
	v.Findings = []doctor.Finding{stray, {Level: doctor.Warn, Check: "sizing", What: "few locks"}}
	got := judge(v, limits(), func(doctor.Finding) bool { return false })
	require.Equal(t, Healthy, got.State, "what has not lasted breaks nothing")
	require.Equal(t, 1, got.Notes)
	v.Streams[0].Quiet = 10_000
	require.Equal(t, Healthy, judge(v, Limits{Lag: time.Minute}, func(doctor.Finding) bool { return false }).State, "a quiet network")
}

func TestReaders(t *testing.T) {
	t.Parallel()
	l := look()
	g := &l.Picture.Streams[0].Groups[0]
	g.Consumers = append(g.Consumers,
		redstream.ConsumerStats{Name: "dead", Pending: 3},
		redstream.ConsumerStats{Name: "gone"},
		redstream.ConsumerStats{Name: "stuck", Alive: true, Asked: time.Minute})
	l.Picture.Streams[0].Groups = append(l.Picture.Streams[0].Groups, redstream.GroupStats{Name: "x", Unknown: true, Consumers: []redstream.ConsumerStats{{Name: "stranger", Alive: true}}})
	v := build(l, nil)
	var got []string
	for _, r := range v.Readers {
		got = append(got, r.Name+" "+r.Kind+" "+r.State)
	}
	require.Equal(t, []string{"dead indexer abandoned", "stuck indexer stuck", "b1 backfiller reading", "i1 indexer reading", "stranger unknown reading", "gone indexer gone"}, got)
	require.Equal(t, []string{"x"}, v.Find("live").Unknown)
	require.Equal(t, 2, v.Find("live").Reading)
}

func TestRingKeepsTheWorstOfEachStepAndIsBounded(t *testing.T) {
	t.Parallel()
	r := newRing(10*time.Second, time.Second)
	start := time.Unix(1_000_000, 0)
	for i := range 100 {
		r.add(start.Add(time.Duration(i)*250*time.Millisecond), []float64{float64(i)})
	}
	all := r.all()
	require.Len(t, all, 10)
	for i, p := range all {
		require.InDelta(t, 1_000_000+15+i, p[0], 0)
		require.InDelta(t, (15+i)*4+3, p[1], 0, "the worst of the step")
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	var p pace
	start := time.Now()
	done := func(n int64) *status.Backfill {
		return &status.Backfill{Totals: map[string]int64{"repos": n, "gone": 1}, States: map[string]int64{"done": n, "gone": 1, "failed (dead letter)": 2}, Jobs: 97}
	}
	var b *Backfill
	for i := range 300 { // ten minutes: fast, then slow
		n := int64(i * 100)
		if i > 150 {
			n = 15000 + int64(i-150)*2
		}
		l := &Look{Picture: &status.Picture{At: start.Add(time.Duration(i) * 2 * time.Second)}, Backfill: done(n)}
		p.add(l)
		b = backfillOf(l.Backfill)
	}
	p.estimate(b)
	require.InDelta(t, 1, b.Rate, 0.05, "of the last minutes, not of all time")
	require.InDelta(t, 97, b.Left, 5)
	require.EqualValues(t, 2, b.Failed)
	require.LessOrEqual(t, len(p.at), 92)
	p.add(&Look{Picture: &status.Picture{At: start.Add(time.Hour)}, Backfill: done(0)})
	b = backfillOf(done(0))
	p.estimate(b)
	require.InDelta(t, -1, b.Rate, 0, "the totals were made anew")
}

// eyes see what they are given.
type eyes struct {
	look atomic.Pointer[Look]
	exam atomic.Pointer[Examination]
}

func (e *eyes) Look(context.Context) (*Look, error) {
	if l := e.look.Load(); l != nil {
		return l, nil
	}
	return nil, errors.New("dial tcp:\nconnection refused")
}

func (e *eyes) Examine(context.Context) (*Examination, error) {
	if x := e.exam.Load(); x != nil {
		return x, nil
	}
	return nil, errors.New("nothing to see")
}

func TestWatcherSaysWhenItIsBlindAndKeepsWhatItSaw(t *testing.T) {
	t.Parallel()
	var e eyes
	w := New(&e, Config{Every: 5 * time.Millisecond, Examine: 5 * time.Millisecond, Limits: limits(), Version: "v1"})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	until := func(what string, ok func(*View) bool) *View {
		t.Helper()
		end := time.After(10 * time.Second)
		for {
			v, next := w.View()
			if ok(v) {
				return v
			}
			select {
			case <-next:
			case <-end:
				t.Fatalf("%s: not in time: %+v", what, v)
			}
		}
	}
	v := until("blind", func(v *View) bool { return v.Verdict.State == Broken })
	require.Equal(t, "Redis cannot be seen: dial tcp:; connection refused", v.Verdict.Because)
	e.exam.Store(&Examination{Findings: []doctor.Finding{{Level: doctor.Bad, Check: "groups", What: "unknown group"}}, Tables: Tables{State: "ok"}})
	l := look()
	l.Closed["back"] = true
	e.look.Store(l)
	v = until("seen", func(v *View) bool { return v.Verdict.Because == "unknown group" })
	require.Equal(t, "v1", v.Version)
	require.Len(t, v.Streams, 4)
	require.True(t, v.Find("backfill").Closed)
	e.look.Store(nil)
	v = until("blind again", func(v *View) bool { return v.Age > 0 })
	require.Len(t, v.Streams, 4, "what was seen stays, and is said to be old")
	require.NotEmpty(t, w.History().Hour)
	stop()
	require.NoError(t, <-ended)
}

func TestFindingsAreTheSameWhateverTheirNumbers(t *testing.T) {
	t.Parallel()
	a := doctor.Finding{Check: "c", What: "nobody reads live; 1,234 entries wait"}
	b := doctor.Finding{Check: "c", What: "nobody reads live; 99 entries wait"}
	require.Equal(t, key(a), key(b))
	require.NotEqual(t, key(a), key(doctor.Finding{Check: "c", What: "nobody reads back; 99 entries wait"}))
}
