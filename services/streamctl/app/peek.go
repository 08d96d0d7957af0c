package app

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/letters"
	"sluice/services/streamctl/internal/render"
)

func (t *tool) peekCmd() *cobra.Command {
	var n int
	var oldest bool
	var from string
	cmd := &cobra.Command{
		Use: "peek <stream>", Short: "Look at entries, decoded from either form",
		Long:    "Peek reads past every group and takes nothing from them. The newest entries come first.",
		Example: "  streamctl peek firehose_live\n  streamctl peek repo_backfill --oldest -n 3 --json\n  streamctl peek firehose_live --from 1767225600000-0",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: t.completeStreams(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.peek(cmd.Context(), args[0], n, oldest, from)
		},
	}
	cmd.Flags().IntVarP(&n, "count", "n", 10, "how many")
	cmd.Flags().BoolVar(&oldest, "oldest", false, "the oldest first")
	cmd.Flags().StringVar(&from, "from", "", "from this id on")
	return cmd
}

type peeked struct {
	ID    string `json:"id"`
	Form  string `json:"form"`
	Entry any    `json:"entry,omitempty"`
	Error string `json:"error,omitempty"`
}

func (t *tool) peek(ctx context.Context, stream string, n int, oldest bool, from string) error {
	if n < 1 || n > 10000 {
		return fmt.Errorf("--count=%d: want 1 to 10000", n)
	}
	stream, err := t.stream(stream)
	if err != nil {
		return err
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	var entries []redstream.Entry
	switch {
	case from != "":
		entries, err = redis.Range(ctx, stream, from, "+", n)
	case oldest:
		entries, err = redis.Range(ctx, stream, "-", "+", n)
	default:
		entries, err = redis.Newest(ctx, stream, n)
	}
	if err != nil {
		return err
	}
	out := make([]peeked, len(entries))
	for i, e := range entries {
		out[i] = t.decode(stream, e)
	}
	if t.json {
		return t.dump(out)
	}
	if len(out) == 0 {
		t.say("%s is empty", stream)
	}
	for _, p := range out {
		if p.Error != "" {
			t.say("%s  %s: unreadable: %s", p.ID, p.Form, p.Error)
			continue
		}
		b, err := json.Marshal(p.Entry)
		if err != nil {
			return err
		}
		t.say("%s  %s  %s", p.ID, p.Form, render.Clip(string(b), 2000))
	}
	return nil
}

// decode makes an entry of a stream readable.
func (t *tool) decode(stream string, e redstream.Entry) peeked {
	p := peeked{ID: e.ID, Form: "json"}
	if _, binary := e.Get("pb"); binary {
		p.Form = "protobuf"
	}
	top := t.settings.topology()
	var err error
	switch stream {
	case top.Jobs:
		p.Entry, err = event.DecodeJob(e.Get)
	case top.Labels:
		p.Entry, err = event.DecodeLabels(e.Get)
	default:
		var ev *event.Event
		if ev, err = event.DecodeEvent(e.Get); err == nil {
			p.Entry, err = eventText(ev)
		}
	}
	if err != nil {
		p.Entry, p.Error = nil, err.Error()
	}
	return p
}

// eventText is the JSON form of an event, whichever form it came in.
func eventText(e *event.Event) (json.RawMessage, error) {
	_, text, err := event.JSON.Event(e)
	return json.RawMessage(text), err
}

// printable is a value as it can be written to a terminal.
func printable(v string) string {
	if letters.Printable(v) {
		return v
	}
	return fmt.Sprintf("(%d bytes of binary)", len(v))
}
