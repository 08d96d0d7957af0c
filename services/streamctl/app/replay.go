package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/firehose"
	"sluice/pkg/lexicon"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/relay"
	"sluice/services/streamctl/internal/render"
)

type replayOptions struct {
	relay    string
	from, to int64
	limit    int64
	quiet    time.Duration
	out      string
	emit     bool
	verify   string
}

func (t *tool) replayCmd() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use: "replay --relay <host> --from <seq> --to <seq>", Short: "Read a range of a relay again: show it, keep it, or emit it",
		Long: "Replay subscribes to a relay at a sequence number and reads to another one, as far back as the relay\n" +
			"reaches. It shows one line an event (--json: the event itself), or writes the frames to a file\n" +
			"(--out: for each its length in four bytes, little endian, and the message as sent), or appends the\n" +
			"events of indexed records to firehose_live as the ingester would (--emit). No cursor is read or\n" +
			"moved, and applying an event again changes nothing, so emitting a range twice is harmless.\n\n" +
			"A host without a scheme is asked over TLS. Exit code 2: the relay had nothing of the range, or no\n" +
			"longer its start, or a frame could not be used.",
		Example: "  streamctl replay --relay bsky.network --from 7340021000 --to 7340021100\n" +
			"  streamctl replay --relay bsky.network --from 7340021000 --to 7340021100 --json | jq .did\n" +
			"  streamctl replay --relay bsky.network --from 7340021000 --to 7340029999 --out frames.bin\n" +
			"  streamctl replay --relay bsky.network --from 7340021000 --to 7340029999 --emit",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.replay(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.relay, "relay", "", "host of the relay, maybe with ws:// before it")
	f.Int64Var(&o.from, "from", 0, "first sequence number")
	f.Int64Var(&o.to, "to", 0, "last sequence number")
	f.Int64Var(&o.limit, "limit", 1_000_000, "most frames of one run")
	f.DurationVar(&o.quiet, "quiet", 30*time.Second, "give up when the relay sends nothing for so long")
	f.StringVar(&o.out, "out", "", "write the frames to this new file; - is standard output")
	f.BoolVar(&o.emit, "emit", false, "append the events to firehose_live")
	f.StringVar(&o.verify, "verify", "", "check commits: off, structure, full (default off, with --emit full)")
	return cmd
}

func (o *replayOptions) check() error {
	switch {
	case o.relay == "":
		return errors.New("--relay is missing: want the host of a relay, as in --relay bsky.network")
	case o.from < 1 || o.to < o.from:
		return fmt.Errorf("--from=%d --to=%d: want 1 or more, and --to not before --from", o.from, o.to)
	case o.limit < 1:
		return fmt.Errorf("--limit=%d: want at least 1", o.limit)
	case o.quiet < time.Second:
		return fmt.Errorf("--quiet=%s: want at least 1s", o.quiet)
	case o.emit && o.out != "":
		return errors.New("--emit and --out: want one of them")
	}
	switch o.verify {
	case "":
		o.verify = string(atproto.Off)
		if o.emit {
			o.verify = string(atproto.Full)
		}
	case string(atproto.Off), string(atproto.Structure), string(atproto.Full):
	default:
		return fmt.Errorf("--verify=%s: want off, structure or full", o.verify)
	}
	if _, err := firehose.BareHost(o.relay); err != nil {
		return fmt.Errorf("--relay=%s: %w", o.relay, err)
	}
	return nil
}

// replayReport is the answer of a run in JSON.
type replayReport struct {
	relay.Range

	Events  int64                  `json:"events"`
	Dropped map[event.Reason]int64 `json:"dropped"`
	Emitted bool                   `json:"emitted"`
	File    string                 `json:"file,omitempty"`
}

// sink takes what a replay reads.
type sink interface {
	take(ctx context.Context, m relay.Message) error
	// end makes what was taken durable; events is how many there were.
	end(ctx context.Context) (events int64, err error)
}

func (t *tool) replay(ctx context.Context, o replayOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	catalog, err := lexicon.New(lexicon.Options{LegacyBlobs: t.settings.LegacyBlobs})
	if err != nil {
		return err
	}
	convert := &relay.Converter{Level: atproto.Level(o.verify), Verifier: &atproto.Verifier{}, Keep: catalog.Has, Dropped: map[event.Reason]int64{}}
	if convert.Level == atproto.Full {
		dir, err := t.directory(ctx)
		if err != nil {
			return err
		}
		convert.Verifier = atproto.NewVerifier(dir, nil)
	}
	to, done, err := t.sink(ctx, &o, convert)
	if err != nil {
		return err
	}
	defer done()
	r := replayReport{Dropped: convert.Dropped, Emitted: o.emit, File: o.out}
	var at atomic.Int64
	var frames int64
	err = t.teller().during(ctx, func(time.Duration) string { return fmt.Sprintf("at seq %d of %d", at.Load(), o.to) }, func(ctx context.Context) (err error) {
		cfg := relay.Config{Relay: o.relay, From: o.from, To: o.to, Quiet: o.quiet, Log: t.log()}
		r.Range, err = relay.Read(ctx, cfg, func(ctx context.Context, m relay.Message) error {
			if frames++; frames > o.limit {
				return fmt.Errorf("--limit=%d frames were read: go on with --from=%d", o.limit, at.Load()+1)
			}
			at.Store(m.Seq)
			return to.take(ctx, m)
		})
		return err
	})
	// What was read is kept, whatever ended the reading.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	n, endErr := to.end(ending)
	r.Events = n
	if err := errors.Join(err, endErr); err != nil {
		return fmt.Errorf("after %d frames, to seq %d: %w", r.Frames, r.Last, err)
	}
	return t.showReplay(&r, o)
}

// sink makes what the options ask for, and what ends it.
func (t *tool) sink(ctx context.Context, o *replayOptions, convert *relay.Converter) (sink, func(), error) {
	switch {
	case o.emit:
		question := fmt.Sprintf("append the events of %s from seq %d to %d to %s?", o.relay, o.from, o.to, liveStream)
		if err := t.confirm(question); err != nil {
			return nil, nil, err
		}
		redis, err := t.client(ctx)
		if err != nil {
			return nil, nil, err
		}
		w, err := redis.NewWriter(redstream.WriterConfig{Stream: liveStream})
		if err != nil {
			return nil, nil, err
		}
		gate := redis.NewGate(redstream.GateConfig{Stream: liveStream, High: t.settings.marks()[liveStream]})
		return &emitter{convert: convert, enc: event.Encoding(t.settings.Encoding), writer: w, gate: gate}, w.Close, nil
	case o.out == "-":
		return &recorder{out: bufio.NewWriter(t.out)}, func() {}, nil
	case o.out != "":
		f, err := os.OpenFile(o.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("--out: %w", err)
		}
		return &recorder{out: bufio.NewWriter(f), file: f}, func() { _ = f.Close() }, nil
	}
	return &printer{t: t, convert: convert}, func() {}, nil
}

// recorder keeps frames in a file.
type recorder struct {
	out  *bufio.Writer
	file io.Closer
}

func (r *recorder) take(_ context.Context, m relay.Message) error {
	return relay.WriteFrame(r.out, m.Raw)
}

func (r *recorder) end(context.Context) (int64, error) {
	err := r.out.Flush()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return 0, err
}

// printer shows events.
type printer struct {
	t       *tool
	convert *relay.Converter
	n       int64
}

func (p *printer) take(ctx context.Context, m relay.Message) error {
	if m.Frame == nil {
		p.t.say("%d  unreadable: %s", m.Seq, m.Err)
		return nil
	}
	events, err := p.convert.Events(ctx, m.Frame)
	if err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		p.n++
		if p.t.json {
			text, err := eventText(e)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(p.t.out, "%s\n", text); err != nil {
				return err
			}
			continue
		}
		what := e.Collection + "/" + e.RKey
		switch e.Type {
		case event.Account:
			what = orElse(e.Status, "active")
		case event.Identity:
			what = e.Handle
		case event.Repo:
			what = e.Rev
		case event.Create, event.Update, event.Delete:
		}
		p.t.say("%d  %-8s  %s  %s", m.Seq, e.Type, e.DID, what)
	}
	return nil
}

func (p *printer) end(context.Context) (int64, error) { return p.n, nil }

// emitter appends events to the live stream. A commit is never split.
type emitter struct {
	convert *relay.Converter
	enc     event.Encoding
	writer  *redstream.Writer
	gate    *redstream.Gate

	items []redstream.Item
	n     int64
}

// emitBatch is how many entries are appended in one step, or a few more.
const emitBatch = 500

func (e *emitter) take(ctx context.Context, m relay.Message) error {
	if m.Frame == nil {
		return nil // counted as unreadable
	}
	events, err := e.convert.Events(ctx, m.Frame)
	if err != nil {
		return err
	}
	for i := range events {
		name, value, err := e.enc.Event(&events[i])
		if err != nil {
			e.convert.Dropped[event.ReasonRejected]++
			continue
		}
		e.items = append(e.items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
	}
	if len(e.items) < emitBatch {
		return nil
	}
	return e.flush(ctx)
}

func (e *emitter) flush(ctx context.Context) error {
	if len(e.items) == 0 {
		return nil
	}
	if err := e.gate.Wait(ctx); err != nil {
		return err
	}
	if err := e.writer.Append(ctx, e.items); err != nil {
		return fmt.Errorf("append %d entries: %w", len(e.items), err)
	}
	e.n += int64(len(e.items))
	e.items = e.items[:0]
	return nil
}

func (e *emitter) end(ctx context.Context) (int64, error) {
	err := e.flush(ctx)
	return e.n, err
}

func (t *tool) showReplay(r *replayReport, o replayOptions) error {
	switch {
	case t.json && (o.emit || o.out != "" && o.out != "-"):
		if err := t.dump(r); err != nil {
			return err
		}
	case o.emit:
		t.say("%s frames read, seq %d to %d; %s entries appended to %s", render.Count(r.Frames), r.First, r.Last, render.Count(r.Events), liveStream)
	case o.out != "" && o.out != "-":
		t.say("%s frames, seq %d to %d, written to %s", render.Count(r.Frames), r.First, r.Last, o.out)
	}
	tell := t.teller()
	if r.Gap {
		tell.line("the relay no longer has everything from seq %d: what came is from seq %d on", o.from, r.First)
	}
	if r.Frames == 0 {
		tell.line("%s has nothing from seq %d to %d", o.relay, o.from, o.to)
	}
	if r.Unreadable > 0 {
		tell.line("%s frames could not be read", render.Count(r.Unreadable))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Dropped)) {
		tell.line("left out: %s %s", render.Count(r.Dropped[reason]), reason)
	}
	if r.Gap || r.Frames == 0 || r.Unreadable > 0 || len(r.Dropped) > 0 {
		return errFound
	}
	return nil
}
