package redstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

const (
	// maxSeq is the largest sequence number that a script compares exactly.
	maxSeq = 1 << 53
	// maxFields bounds the fields of one entry; a script carries no more.
	maxFields = 1000
	// stepEntries and stepBytes bound one script call, so that no append
	// blocks Redis for long. A seq is never split between two calls.
	stepEntries = 1000
	stepBytes   = 16 << 20
)

// WriterConfig describes one writer.
type WriterConfig struct {
	// Stream is the name without the key prefix.
	Stream string
}

// Writer appends to one stream in order on one connection. Calls from several
// goroutines are done one after the other.
type Writer struct {
	c      *Client
	stream string
	key    string
	rc     rueidis.Client
	log    *slog.Logger

	mu     sync.Mutex
	closed bool
	at     map[string]string // cursor key → the value this writer left there
}

// NewWriter opens the writer's own connection.
func (c *Client) NewWriter(cfg WriterConfig) (*Writer, error) {
	if cfg.Stream == "" {
		return nil, fault.Fatalf("writer without a stream")
	}
	opt := c.addr.option
	opt.PipelineMultiplex = -1
	rc, err := rueidis.NewClient(opt)
	if err != nil && rc == nil {
		return nil, classify("connect writer", c.addr.shown, err)
	}
	c.metrics.initStream(cfg.Stream)
	return &Writer{
		c: c, stream: cfg.Stream, key: c.keys.stream(cfg.Stream), rc: rc, at: make(map[string]string),
		log: c.log.With(slog.String("stream", cfg.Stream)),
	}, nil
}

// Close ends the writer's connection after a running append.
func (w *Writer) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		w.rc.Close()
	}
}

// Append adds all items or none; it is retried until ctx ends. A lost answer
// may add them twice: use AppendSeq or AppendCAS where that matters. Seq is
// not looked at.
func (w *Writer) Append(ctx context.Context, items []Item) error {
	if err := checkWidth(items); err != nil || len(items) == 0 {
		return err
	}
	return w.locked(ctx, func(ctx context.Context) error {
		if err := w.appendOnce(ctx, items); err != nil {
			return classify("append", w.key, err)
		}
		w.c.metrics.appended.WithLabelValues(w.stream).Add(float64(len(items)))
		return nil
	})
}

// appendOnce sends one transaction. On a cluster it is a script, which needs
// no connection of its own.
func (w *Writer) appendOnce(ctx context.Context, items []Item) error {
	once, cancel := attempt(ctx)
	defer cancel()
	if w.c.keys.cluster {
		args := make([]string, 0, 3*len(items))
		for i := range items {
			args = appendWide(args, items[i].Fields)
		}
		return appendPlain.Exec(once, w.rc, []string{w.key}, args).Error()
	}
	cmds := make(rueidis.Commands, 0, len(items)+2)
	cmds = append(cmds, w.rc.B().Multi().Build())
	for i := range items {
		add := w.rc.B().Xadd().Key(w.key).Id("*").FieldValue()
		for _, f := range items[i].Fields {
			add = add.FieldValue(f.Name, f.Value)
		}
		cmds = append(cmds, add.Build())
	}
	cmds = append(cmds, w.rc.B().Exec().Build())
	return transaction(w.rc.DoMulti(once, cmds...))
}

// transaction returns why a MULTI … EXEC was not done. The refusal of a queued
// command says more than the EXECABORT that it leads to.
func transaction(replies []rueidis.RedisResult) error {
	last := replies[len(replies)-1]
	results, err := last.ToArray()
	if err != nil {
		for _, r := range replies[:len(replies)-1] {
			if cause := r.Error(); cause != nil {
				return cause
			}
		}
		return err
	}
	for i := range results {
		if err := results[i].Error(); err != nil {
			return err
		}
	}
	return nil
}

// AppendSeq adds the items whose Seq is above the numeric cursor at key, and
// moves the cursor to upTo, with the items of one Seq and the cursor that
// covers them in one atomic step. Repeated after a lost answer it adds
// nothing; refused for memory it writes nothing and waits. added counts what
// the last attempt wrote.
//
// If Redis has lost its tail (failover, restore, FLUSHALL) the cursor is below
// the one this writer left: ErrCursorMoved, nothing is written, and the caller
// goes on from what Cursor says, after Resume.
func (w *Writer) AppendSeq(ctx context.Context, key string, items []Item, upTo int64) (added int, err error) {
	if err := checkOrder(items, upTo); err != nil {
		return 0, err
	}
	if err := checkWidth(items); err != nil {
		return 0, err
	}
	key = w.c.keys.under(w.stream, key)
	err = w.locked(ctx, func(ctx context.Context) error {
		for rest := items; ; {
			n, bound := stepOf(rest, upTo)
			wrote, err := w.seqOnce(ctx, key, rest[:n], bound)
			added += wrote
			if err != nil {
				return err
			}
			w.at[key] = strconv.FormatInt(bound, 10)
			rest = rest[n:]
			if len(rest) == 0 {
				return nil
			}
		}
	})
	return added, err
}

// stepOf returns how many of items go into the next call, and the cursor that
// covers them.
func stepOf(items []Item, upTo int64) (n int, bound int64) {
	size := 0
	for i := range items {
		if i > 0 && items[i].Seq != items[i-1].Seq && (i >= stepEntries || size >= stepBytes) {
			return i, items[i-1].Seq
		}
		for _, f := range items[i].Fields {
			size += len(f.Name) + len(f.Value)
		}
	}
	return len(items), upTo
}

func (w *Writer) seqOnce(ctx context.Context, key string, items []Item, upTo int64) (int, error) {
	script, args := appendMany, make([]string, 3, 3+4*len(items))
	args[0], args[1] = w.at[key], strconv.FormatInt(upTo, 10)
	if field, ok := soleField(items); ok {
		script, args[2] = appendOne, field
		for i := range items {
			args = append(args, strconv.FormatInt(items[i].Seq, 10), items[i].Fields[0].Value)
		}
	} else {
		for i := range items {
			args = append(args, strconv.FormatInt(items[i].Seq, 10))
			args = appendWide(args, items[i].Fields)
		}
	}
	return w.swap(ctx, script, key, args)
}

// AppendCAS adds the items and sets the opaque cursor from expect ("" absent)
// to next in one atomic step; if the cursor is already next it adds nothing (a
// repeat); any other value is ErrCursorMoved.
func (w *Writer) AppendCAS(ctx context.Context, key, expect, next string, items []Item) (added int, err error) {
	if next == expect && len(items) > 0 {
		return 0, fault.Permanentf("append %s: %w: the cursor %q stays, so a repeat could not be told", w.key, ErrOrder, next)
	}
	if err := checkWidth(items); err != nil {
		return 0, err
	}
	args := make([]string, 2, 2+3*len(items))
	args[0], args[1] = expect, next
	for i := range items {
		args = appendWide(args, items[i].Fields)
	}
	key = w.c.keys.under(w.stream, key)
	err = w.locked(ctx, func(ctx context.Context) error {
		added, err = w.swap(ctx, appendCAS, key, args)
		return err
	})
	return added, err
}

// swap runs a script that appends and moves the cursor at key.
func (w *Writer) swap(ctx context.Context, script *rueidis.Lua, key string, args []string) (int, error) {
	once, cancel := attempt(ctx)
	defer cancel()
	reply, err := script.Exec(once, w.rc, []string{w.key, key}, args).ToArray()
	if err != nil {
		return 0, classify("append", w.key, err)
	}
	code, added, found, err := swapReply(reply)
	switch {
	case err != nil:
		return 0, classify("append", w.key, err)
	case code == 1:
		return 0, fault.Fatalf("append %s: %w: %s is %q, the writer goes on from %q", w.key, ErrCursorMoved, key, found, args[0])
	case code == 2:
		return 0, fault.Fatalf("append %s: %w: %s is %q", w.key, ErrBadCursor, key, found)
	}
	w.c.metrics.appended.WithLabelValues(w.stream).Add(float64(added))
	return int(added), nil
}

func swapReply(reply []rueidis.RedisMessage) (code, added int64, found string, err error) {
	if len(reply) != 3 {
		return 0, 0, "", fmt.Errorf("script returned %d values", len(reply))
	}
	code, err1 := reply[0].AsInt64()
	added, err2 := reply[1].AsInt64()
	found, err3 := reply[2].ToString()
	return code, added, found, errors.Join(err1, err2, err3)
}

// Resume forgets where this writer left the cursor at key. Call it after
// ErrCursorMoved, when the cursor was read again and the work starts there.
func (w *Writer) Resume(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.at, w.c.keys.under(w.stream, key))
}

// locked runs step alone on the connection and repeats it while it fails for
// a passing reason.
func (w *Writer) locked(ctx context.Context, step func(context.Context) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("append %s: %w", w.key, ErrClosed)
	}
	troubled := false
	err := persist(ctx, func(err error) {
		w.c.metrics.appendRetries.WithLabelValues(w.stream).Inc()
		if errors.Is(err, ErrMemory) {
			w.c.metrics.refused.WithLabelValues(w.stream).Inc()
		}
		if !troubled {
			troubled = true
			w.log.WarnContext(ctx, "append waits", slog.Any("err", err))
		}
	}, step)
	if err == nil && troubled {
		w.log.InfoContext(ctx, "append goes on")
	}
	return err
}

func checkWidth(items []Item) error {
	for i := range items {
		switch n := len(items[i].Fields); {
		case n == 0:
			return fault.Permanentf("append: item %d has no field", i)
		case n > maxFields:
			return fault.Permanentf("append: item %d: %w: %d, at most %d", i, ErrTooWide, n, maxFields)
		}
	}
	return nil
}

func checkOrder(items []Item, upTo int64) error {
	last := int64(-1)
	for i := range items {
		if items[i].Seq < last {
			return fault.Permanentf("append: %w: seq %d after %d", ErrOrder, items[i].Seq, last)
		}
		last = items[i].Seq
	}
	if last > upTo || upTo < 0 || upTo >= maxSeq {
		return fault.Permanentf("append: %w: last seq %d, cursor %d", ErrOrder, last, upTo)
	}
	return nil
}

// soleField returns the field name if every item has just that one.
func soleField(items []Item) (string, bool) {
	if len(items) == 0 {
		return "", true
	}
	name := items[0].Fields[0].Name
	for i := range items {
		if len(items[i].Fields) != 1 || items[i].Fields[0].Name != name {
			return "", false
		}
	}
	return name, true
}

// appendWide writes the number of arguments and the arguments of one entry.
func appendWide(args []string, fields []Field) []string {
	args = append(args, strconv.Itoa(2*len(fields)))
	for _, f := range fields {
		args = append(args, f.Name, f.Value)
	}
	return args
}
