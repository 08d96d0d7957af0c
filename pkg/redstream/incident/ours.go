package incident

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/redstream"
)

// ours does it with the library.
type ours struct {
	w      *world
	c      *redstream.Client
	reg    *prometheus.Registry
	mon    *redstream.Monitor
	said   *lineCounter
	gates  map[string]*redstream.Gate
	behind context.CancelFunc
	duties sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running
	wrong   error // of consumers

	// What was seen on the way.
	shut      atomic.Int64 // times a gate closed
	opened    atomic.Int64 // times one opened again
	highest   int          // longest stream
	shrank    int          // looks at which a stream was shorter than before
	before    map[string]int64
	slowest   time.Duration // longest time since a consumer asked, at rest
	exported  map[string]bool
	removed   []string
	wayBehind int64
}

type running struct {
	cons   *redstream.Consumer
	cancel context.CancelFunc
	done   chan error
}

var expected = map[string][]string{"firehose_live": {group}, "firehose_backfill": {group}}

// claimIdle is the claim time; a minute in production.
const claimIdle = 500 * time.Millisecond

func newOurs(ctx context.Context, url string, w *world) (*ours, error) {
	o := &ours{
		w: w, reg: prometheus.NewRegistry(), said: &lineCounter{next: w.opts.Log.Handler()}, running: map[string]*running{},
		gates: map[string]*redstream.Gate{}, before: map[string]int64{}, exported: map[string]bool{},
	}
	c, err := redstream.Open(ctx, redstream.Config{URL: url, KeyPrefix: w.prefix}, slog.New(o.said), o.reg)
	if err != nil {
		return nil, err
	}
	o.c = c
	o.mon = c.NewMonitor(redstream.MonitorConfig{Streams: expected})
	for _, stream := range streams {
		o.gates[stream] = c.NewGate(redstream.GateConfig{
			Stream: stream, High: int64(w.opts.Mark), Every: 20 * time.Millisecond, OnChange: o.turned,
		})
	}
	behind, cancel := context.WithCancel(context.WithoutCancel(ctx))
	o.behind = cancel
	t := c.NewTrimmer(redstream.TrimConfig{Streams: expected, Every: 100 * time.Millisecond})
	o.duties.Go(func() { _ = t.Run(behind) })
	return o, nil
}

func (o *ours) turned(closed bool) {
	if closed {
		o.shut.Add(1)
	} else {
		o.opened.Add(1)
	}
}

func (o *ours) produce(ctx context.Context, stream string, from, n int) error {
	w, err := o.c.NewWriter(redstream.WriterConfig{Stream: stream})
	if err != nil {
		return err
	}
	defer w.Close()
	for i := from; i < from+n; {
		if from >= o.w.opts.Entries/4 {
			if err := o.gates[stream].Wait(ctx); err != nil {
				return err
			}
		}
		items := make([]redstream.Item, 0, batch)
		for ; i < from+n && len(items) < batch; i++ {
			items = append(items, redstream.Item{Seq: int64(i), Fields: []redstream.Field{{Name: "event", Value: strconv.Itoa(i)}}})
		}
		last := items[len(items)-1].Seq
		if _, err := w.AppendSeq(ctx, stream+":cursor:relay", items, last); err != nil {
			return err
		}
		for _, item := range items {
			o.w.added(stream, int(item.Seq))
		}
	}
	return nil
}

func (o *ours) start(ctx context.Context, name string) error {
	cons, err := o.c.NewConsumer(redstream.ConsumerConfig{
		Group: group, Consumer: name, Streams: streams, Batch: batch, Window: batch, Block: 50 * time.Millisecond, ClaimIdle: claimIdle,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &running{cons: cons, cancel: cancel, done: make(chan error, 1)}
	go func() { m.done <- cons.Run(ctx, o.handler(name, cons)) }()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running[name] = m
	return nil
}

func (o *ours) handler(name string, cons *redstream.Consumer) redstream.Handler {
	return func(ctx context.Context, ds []redstream.Delivery) error {
		if o.w.sticks(name, len(ds)) {
			<-ctx.Done()
			return ctx.Err()
		}
		for _, d := range ds {
			value, ok := d.Get("event")
			switch {
			case !ok:
				if err := cons.Park(ctx, d, "no_event", nil); err != nil {
					return err
				}
			case o.w.index(name, d.Stream, value):
				cons.Ack(d)
			default:
				cons.Retry(20*time.Millisecond, d)
			}
		}
		return nil
	}
}

// stop ends a consumer as a kill would: nothing is handed over.
func (o *ours) stop(name string) { o.end(name, 0) }

func (o *ours) end(name string, grace time.Duration) {
	o.mu.Lock()
	m := o.running[name]
	delete(o.running, name)
	o.mu.Unlock()
	if m == nil {
		return
	}
	m.cancel()
	if err := <-m.done; err != nil {
		o.mu.Lock()
		o.wrong = errors.Join(o.wrong, fmt.Errorf("%s: %w", name, err))
		o.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_ = m.cons.Close(ctx)
}

// mend asks for the removal of the consumers that are gone. One that still has
// entries stays until they are taken over.
func (o *ours) mend(ctx context.Context) error {
	for _, stream := range streams {
		names, err := o.c.RemoveDead(ctx, stream, group, time.Millisecond)
		if err != nil {
			return err
		}
		o.removed = append(o.removed, names...)
	}
	return nil
}

func (o *ours) watch(ctx context.Context) error {
	for _, stream := range streams {
		n, err := o.c.Len(ctx, stream)
		if err != nil {
			return err
		}
		o.highest = max(o.highest, int(n))
		if n < o.before[stream] {
			o.shrank++
		}
		o.before[stream] = n
	}
	return nil
}

func (o *ours) lookAtRest(ctx context.Context) error {
	if err := o.mon.Round(ctx); err != nil {
		return err
	}
	families, err := o.reg.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "stream" {
					o.exported[f.GetName()+" "+l.GetValue()] = true
				}
			}
		}
	}
	for _, stream := range streams {
		st := o.mon.Stats(stream)
		o.wayBehind += st.Lag + st.Pending
		for _, g := range st.Groups {
			for _, m := range g.Consumers {
				if slices.Contains(doomed, m.Name) {
					continue // not running; its name stays until its heartbeat has ended
				}
				if !m.Alive {
					o.slowest = time.Hour
				}
				o.slowest = max(o.slowest, m.Asked)
			}
		}
	}
	return nil
}

func (o *ours) close(context.Context) {
	for _, name := range everybody() {
		o.end(name, time.Second)
	}
	o.behind()
	o.duties.Wait()
	o.c.Close()
}

// judge turns the checks and the phases of the report into yes or no.
func (o *ours) judge(out Outcome) []Check {
	trimmed := o.said.count.Load()
	open := o.shut.Load() - o.opened.Load()
	lengths := 0
	for _, stream := range streams {
		if o.exported["sluice_redstream_stream_length "+stream] {
			lengths++
		}
	}
	check := func(name string, ok bool, format string, args ...any) Check {
		return Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)}
	}
	return []Check{
		check("nothing lost", out.Lost == 0 && out.Indexed == out.In, "%d of %d indexed, %d lost", out.Indexed, out.In, out.Lost),
		check("no consumer failed", o.wrong == nil, "%v", o.wrong),
		check("check 1: all consumers asked within 10 s", o.slowest < 10*time.Second, "longest %v", o.slowest.Round(time.Millisecond)),
		check("check 2: streams shrink under load", o.shrank > 0, "%d looks saw a shorter stream; longest %d", o.shrank, o.highest),
		check("check 3: Trimmed N messages in the logs", trimmed > 0, "%d lines", trimmed),
		check("check 4: no phantoms", out.Phantoms == 0, "%d", out.Phantoms),
		check("phase 1: both lengths on the dashboard", lengths == len(streams), "%d of %d", lengths, len(streams)),
		check("phase 2: producers wait and resume by themselves", o.shut.Load() > 0 && open == 0,
			"closed %d times, opened %d times", o.shut.Load(), o.opened.Load()),
		check("phase 2: overshoot of at most one batch", o.highest <= max(o.w.opts.Mark+batch, o.w.opts.Entries/4),
			"longest %d, mark %d", o.highest, o.w.opts.Mark),
		check("phase 3: steady state", out.Length == 0 && o.wayBehind == 0, "length %d, lag and pending %d", out.Length, o.wayBehind),
	}
}

// lineCounter counts the lines of trimming on their way to another handler.
type lineCounter struct {
	next  slog.Handler
	count atomic.Int64
	root  *lineCounter // of a handler with attributes
}

// Enabled lets everything from info pass.
func (l *lineCounter) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle counts the line and passes it on.
func (l *lineCounter) Handle(ctx context.Context, r slog.Record) error {
	root := l
	if l.root != nil {
		root = l.root
	}
	if strings.HasPrefix(r.Message, "Trimmed ") && strings.HasSuffix(r.Message, " messages") {
		root.count.Add(1)
	}
	if !l.next.Enabled(ctx, r.Level) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs keeps counting in one place.
func (l *lineCounter) WithAttrs(attrs []slog.Attr) slog.Handler {
	root := l
	if l.root != nil {
		root = l.root
	}
	return &lineCounter{next: l.next.WithAttrs(attrs), root: root}
}

// WithGroup keeps counting in one place.
func (l *lineCounter) WithGroup(name string) slog.Handler {
	root := l
	if l.root != nil {
		root = l.root
	}
	return &lineCounter{next: l.next.WithGroup(name), root: root}
}
