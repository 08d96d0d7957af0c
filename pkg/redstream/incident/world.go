package incident

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

const (
	group    = "firehose_group"
	phantoms = 299 // on each stream, as in the report
	batch    = 50
	// failEvery: each entry whose number divides by it fails at its first attempt.
	failEvery = 97
)

var streams = []string{"firehose_live", "firehose_backfill"}

// Healthy consumers are restarted in the middle of a batch; doomed ones crash
// in the middle of one and stay away; the haunted one starts with phantoms in
// its pending list.
var (
	healthy = []string{"rust-indexer1", "rust-indexer2", "rust-indexer3"}
	doomed  = []string{"rust-indexer5", "rust-indexer6"}
)

const haunted = "rust-indexer4"

func everybody() []string { return append(append([]string{haunted}, healthy...), doomed...) }

// side is one way of doing it.
type side interface {
	worker
	observer
	// mend is what the operator does about consumers, by that side's book.
	mend(ctx context.Context) error
	close(ctx context.Context)
}

// worker does the work.
type worker interface {
	// produce appends entries numbered from … from+n-1, waiting at the mark.
	produce(ctx context.Context, stream string, from, n int) error
	// start runs a consumer of all streams; stop ends it as a kill would.
	start(ctx context.Context, name string) error
	stop(name string)
}

// observer looks at it.
type observer interface {
	// watch is called again and again while the side works.
	watch(ctx context.Context) error
	// lookAtRest is called when the side has come to rest.
	lookAtRest(ctx context.Context) error
}

// world is the streams of one side and the truth about them.
type world struct {
	rc     rueidis.Client
	opts   Options
	prefix string

	mu       sync.Mutex
	in       map[string]map[int]bool // stream → number
	done     map[string]map[int]bool
	attempts map[string]int
	holding  map[string]int // consumers that shall get stuck in a batch → entries they have by now
	worked   map[string]time.Time
}

func newWorld(rc rueidis.Client, opts Options, name string) *world {
	w := &world{
		rc: rc, opts: opts, prefix: opts.KeyPrefix + name, in: map[string]map[int]bool{}, done: map[string]map[int]bool{},
		attempts: map[string]int{}, holding: map[string]int{}, worked: map[string]time.Time{},
	}
	for _, s := range streams {
		w.in[s], w.done[s] = map[int]bool{}, map[int]bool{}
	}
	return w
}

func (w *world) key(stream string) string { return w.prefix + stream }

func (w *world) do(ctx context.Context, args ...string) rueidis.RedisResult {
	return w.rc.Do(ctx, w.rc.B().Arbitrary(args...).Build())
}

// play is the incident.
func (w *world) play(ctx context.Context, s side) (story Story, err error) {
	if err := w.clear(ctx); err != nil {
		return story, err
	}
	defer func() { _ = w.clear(context.WithoutCancel(ctx)) }()
	defer s.close(context.WithoutCancel(ctx))
	start := time.Now()
	if err := w.oldTimes(ctx); err != nil {
		return story, fmt.Errorf("make phantoms: %w", err)
	}
	if err := w.crashes(ctx, s); err != nil {
		return story, err
	}
	n := w.opts.Entries
	failed := make(chan error, len(streams))
	var busy atomic.Int64
	load, enough := context.WithCancel(ctx)
	defer enough()
	for _, stream := range streams {
		busy.Add(1)
		go func() {
			failed <- s.produce(load, stream, n/4, n-n/4)
			busy.Add(-1)
		}()
	}
	if err := w.rest(ctx, s); err != nil {
		return story, err
	}
	if story.Before, err = w.count(ctx); err != nil {
		return story, err
	}
	story.Before.Waiting = int(busy.Load())
	if err := s.mend(ctx); err != nil {
		return story, fmt.Errorf("mend: %w", err)
	}
	if err := w.rest(ctx, s); err != nil {
		return story, err
	}
	waiting := int(busy.Load())
	enough()
	for range streams {
		if err := <-failed; err != nil && load.Err() == nil {
			return story, fmt.Errorf("produce: %w", err)
		}
	}
	took := time.Since(start) - w.opts.Quiet
	if err := s.lookAtRest(ctx); err != nil {
		return story, err
	}
	if story.After, err = w.count(ctx); err != nil {
		return story, err
	}
	story.After.Waiting, story.After.Took = waiting, took
	return story, nil
}

// oldTimes leaves phantoms with one consumer: junk that was delivered to it and
// deleted before it was acknowledged.
func (w *world) oldTimes(ctx context.Context) error {
	for _, stream := range streams {
		key := w.key(stream)
		if err := w.do(ctx, "XGROUP", "CREATE", key, group, "0", "MKSTREAM").Error(); err != nil {
			return err
		}
		gone := []string{"XDEL", key}
		for range phantoms {
			id, err := w.do(ctx, "XADD", key, "*", "junk", "1").ToString()
			if err != nil {
				return err
			}
			gone = append(gone, id)
		}
		if err := w.do(ctx, "XREADGROUP", "GROUP", group, haunted, "COUNT", strconv.Itoa(phantoms), "STREAMS", key, ">").Error(); err != nil {
			return err
		}
		if err := w.do(ctx, gone...).Error(); err != nil {
			return err
		}
	}
	return nil
}

// crashes starts all consumers on the first quarter of the entries. They get
// stuck in a batch and are killed; those that are not doomed start again under
// their names, and with them the haunted one.
func (w *world) crashes(ctx context.Context, s side) error {
	for _, stream := range streams {
		if err := s.produce(ctx, stream, 0, w.opts.Entries/4); err != nil {
			return fmt.Errorf("produce: %w", err)
		}
	}
	w.mu.Lock()
	for _, name := range append(append([]string{}, healthy...), doomed...) {
		w.holding[name] = 0
	}
	w.mu.Unlock()
	for _, name := range everybody()[1:] { // the haunted one comes later, so that all get some
		if err := s.start(ctx, name); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for !w.allHold() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not every consumer got entries")
		}
		if err := fault.Sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	for _, name := range everybody() {
		s.stop(name)
	}
	w.mu.Lock()
	w.holding = map[string]int{}
	w.mu.Unlock()
	for _, name := range append([]string{haunted}, healthy...) {
		if err := s.start(ctx, name); err != nil {
			return fmt.Errorf("start %s again: %w", name, err)
		}
	}
	return nil
}

func (w *world) allHold() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.holding {
		if n == 0 {
			return false
		}
	}
	return true
}

// sticks says whether the consumer is to hang with this batch.
func (w *world) sticks(name string, n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.holding[name]; !ok {
		return false
	}
	w.holding[name] += n
	return true
}

// added notes that an entry is in its stream.
func (w *world) added(stream string, number int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in[stream][number] = true
}

// index is the work on one entry; false is a failure that passes.
func (w *world) index(name, stream, value string) bool {
	number, err := strconv.Atoi(value)
	if err != nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.worked[name] = time.Now()
	w.attempts[stream+value]++
	if number%failEvery == 0 && w.attempts[stream+value] == 1 {
		return false
	}
	w.done[stream][number] = true
	return true
}

// indexed is the number of entries processed.
func (w *world) indexed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range streams {
		n += len(w.done[s])
	}
	return n
}

// rest waits until nothing has been processed for Quiet.
func (w *world) rest(ctx context.Context, s side) error {
	last, since := w.indexed(), time.Now()
	for time.Since(since) < w.opts.Quiet {
		if err := fault.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if err := s.watch(ctx); err != nil {
			return err
		}
		if n := w.indexed(); n != last {
			last, since = n, time.Now()
		}
	}
	return nil
}

func (w *world) clear(ctx context.Context) error {
	keys, err := w.do(ctx, "KEYS", w.prefix+"*").AsStrSlice()
	if err != nil || len(keys) == 0 {
		return err
	}
	return w.do(ctx, append([]string{"DEL"}, keys...)...).Error()
}
