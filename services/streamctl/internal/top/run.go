package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"sluice/services/streamctl/internal/road"
)

// Config says how to show.
type Config struct {
	Watcher *road.Watcher
	// Plain leaves colours out.
	Plain bool
	// In and Out are the terminal.
	In, Out *os.File
}

// ErrNoTerminal says that there is nothing to draw on.
var ErrNoTerminal = errors.New("top needs a terminal: use streamctl top --once, or streamctl status --watch, for a file or a pipe")

// Once writes one frame of the first complete view.
func Once(ctx context.Context, w *road.Watcher, out io.Writer, plain bool, width int) error {
	v, err := Wait(ctx, w)
	if err != nil {
		return err
	}
	for _, l := range frame(v, state{}, painter{plain}, width, 0) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(l, " ")); err != nil {
			return err
		}
	}
	return nil
}

// Wait runs the watcher until it has a view with rates and findings. An error
// says that Redis was not seen.
func Wait(ctx context.Context, w *road.Watcher) (*road.View, error) {
	ctx, stop := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.Run(ctx) })
	v, err := complete(ctx, w)
	stop()
	return v, errors.Join(err, g.Wait())
}

func complete(ctx context.Context, w *road.Watcher) (*road.View, error) {
	for {
		v, next := w.View()
		if v.Verdict.State == road.Broken && v.Age != 0 {
			return nil, errors.New(v.Verdict.Because)
		}
		if v.Checked != nil && len(v.Streams) > 0 && v.Streams[0].In >= 0 {
			return v, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// The sequences that begin and end the second screen: nothing of what was in
// the window is lost. The cursor is hidden meanwhile.
const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leave = "\x1b[?25h\x1b[?1049l"
)

// Run shows the road until q, Ctrl-C or the end of ctx, and then leaves the
// terminal as it was.
func Run(ctx context.Context, cfg Config) (err error) {
	in := int(cfg.In.Fd())
	if !term.IsTerminal(in) || !term.IsTerminal(int(cfg.Out.Fd())) {
		return ErrNoTerminal
	}
	before, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("set the terminal to raw: %w", err)
	}
	defer func() {
		_, _ = io.WriteString(cfg.Out, leave)
		err = errors.Join(err, term.Restore(in, before))
	}()
	if _, err := io.WriteString(cfg.Out, enter); err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cfg.Watcher.Run(ctx) })
	typed := make(chan string)
	g.Go(func() error { return readKeys(ctx, cfg.In, typed) })
	g.Go(func() error {
		defer quit()
		return show(ctx, cfg, typed, resized)
	})
	return g.Wait()
}

// keyWait is how often the reader of keys looks whether to stop.
const keyWait = 100 * time.Millisecond

// readKeys sends what is typed. A terminal whose reads cannot be given a
// deadline is read by polling, so that nobody is left behind in a read.
func readKeys(ctx context.Context, in *os.File, typed chan<- string) error {
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		ready, err := readable(int(in.Fd()), keyWait)
		if err != nil {
			return fmt.Errorf("wait for a key: %w", err)
		}
		if !ready {
			continue
		}
		n, err := in.Read(buf)
		if n > 0 {
			select {
			case typed <- string(buf[:n]):
			case <-ctx.Done():
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the terminal is gone: the same as q
		}
	}
	return nil
}

// show draws each view and each change by a key.
func show(ctx context.Context, cfg Config, typed <-chan string, resized <-chan os.Signal) error {
	var s state
	v, next := cfg.Watcher.View()
	for {
		width, height, err := term.GetSize(int(cfg.Out.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		if err := draw(cfg.Out, frame(v, s, painter{cfg.Plain}, width, height)); err != nil {
			return err
		}
		select {
		case <-next:
		case <-resized:
		case keys := <-typed:
			if s.press(keys, v) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
		if newest, n := cfg.Watcher.View(); !s.paused {
			v, next = newest, n
		} else {
			next = n
		}
	}
}

// draw writes a frame over the one before, each line cleared to its end.
func draw(out io.Writer, lines []string) error {
	_, err := io.WriteString(out, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}

// press takes keys; true is the end.
func (s *state) press(keys string, v *road.View) (quit bool) {
	switch keys {
	case "q", "Q", "\x03", "\x04":
		return true
	case "s", "S":
		s.order = (s.order + 1) % orders
	case " ", "p":
		s.paused = !s.paused
	case "?", "h":
		s.help = !s.help
	case "\x1b[A", "\x1bOA", "k":
		s.move(v, -1)
	case "\x1b[B", "\x1bOB", "j":
		s.move(v, 1)
	case "\r", "\n":
		s.only = !s.only && s.chosen != ""
	case "\x1b":
		s.chosen, s.only = "", false
	}
	return false
}

// move puts the cursor on the stream before or after.
func (s *state) move(v *road.View, by int) {
	list := sorted(v, s.order)
	if len(list) == 0 {
		return
	}
	at := slices.IndexFunc(list, func(x road.Stream) bool { return x.Name == s.chosen })
	if at < 0 && by < 0 {
		at = 0
	}
	s.chosen = list[(at+by+len(list))%len(list)].Name
}
