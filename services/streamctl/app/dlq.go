package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/letters"
	"sluice/services/streamctl/internal/render"
)

type dlqOptions struct {
	reason string
	all    bool
	limit  int
	after  string
}

func (t *tool) dlqCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dlq", Short: "Dead letters: look at them, drive them back, drop them",
		Long: "An entry that can never succeed is moved to the dead letters of its stream, with the reason and\n" +
			"the error. Redrive appends it to its stream again, once the cause is gone; drop deletes it.",
	}
	var o dlqOptions
	ls := &cobra.Command{
		Use: "ls [stream]", Short: "List dead letters, or how many there are by reason",
		Example: "  streamctl dlq ls\n  streamctl dlq ls firehose_live --reason bad_record --limit 20",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: t.completeStreams(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return t.dlqReasons(cmd.Context())
			}
			return t.dlqList(cmd.Context(), args[0], o)
		},
	}
	ls.Flags().StringVar(&o.reason, "reason", "", "only those with this reason")
	ls.Flags().IntVar(&o.limit, "limit", 50, "at most so many")
	ls.Flags().StringVar(&o.after, "after", "", "go on after this id")
	show := &cobra.Command{
		Use: "show <stream> <id>", Short: "Show one dead letter with its content", Args: cobra.ExactArgs(2), ValidArgsFunction: t.completeStreams(1),
		Example: "  streamctl dlq show firehose_live 1767225600000-0",
		RunE:    func(cmd *cobra.Command, args []string) error { return t.dlqShow(cmd.Context(), args[0], args[1]) },
	}
	change := func(use, short, example string, do func(context.Context, *redstream.DLQ, redstream.Filter) (int, error)) *cobra.Command {
		c := &cobra.Command{
			Use: use + " <stream> [id...]", Short: short, Example: example, Args: cobra.MinimumNArgs(1), ValidArgsFunction: t.completeStreams(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return t.dlqChange(cmd.Context(), use, args[0], args[1:], o, do)
			},
		}
		c.Flags().StringVar(&o.reason, "reason", "", "all with this reason")
		c.Flags().BoolVar(&o.all, "all", false, "all of the stream")
		return c
	}
	cmd.AddCommand(ls, show,
		change("redrive", "Append dead letters to their stream again", "  streamctl dlq redrive firehose_live --reason rejected\n  streamctl dlq redrive repo_backfill --all --yes",
			func(ctx context.Context, q *redstream.DLQ, f redstream.Filter) (int, error) { return q.Redrive(ctx, f) }),
		change("drop", "Delete dead letters for good", "  streamctl dlq drop firehose_live 1767225600000-0\n  streamctl dlq drop firehose_live --reason bad_record",
			func(ctx context.Context, q *redstream.DLQ, f redstream.Filter) (int, error) { return q.Drop(ctx, f) }))
	return cmd
}

func (t *tool) letters(ctx context.Context, stream string) (*redstream.DLQ, error) {
	if stream == t.settings.DeadLetters {
		stream = t.settings.Jobs
	}
	stream, err := t.stream(strings.TrimSuffix(stream, "_dlq"))
	if err != nil {
		return nil, err
	}
	redis, err := t.client(ctx)
	if err != nil {
		return nil, err
	}
	return redis.DeadLetters(stream, t.settings.topology().Letters(stream)), nil
}

func (t *tool) dlqReasons(ctx context.Context) error {
	all := map[string]map[string]int64{}
	table := render.NewTable("STREAM", "REASON", ">LETTERS")
	for _, s := range t.settings.topology().Streams() {
		q, err := t.letters(ctx, s)
		if err != nil {
			return err
		}
		reasons, err := q.Reasons(ctx)
		if err != nil {
			return err
		}
		all[s] = reasons
		for _, r := range slices.Sorted(maps.Keys(reasons)) {
			table.Row(s, r, render.Count(reasons[r]))
		}
	}
	if t.json {
		return t.dump(all)
	}
	if table.Len() == 0 {
		t.say("no dead letters")
	}
	return table.Write(t.out)
}

func (t *tool) dlqList(ctx context.Context, stream string, o dlqOptions) error {
	if o.limit < 1 {
		return fmt.Errorf("--limit=%d: want at least 1", o.limit)
	}
	q, err := t.letters(ctx, stream)
	if err != nil {
		return err
	}
	found, err := letters.List(ctx, q, o.reason, o.after, o.limit)
	if err != nil {
		return err
	}
	if t.json {
		return t.dump(found)
	}
	table := render.NewTable("ID", "REASON", ">TRIES", "ERROR")
	for _, l := range found {
		table.Row(l.ID, l.Reason, render.Count(l.Attempts), render.Clip(strings.ReplaceAll(l.Error, "\n", " "), 36))
	}
	if table.Len() == 0 {
		return t.dlqNone(ctx, q, o)
	}
	return table.Write(t.out)
}

// dlqNone says that nothing was found, and what there is instead.
func (t *tool) dlqNone(ctx context.Context, q *redstream.DLQ, o dlqOptions) error {
	reasons, err := q.Reasons(ctx)
	if err != nil {
		return err
	}
	var have []string
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		have = append(have, fmt.Sprintf("%s (%s)", r, render.Count(reasons[r])))
	}
	switch {
	case len(have) == 0:
		t.say("no dead letters")
	case o.reason != "" && reasons[o.reason] == 0:
		t.say("no dead letters with reason %q; there are %s", o.reason, strings.Join(have, ", "))
	default:
		t.say("no more dead letters after %s; there are %s", o.after, strings.Join(have, ", "))
	}
	return nil
}

func (t *tool) dlqShow(ctx context.Context, stream, id string) error {
	q, err := t.letters(ctx, stream)
	if err != nil {
		return err
	}
	d, err := q.Show(ctx, id)
	if err != nil {
		return err
	}
	if t.json {
		return t.dump(letters.Of(d, true))
	}
	t.say("id          %s\nsource id   %s\nreason      %s\nerror       %s\nattempts    %d\nfirst seen  %s\nparked at   %s",
		d.ID, d.SourceID, d.Reason, d.Error, d.Attempts, d.FirstSeen.Format(time.RFC3339), d.ParkedAt.Format(time.RFC3339))
	for _, f := range d.Fields {
		t.say("\n%s:\n%s", f.Name, printable(f.Value))
	}
	return nil
}

func (t *tool) dlqChange(ctx context.Context, verb, stream string, ids []string, o dlqOptions, do func(context.Context, *redstream.DLQ, redstream.Filter) (int, error)) error {
	given := 0
	for _, set := range []bool{len(ids) > 0, o.reason != "", o.all} {
		if set {
			given++
		}
	}
	if given != 1 {
		return errors.New("say which: ids, --reason, or --all")
	}
	q, err := t.letters(ctx, stream)
	if err != nil {
		return err
	}
	n := int64(len(ids))
	what := fmt.Sprintf("%d dead letters", n)
	switch {
	case o.all:
		if n, err = q.Len(ctx); err != nil {
			return err
		}
		what = fmt.Sprintf("all %s dead letters", render.Count(n))
	case o.reason != "":
		reasons, err := q.Reasons(ctx)
		if err != nil {
			return err
		}
		n = reasons[o.reason]
		what = fmt.Sprintf("%s dead letters with reason %s", render.Count(n), o.reason)
	}
	if n == 0 {
		t.say("nothing to %s", verb)
		return nil
	}
	if err := t.confirm(fmt.Sprintf("%s %s of %s?", verb, what, stream)); err != nil {
		return err
	}
	done, err := do(ctx, q, redstream.Filter{IDs: ids, Reason: o.reason})
	if err != nil {
		return fmt.Errorf("%d done, then: %w", done, err)
	}
	if t.json {
		return t.dump(map[string]any{"stream": stream, verb: done})
	}
	t.say("%s: %d", verb, done)
	return nil
}
