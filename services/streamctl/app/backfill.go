package app

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
)

func (t *tool) backfillCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "backfill", Short: "Progress of the backfill; add repositories, pause and resume it"}
	var file string
	var hosts bool
	add := &cobra.Command{
		Use: "add <did...>", Short: "Fetch repositories again, now",
		Long:    "Add puts jobs with reason manual on the job stream; they are not skipped as known and come before listed ones.",
		Example: "  streamctl backfill add did:plc:ewvi7nxzyoun6zhxrhs64oiz\n  streamctl backfill add --file dids.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.backfillAdd(cmd.Context(), args, file)
		},
	}
	add.Flags().StringVar(&file, "file", "", "file with one DID a line")
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
	cmd.AddCommand(st, add, pause("pause", "Start no further repository until resume", true), pause("resume", "Go on", false))
	return cmd
}

func (t *tool) backfillAdd(ctx context.Context, dids []string, file string) error {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		dids = append(dids, strings.Fields(string(text))...)
	}
	if len(dids) == 0 {
		return fmt.Errorf("name at least one DID, or a --file of them")
	}
	for _, d := range dids {
		if !strings.HasPrefix(d, "did:plc:") && !strings.HasPrefix(d, "did:web:") {
			return fmt.Errorf("%q is not a DID: want did:plc:NAME or did:web:HOST", d)
		}
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	w, err := redis.NewWriter(redstream.WriterConfig{Stream: t.settings.Jobs})
	if err != nil {
		return err
	}
	defer w.Close()
	for chunk := range slices.Chunk(dids, 500) {
		items := make([]redstream.Item, 0, len(chunk))
		for _, d := range chunk {
			name, value, err := event.Encoding(t.settings.Encoding).Job(&event.RepoJob{DID: d, Active: true, Reason: event.ReasonManual, Priority: 1})
			if err != nil {
				return err
			}
			items = append(items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
		}
		if err := w.Append(ctx, items); err != nil {
			return err
		}
	}
	if t.json {
		return t.dump(map[string]int{"added": len(dids)})
	}
	t.say("added %d jobs to %s", len(dids), t.settings.Jobs)
	return nil
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
