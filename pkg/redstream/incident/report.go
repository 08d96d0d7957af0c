package incident

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// report does what the report describes: a history loop that does not end,
// XACK and XDEL per success, nothing for a failure, XTRIM to the last
// delivered id after every batch, and a "recovery" that acknowledges what it
// claims.
type report struct {
	w *world

	mu      sync.Mutex
	running map[string]func()
}

const (
	// reportIdle is the idle time of its recovery; 30s in the report.
	reportIdle = 300 * time.Millisecond
	// reportEmpty reads without entries start the recovery.
	reportEmpty = 50
)

func newReport(w *world) *report { return &report{w: w, running: map[string]func(){}} }

func (r *report) produce(ctx context.Context, stream string, from, n int) error {
	for i := from; i < from+n; i++ {
		for i%batch == 0 {
			length, err := r.w.do(ctx, "XLEN", r.w.key(stream)).AsInt64()
			if err != nil {
				return err
			}
			if length < int64(r.w.opts.Mark) || i < r.w.opts.Entries/4 {
				break
			}
			if err := fault.Sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
		if err := r.w.do(ctx, "XADD", r.w.key(stream), "*", "event", strconv.Itoa(i)).Error(); err != nil {
			return err
		}
		r.w.added(stream, i)
	}
	return nil
}

func (r *report) start(ctx context.Context, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, stream := range streams {
		wg.Go(func() { r.loop(ctx, name, stream) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[name] = func() {
		cancel()
		wg.Wait()
	}
	return nil
}

func (r *report) stop(name string) {
	r.mu.Lock()
	end := r.running[name]
	delete(r.running, name)
	r.mu.Unlock()
	if end != nil {
		end()
	}
}

// loop is one consumer on one stream. The cursor leaves "0" for the last id of
// a batch, and only an empty read at "0" turns it to ">".
func (r *report) loop(ctx context.Context, name, stream string) {
	cursor, empty := "0", 0
	for ctx.Err() == nil {
		list, err := r.read(ctx, name, stream, cursor)
		if err != nil {
			continue
		}
		if len(list) > 0 && r.w.sticks(name, len(list)) {
			<-ctx.Done()
			return
		}
		switch {
		case len(list) == 0 && cursor == "0":
			cursor = ">"
		case len(list) == 0 && cursor != ">":
			if empty++; empty%reportEmpty == 0 {
				r.recover(ctx, name, stream)
			}
		case cursor != ">":
			cursor = list[len(list)-1].ID
		}
		r.process(ctx, name, stream, list)
		r.trim(ctx, stream)
		if len(list) == 0 && fault.Sleep(ctx, 5*time.Millisecond) != nil {
			return
		}
	}
}

func (r *report) read(ctx context.Context, name, stream, cursor string) ([]rueidis.XRangeSlice, error) {
	key := r.w.key(stream)
	found, err := r.w.do(ctx, "XREADGROUP", "GROUP", group, name, "COUNT", strconv.Itoa(batch), "STREAMS", key, cursor).AsXReadSlices()
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, err
	}
	return found[key], nil
}

func (r *report) process(ctx context.Context, name, stream string, list []rueidis.XRangeSlice) {
	key := r.w.key(stream)
	for _, e := range list {
		if len(e.FieldValues) == 0 || !r.w.index(name, stream, e.FieldValues[0].Value) {
			continue
		}
		_ = r.w.do(ctx, "XACK", key, group, e.ID)
		_ = r.w.do(ctx, "XDEL", key, e.ID)
	}
}

func (r *report) trim(ctx context.Context, stream string) {
	if id, err := r.w.lastDelivered(ctx, stream); err == nil {
		_ = r.w.do(ctx, "XTRIM", r.w.key(stream), "MINID", id)
	}
}

func (r *report) recover(ctx context.Context, name, stream string) {
	key := r.w.key(stream)
	reply, err := r.w.do(ctx, "XAUTOCLAIM", key, group, name, strconv.FormatInt(reportIdle.Milliseconds(), 10), "0-0",
		"COUNT", "1000", "JUSTID").ToArray()
	if err != nil || len(reply) < 2 {
		return
	}
	if ids, err := reply[1].AsStrSlice(); err == nil && len(ids) > 0 {
		_ = r.w.do(ctx, append([]string{"XACK", key, group}, ids...)...)
	}
}

// mend deletes the consumers that are gone, and those that get nothing, and
// starts the latter again.
func (r *report) mend(ctx context.Context) error {
	for _, name := range everybody() {
		r.stop(name)
	}
	var errs []error
	for _, stream := range streams {
		for _, name := range everybody() {
			errs = append(errs, r.w.do(ctx, "XGROUP", "DELCONSUMER", r.w.key(stream), group, name).Error())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete consumers: %w", err)
	}
	for _, name := range append([]string{haunted}, healthy...) {
		if err := r.start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) watch(context.Context) error { return nil }

func (r *report) lookAtRest(context.Context) error { return nil }

func (r *report) close(context.Context) {
	for _, name := range everybody() {
		r.stop(name)
	}
}
