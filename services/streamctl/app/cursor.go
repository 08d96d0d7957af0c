package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"sluice/services/streamctl/internal/render"
)

func (t *tool) cursorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cursor", Short: "Read or set the place up to which a host was read",
		Example: "  streamctl cursor get\n  streamctl cursor set firehose_live bsky.network 1234567\n  streamctl cursor rm repo_backfill bsky.network",
	}
	get := &cobra.Command{
		Use: "get [stream]", Short: "List the cursors",
		Example: "  streamctl cursor get\n  streamctl cursor get firehose_live --json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: t.completeStreams(1),
		RunE: func(cmd *cobra.Command, args []string) error { return t.cursorGet(cmd.Context(), args) },
	}
	set := &cobra.Command{
		Use: "set <stream> <host> <value>", Short: "Set one cursor",
		Long: "Set moves a cursor: back to read again (harmless, everything is idempotent), forward to leave out\n" +
			"what is in between. An ingester that runs notices and goes on from the new place.",
		Example: "  streamctl cursor set firehose_live bsky.network 1234567",
		Args:    cobra.ExactArgs(3), ValidArgsFunction: t.completeStreams(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.cursorSet(cmd.Context(), args[0], args[1], args[2])
		},
	}
	rm := &cobra.Command{
		Use: "rm <stream> <host>", Short: "Remove one cursor, so that its host is read from the start",
		Example: "  streamctl cursor rm repo_backfill bsky.network",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: t.completeStreams(1),
		RunE: func(cmd *cobra.Command, args []string) error { return t.cursorRemove(cmd.Context(), args[0], args[1]) },
	}
	cmd.AddCommand(get, set, rm)
	return cmd
}

func (t *tool) cursorGet(ctx context.Context, args []string) error {
	streams := t.settings.topology().Streams()
	if len(args) == 1 {
		name, err := t.stream(args[0])
		if err != nil {
			return err
		}
		streams = []string{name}
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	table := render.NewTable("STREAM", "HOST", "CURSOR")
	all := map[string]map[string]string{}
	for _, s := range streams {
		found, err := redis.Cursors(ctx, s)
		if err != nil {
			return err
		}
		all[s] = found
		for _, host := range slices.Sorted(maps.Keys(found)) {
			table.Row(s, host, found[host])
		}
	}
	if t.json {
		return t.dump(all)
	}
	if table.Len() == 0 {
		t.say("no cursors: nothing was read yet")
	}
	return table.Write(t.out)
}

func (t *tool) cursorSet(ctx context.Context, stream, host, value string) error {
	stream, err := t.stream(stream)
	if err != nil {
		return err
	}
	top := t.settings.topology()
	if stream == top.Backfill {
		return fmt.Errorf("%s has no cursor", stream)
	}
	if _, err := strconv.ParseUint(value, 10, 63); err != nil && stream != top.Jobs {
		return fmt.Errorf("cursor %q of %s: want a sequence number", value, stream)
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	key := stream + ":cursor:" + host
	old, found, err := redis.Cursor(ctx, key)
	if err != nil {
		return err
	}
	if !found {
		old = "(none)"
	}
	if err := t.confirm(fmt.Sprintf("set %s from %s to %s?", key, old, value)); err != nil {
		return err
	}
	if err := redis.SetCursor(ctx, key, value); err != nil {
		return err
	}
	if t.json {
		return t.dump(map[string]string{"key": key, "from": old, "to": value})
	}
	t.say("%s: %s -> %s", key, old, value)
	return nil
}

func (t *tool) cursorRemove(ctx context.Context, stream, host string) error {
	stream, err := t.stream(stream)
	if err != nil {
		return err
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	key := stream + ":cursor:" + host
	old, found, err := redis.Cursor(ctx, key)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("there is no cursor %s (streamctl cursor get lists them)", key)
	}
	if err := t.confirm(fmt.Sprintf("remove %s, now %s?", key, old)); err != nil {
		return err
	}
	if err := redis.DeleteCursor(ctx, key); err != nil {
		return err
	}
	if t.json {
		return t.dump(map[string]string{"key": key, "removed": old})
	}
	t.say("%s: %s -> (none)", key, old)
	return nil
}
