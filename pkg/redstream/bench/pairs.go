package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/redstream"
)

const (
	stream = "s"
	key    = "bench:s"
	group  = "g"
)

func (b *bench) pairs() []pair {
	return []pair{
		{
			name: "append", what: "Append", against: "DoMulti of XADD", target: 0.6, inFile: true,
			ours: b.appendOurs, ceiling: b.appendBare,
		},
		{
			name: "append_cursor", what: "AppendSeq", against: "DoMulti of XADD", target: 0.55, inFile: true,
			ours: b.appendCursor, ceiling: b.appendBare,
		},
		{
			name: "read_ack", what: "Consumer", against: "XREADGROUP + XACK of the batch", target: 0.9, inFile: true,
			ours: b.readOurs, ceiling: b.readBare, prepare: b.fill,
		},
		{
			name: "read_ack_report", what: "Consumer", against: "the report's XACK and XDEL per message", target: 3.5,
			ours: b.readOurs, ceiling: b.readReport, prepare: b.fill,
		},
		{
			name: "road_with_trim", what: "append, read, ack, trim", against: "the same without trim", target: 0.8, inFile: true,
			ours:    func(ctx context.Context) (work, error) { return b.road(ctx, time.Second, nil) },
			ceiling: func(ctx context.Context) (work, error) { return b.road(ctx, 0, nil) },
		},
	}
}

func (b *bench) items(n int, from int64) []redstream.Item {
	items := make([]redstream.Item, n)
	for i := range items {
		items[i] = redstream.Item{Seq: from + int64(i), Fields: []redstream.Field{{Name: "event", Value: b.payload}}}
	}
	return items
}

func (b *bench) appendBare(ctx context.Context) (work, error) {
	for done := 0; done < b.cfg.entries; done += b.cfg.batch {
		cmds := make(rueidis.Commands, b.cfg.batch)
		for i := range cmds {
			cmds[i] = b.bare.B().Xadd().Key(key).Id("*").FieldValue().FieldValue("event", b.payload).Build()
		}
		for _, r := range b.bare.DoMulti(ctx, cmds...) {
			if err := r.Error(); err != nil {
				return work{}, err
			}
		}
	}
	return work{n: b.cfg.entries}, nil
}

func (b *bench) appendOurs(ctx context.Context) (work, error) {
	return b.appendWith(func(w *redstream.Writer, items []redstream.Item, _ int64) error {
		return w.Append(ctx, items)
	})
}

func (b *bench) appendCursor(ctx context.Context) (work, error) {
	return b.appendWith(func(w *redstream.Writer, items []redstream.Item, last int64) error {
		_, err := w.AppendSeq(ctx, "s:cursor:h", items, last)
		return err
	})
}

func (b *bench) appendWith(add func(*redstream.Writer, []redstream.Item, int64) error) (work, error) {
	w, err := b.ours.NewWriter(redstream.WriterConfig{Stream: stream})
	if err != nil {
		return work{}, err
	}
	defer w.Close()
	for done := 0; done < b.cfg.entries; done += b.cfg.batch {
		items := b.items(b.cfg.batch, int64(done))
		if err := add(w, items, int64(done+b.cfg.batch-1)); err != nil {
			return work{}, err
		}
	}
	return work{n: b.cfg.entries}, nil
}

func (b *bench) fill(ctx context.Context) error {
	if err := b.ours.EnsureGroup(ctx, stream, group); err != nil {
		return err
	}
	_, err := b.appendBare(ctx)
	return err
}

// readBatch reads new entries as the bare sides do; empty at the end.
func (b *bench) readBatch(ctx context.Context, n int) ([]rueidis.XRangeSlice, error) {
	streams, err := b.bare.Do(ctx, b.bare.B().Xreadgroup().Group(group, "bare").Count(int64(n)).
		Streams().Key(key).Id(">").Build()).AsXReadSlices()
	if rueidis.IsRedisNil(err) {
		return nil, nil
	}
	return streams[key], err
}

func (b *bench) readBare(ctx context.Context) (work, error) {
	total := 0
	for {
		list, err := b.readBatch(ctx, b.cfg.batch)
		if err != nil || len(list) == 0 {
			return work{n: total}, err
		}
		ids := make([]string, len(list))
		for i, e := range list {
			ids[i] = e.ID
		}
		if err := b.bare.Do(ctx, b.bare.B().Xack().Key(key).Group(group).Id(ids...).Build()).Error(); err != nil {
			return work{n: total}, err
		}
		total += len(list)
	}
}

// readReport acks and deletes each message by itself, 100 at a time side by side.
func (b *bench) readReport(ctx context.Context) (work, error) {
	total := 0
	for total < b.cfg.reportEntries {
		list, err := b.readBatch(ctx, b.cfg.batch)
		if err != nil || len(list) == 0 {
			return work{n: total}, err
		}
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		slots := make(chan struct{}, 100)
		for _, e := range list {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				err := b.bare.Do(ctx, b.bare.B().Xack().Key(key).Group(group).Id(e.ID).Build()).Error()
				if err == nil {
					err = b.bare.Do(ctx, b.bare.B().Xdel().Key(key).Id(e.ID).Build()).Error()
				}
				if err != nil {
					failed.Store(&err)
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return work{n: total}, *err
		}
		total += len(list)
	}
	return work{n: total}, nil
}

func (b *bench) readOurs(ctx context.Context) (work, error) {
	return b.consume(ctx, b.cfg.entries)
}

// consume reads and acks n entries with a Consumer. The time counts until
// Redis has the last ack, as for the bare side; joining and leaving the group
// happen once in the life of a process.
func (b *bench) consume(ctx context.Context, n int) (work, error) {
	cons, err := b.ours.NewConsumer(redstream.ConsumerConfig{
		Group: group, Consumer: "c", Streams: []string{stream}, Batch: b.cfg.batch, Block: 20 * time.Millisecond,
	})
	if err != nil {
		return work{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w := work{}
	start := time.Now()
	var wg sync.WaitGroup
	err = cons.Run(ctx, func(_ context.Context, batch []redstream.Delivery) error {
		cons.Ack(batch...)
		if w.n += len(batch); w.n < n {
			return nil
		}
		wg.Go(func() {
			defer stop()
			for cons.Held() > 0 && ctx.Err() == nil {
				<-time.After(time.Millisecond)
			}
			w.took = time.Since(start)
		})
		return nil
	})
	wg.Wait()
	if err != nil {
		return w, err
	}
	behind := context.WithoutCancel(ctx)
	if err := cons.Close(behind); err != nil {
		return w, err
	}
	left, err := b.bare.Do(behind, b.bare.B().Xpending().Key(key).Group(group).Build()).ToArray()
	if err != nil {
		return w, err
	}
	if pending, _ := left[0].AsInt64(); pending != 0 {
		return w, fmt.Errorf("%d entries not acknowledged", pending)
	}
	return w, nil
}

// road appends and consumes at the same time, trimming every so often or never.
// watch, if set, is called after each append.
func (b *bench) road(ctx context.Context, trim time.Duration, watch func(done int) error) (work, error) {
	if err := b.ours.EnsureGroup(ctx, stream, group); err != nil {
		return work{}, err
	}
	behind, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	if trim > 0 {
		t := b.ours.NewTrimmer(redstream.TrimConfig{Streams: map[string][]string{stream: {group}}, Every: trim})
		wg.Go(func() { _ = t.Run(behind) })
	}
	failed := make(chan error, 1)
	wg.Go(func() { failed <- b.produce(behind, watch) })
	n, err := b.consume(ctx, b.cfg.roadEntries)
	if err != nil {
		return n, err
	}
	return n, <-failed
}

func (b *bench) produce(ctx context.Context, watch func(int) error) error {
	w, err := b.ours.NewWriter(redstream.WriterConfig{Stream: stream})
	if err != nil {
		return err
	}
	defer w.Close()
	for done := 0; done < b.cfg.roadEntries; done += b.cfg.batch {
		if _, err := w.AppendSeq(ctx, "s:cursor:h", b.items(b.cfg.batch, int64(done)), int64(done+b.cfg.batch-1)); err != nil {
			return err
		}
		if watch != nil {
			if err := watch(done); err != nil {
				return err
			}
		}
	}
	return nil
}

// flatness runs the road once more behind a gate, so that reading keeps up,
// and prints how the memory of Redis moved.
func (b *bench) flatness(ctx context.Context) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	before, err := b.info(ctx, "memory", "used_memory")
	if err != nil {
		return err
	}
	gate := b.ours.NewGate(redstream.GateConfig{Stream: stream, High: 20000, Every: 10 * time.Millisecond})
	var early, late float64
	w, err := b.road(ctx, 100*time.Millisecond, func(done int) error {
		if err := gate.Wait(ctx); err != nil {
			return err
		}
		if done%(10*b.cfg.batch) != 0 {
			return nil
		}
		used, err := b.info(ctx, "memory", "used_memory")
		if done < b.cfg.roadEntries/2 {
			early = max(early, used)
		} else {
			late = max(late, used)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, _, err := b.ours.Trim(ctx, stream, group); err != nil {
		return err
	}
	length, err := b.ours.Len(ctx, stream)
	if err != nil {
		return err
	}
	after, err := b.info(ctx, "memory", "used_memory")
	if err != nil {
		return err
	}
	const mib = 1 << 20
	fmt.Fprintf(os.Stdout, "\nmemory of Redis while %d entries (%.0f MiB) pass, with a gate at 20000:\n"+
		"%.1f MiB before, at most %.1f MiB in the first half and %.1f MiB in the second, %.1f MiB after; length %d\n",
		w.n, float64(w.n*b.cfg.size)/mib, before/mib, early/mib, late/mib, after/mib, length)
	return nil
}
