package app

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/services/streamctl/internal/road"
	"sluice/services/streamctl/internal/top"
)

type topOptions struct {
	every time.Duration
	once  bool
	width int
}

func (t *tool) topCmd() *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the whole road in the terminal",
		Long: "Top shows the verdict, the streams with their fill and gates, the backfill, the consumers, what is\n" +
			"parked and what doctor found. Keys: q quits, arrows choose a stream, enter shows its consumers only,\n" +
			"s sorts, space pauses, ? explains. NO_COLOR leaves colours out. --json writes the view once.",
		Example: "  streamctl top\n  streamctl top --once | less\n  NO_COLOR=1 streamctl top --every 5s",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.top(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.every, "every", 2*time.Second, "time between two looks")
	f.BoolVar(&o.once, "once", false, "write one frame and end")
	f.IntVar(&o.width, "width", 80, "columns of the frame that --once writes")
	return cmd
}

func (t *tool) top(ctx context.Context, o topOptions) error {
	if o.every < 100*time.Millisecond {
		return fmt.Errorf("--every=%s: want 100ms or more", o.every)
	}
	if o.width < 60 || o.width > 500 {
		return fmt.Errorf("--width=%d: want 60 to 500", o.width)
	}
	w := road.New(&sight{t: t}, road.Config{Every: o.every, Limits: t.settings.Console.limits(), Version: t.version})
	switch {
	case t.json:
		v, err := top.Wait(ctx, w)
		if err != nil {
			return err
		}
		return t.dump(v)
	case o.once:
		return top.Once(ctx, w, t.out, true, o.width)
	}
	in, isFile := t.in.(*os.File)
	out, outIsFile := t.out.(*os.File)
	if !isFile || !outIsFile {
		return top.ErrNoTerminal
	}
	return top.Run(ctx, top.Config{Watcher: w, Plain: t.getenv("NO_COLOR") != "" || t.getenv("TERM") == "dumb", In: in, Out: out})
}

// getenv is the value of a variable of the environment of this run.
func (t *tool) getenv(name string) string {
	for _, kv := range t.environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
