package app

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/fault"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
)

func (t *tool) backfillCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "backfill", Short: "Progress of the backfill; add repositories, retry, pause and resume it"}
	var hosts bool
	var length time.Duration
	st := &cobra.Command{
		Use: "status", Short: "How far the backfill is, how fast, and when it will be done", Args: cobra.NoArgs,
		Long: "Status counts repositories by their state and looks twice, --for apart, to tell the pace; 0 looks\n" +
			"once. Backfillers tell their totals every two seconds.",
		Example: "  streamctl backfill status\n  streamctl backfill status --hosts --for 30s\n  streamctl backfill status --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.backfillStatus(cmd.Context(), hosts, length) },
	}
	st.Flags().BoolVar(&hosts, "hosts", false, "by host too")
	st.Flags().DurationVar(&length, "for", 4*time.Second, "time between two looks")
	pause := func(use, short string, on bool) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs, Example: "  streamctl backfill " + use,
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

// backfillReport is the answer of status in JSON.
type backfillReport struct {
	*status.Backfill
	Pace *status.Pace `json:"pace,omitempty"`
}

func (t *tool) backfillStatus(ctx context.Context, hosts bool, length time.Duration) error {
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	camera := &status.Camera{Redis: redis, Topology: t.settings.topology()}
	look := func(hosts bool) (*status.Backfill, error) {
		p, err := camera.Take(ctx)
		if err != nil {
			return nil, err
		}
		return camera.Backfill(ctx, p, t.settings.BackfillMark, hosts)
	}
	var r backfillReport
	if length > 0 {
		before, err := look(false)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := fault.Sleep(ctx, length); err != nil {
			return err
		}
		if r.Backfill, err = look(hosts); err != nil {
			return err
		}
		pace := r.PaceSince(before, time.Since(start))
		r.Pace = &pace
	} else if r.Backfill, err = look(hosts); err != nil {
		return err
	}
	if t.json {
		return t.dump(r)
	}
	return t.showBackfill(&r)
}

func (t *tool) showBackfill(r *backfillReport) error {
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
	if r.Pace != nil {
		table.Row("repositories a second", render.Rate(r.Pace.Repos))
		table.Row("records a second", render.Rate(r.Pace.Records))
		table.Row("bytes a second", render.Bytes(int64(r.Pace.Bytes)))
		table.Row("time left", render.Age(time.Duration(max(r.Pace.Remaining, -1)*float64(time.Second))))
	}
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
