package app

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
)

func (t *tool) backfillCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "backfill", Short: "Progress of the backfill; add repositories, retry, pause and resume it"}
	var hosts bool
	st := &cobra.Command{
		Use: "status", Short: "How far the backfill is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.backfillStatus(cmd.Context(), hosts) },
	}
	st.Flags().BoolVar(&hosts, "hosts", false, "by host too")
	pause := func(use, short string, on bool) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return t.backfillPause(cmd.Context(), on) },
		}
	}
	cmd.AddCommand(st, t.backfillAddCmd(), t.backfillRetryCmd(), pause("pause", "Start no further repository until resume", true), pause("resume", "Go on", false))
	return cmd
}

func (t *tool) backfillPause(ctx context.Context, on bool) error {
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	if err := redis.SetFlag(ctx, t.settings.Jobs, status.PausedKey, on); err != nil {
		return err
	}
	if t.json {
		return t.dump(map[string]bool{"paused": on})
	}
	if on {
		t.say("paused: repositories in flight are finished, no other is started")
	} else {
		t.say("the backfill goes on")
	}
	return nil
}

func (t *tool) backfillStatus(ctx context.Context, hosts bool) error {
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	camera := &status.Camera{Redis: redis, Topology: t.settings.topology()}
	p, err := camera.Take(ctx)
	if err != nil {
		return err
	}
	b, err := camera.Backfill(ctx, p, t.settings.BackfillMark, hosts)
	if err != nil {
		return err
	}
	if t.json {
		return t.dump(b)
	}
	return t.showBackfill(b)
}

func (t *tool) showBackfill(r *status.Backfill) error {
	if r.Paused {
		t.say("PAUSED (streamctl backfill resume)")
	}
	table := render.NewTable("BACKFILL", ">")
	table.Row("jobs left", render.Count(r.Jobs))
	table.Row("jobs put off", render.Count(r.Delayed))
	for _, k := range slices.Sorted(maps.Keys(r.States)) {
		table.Row("repositories "+k, render.Count(r.States[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Totals)) {
		table.Row("total "+k, render.Count(r.Totals[k]))
	}
	table.Row("output stream", render.Count(r.Output)+" of "+render.Count(r.Mark))
	if err := table.Write(t.out); err != nil {
		return err
	}
	byHost := render.NewTable("HOST", "WHAT", ">REPOSITORIES")
	for _, k := range slices.Sorted(maps.Keys(r.Hosts)) {
		host, what, _ := strings.Cut(k, " ")
		byHost.Row(render.Clip(host, 50), what, render.Count(r.Hosts[k]))
	}
	if byHost.Len() > 0 {
		t.say("")
	}
	return byHost.Write(t.out)
}
