package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/render"
)

func (t *tool) trimCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "trim [stream...]",
		Short: "Remove what every group has finished, now",
		Long: "Trim removes the entries below the floor: those that every group of the stream has finished. The\n" +
			"indexers do the same every second; trim is for when none of them runs. It can lose nothing.",
		Example:           "  streamctl trim --dry-run\n  streamctl trim firehose_backfill --yes",
		ValidArgsFunction: t.completeStreams(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.trim(cmd.Context(), args, dry)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say who holds the floor")
	return cmd
}

type trimmed struct {
	Stream   string  `json:"stream"`
	Trimmed  int64   `json:"trimmed"`
	Floor    string  `json:"floor"`
	Group    string  `json:"held_by_group"`
	Consumer string  `json:"held_by_consumer"`
	Age      float64 `json:"held_seconds"`
}

func (t *tool) trim(ctx context.Context, streams []string, dry bool) error {
	top := t.settings.topology()
	if len(streams) == 0 {
		streams = top.Streams()
	}
	for _, name := range streams {
		if _, err := t.stream(name); err != nil {
			return err
		}
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	if !dry {
		if err := t.confirm("remove what every group has finished from " + strings.Join(streams, ", ") + "?"); err != nil {
			return err
		}
	}
	table := render.NewTable("STREAM", ">TRIMMED", "FLOOR", "HELD BY", ">FOR")
	var all []trimmed
	for _, name := range streams {
		var n int64
		var h redstream.Holder
		if dry {
			h, err = redis.Holder(ctx, name, top.Groups(name)...)
		} else {
			n, h, err = redis.Trim(ctx, name, top.Groups(name)...)
		}
		if err != nil {
			return fmt.Errorf("trim %s: %w", name, err)
		}
		holder := h.Group
		if h.Consumer != "" {
			holder += "/" + h.Consumer
		}
		if h.Age == 0 {
			holder = ""
		}
		table.Row(name, render.Count(n), h.Floor, holder, render.Age(h.Age))
		all = append(all, trimmed{name, n, h.Floor, h.Group, h.Consumer, h.Age.Seconds()})
	}
	if t.json {
		return t.dump(all)
	}
	return table.Write(t.out)
}
