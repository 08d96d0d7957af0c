package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/fault"
	"sluice/services/streamctl/internal/oracle"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
	"sluice/services/streamctl/internal/store"
)

type statusOptions struct {
	watch   bool
	every   time.Duration
	wait    bool
	timeout time.Duration
	summary bool
	oracle  string
	cursors bool
}

func (t *tool) statusCmd() *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Streams, groups, consumers, lag, rates and the time until they are empty",
		Long: "Status takes two pictures a second apart, for the rates. lag is what no member of the group\n" +
			"has been given yet, pending what was given and is not finished; the floor is the oldest entry\n" +
			"that somebody still needs, and who that is.",
		Example: "  streamctl status\n  streamctl status --watch\n  streamctl status --json | jq '.streams[].lag'\n" +
			"  streamctl status --wait --timeout 10m && echo drained",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.status(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.watch, "watch", "w", false, "look again and again")
	f.DurationVar(&o.every, "every", time.Second, "time between two looks")
	f.BoolVar(&o.wait, "wait", false, "wait until everything is drained; exit code 1 after --timeout")
	f.DurationVar(&o.timeout, "timeout", 15*time.Minute, "how long --wait waits")
	f.BoolVar(&o.summary, "summary", false, "print what came of it: totals, rows by table, streams, lag")
	f.StringVar(&o.oracle, "oracle", "", "URL of a simulated network: wait for its end, compare the rows with its truth")
	f.BoolVar(&o.cursors, "cursors", false, "show the cursors too (scans the keys of Redis)")
	return cmd
}

func (t *tool) status(ctx context.Context, o statusOptions) error {
	if o.every <= 0 {
		return fmt.Errorf("--every=%s: want more than 0", o.every)
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	camera := &status.Camera{Redis: redis, Topology: t.settings.topology(), Cursors: o.cursors}
	if o.wait {
		if err := t.waitDrained(ctx, camera, o); err != nil {
			return err
		}
	}
	if o.summary {
		return t.summary(ctx, camera, o)
	}
	if _, err := camera.Take(ctx); err != nil {
		return err
	}
	for {
		if err := fault.Sleep(ctx, o.every); err != nil {
			if o.watch {
				return nil
			}
			return err
		}
		p, err := camera.Take(ctx)
		if err != nil {
			return err
		}
		if o.watch && !t.json {
			_, _ = fmt.Fprint(t.out, "\x1b[H\x1b[2J")
		}
		if err := t.showPicture(p); err != nil || !o.watch {
			return err
		}
	}
}

func (t *tool) showPicture(p *status.Picture) error {
	if t.json {
		return t.dump(p)
	}
	t.say("%s  redis %s, memory %s of %s", p.At.Format("2006-01-02 15:04:05"), p.Server.Version, render.Bytes(p.Server.UsedMemory), limit(p.Server.MaxMemory))
	t.say("")
	streams := render.NewTable("STREAM", ">LENGTH", ">LAG", ">PENDING", ">OLDEST", ">IN", ">OUT", ">EMPTY IN", ">DLQ")
	for _, s := range p.Streams {
		empty := "never"
		switch {
		case s.Remaining == 0:
			empty = "-"
		case s.Remaining > 0:
			empty = render.Age(s.Remaining)
		case s.In < 0:
			empty = "?"
		}
		streams.Row(s.Name, render.Count(s.Length), render.Count(s.Lag), render.Count(s.Pending), render.Age(s.OldestPending),
			render.Rate(s.In), render.Rate(s.Out), empty, render.Count(s.DeadLetters))
	}
	if err := streams.Write(t.out); err != nil {
		return err
	}
	for _, s := range p.Streams {
		h := s.Holder
		if h.Group != "" && h.Age > time.Second {
			who := h.Group + ", not read yet"
			if h.Consumer != "" {
				who = h.Group + "/" + h.Consumer
			}
			t.say("floor of %s held for %s by %s", s.Name, render.Age(h.Age), who)
		}
	}
	t.say("")
	consumers := render.NewTable("CONSUMER", "STATE", ">PENDING", ">LAST READ", "STREAMS")
	for _, c := range p.Consumers() {
		state, asked := "dead", "-"
		if c.Alive {
			state, asked = "alive", render.Age(c.Asked)
		}
		consumers.Row(c.Name, state, render.Count(c.Pending), asked, render.Clip(strings.Join(c.Streams, ","), 40))
	}
	if err := consumers.Write(t.out); err != nil {
		return err
	}
	if consumers.Len() == 0 {
		t.say("no consumers")
	}
	return t.showCursors(p)
}

func (t *tool) showCursors(p *status.Picture) error {
	cursors := render.NewTable("CURSOR OF", "HOST", "VALUE")
	for _, s := range p.Streams {
		for host, v := range p.Cursors[s.Name] {
			cursors.Row(s.Name, host, render.Clip(v, 40))
		}
	}
	if cursors.Len() > 0 {
		t.say("")
	}
	return cursors.Write(t.out)
}

func limit(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return render.Bytes(n)
}

// waitDrained polls until every stream is empty, the database has no backlog
// and, with an oracle, everything it has was taken in.
func (t *tool) waitDrained(ctx context.Context, camera *status.Camera, o statusOptions) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	watch := *camera
	watch.Cursors = true
	calm, last := 0, ""
	for {
		missing, err := t.undrained(ctx, &watch, o)
		switch {
		case err != nil && ctx.Err() == nil:
			missing = []string{err.Error()}
		case err == nil && len(missing) == 0:
			if calm++; calm == 3 {
				return nil
			}
		}
		if len(missing) > 0 {
			calm, last = 0, strings.Join(missing, ", ")
		}
		if fault.Sleep(ctx, o.every) != nil {
			if last == "" {
				return errors.New("interrupted")
			}
			return fmt.Errorf("not drained after %s: %s", o.timeout, last)
		}
	}
}

func (t *tool) undrained(ctx context.Context, camera *status.Camera, o statusOptions) ([]string, error) {
	p, err := camera.Take(ctx)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, s := range p.Streams {
		if !s.Drained() {
			missing = append(missing, fmt.Sprintf("%s has %d entries, %d pending", s.Name, s.Length, s.Pending))
		}
	}
	if p.Delayed > 0 {
		missing = append(missing, fmt.Sprintf("%d jobs come later", p.Delayed))
	}
	db, err := t.database(ctx)
	if err != nil {
		return nil, err
	}
	b, err := db.Backlog(ctx)
	if err != nil {
		return nil, err
	}
	if !b.Empty() {
		missing = append(missing, fmt.Sprintf("%d count changes, %d rechecks and %d handles wait in the database", b.CountDeltas, b.Rechecks, b.Handles))
	}
	if o.oracle == "" {
		return missing, nil
	}
	truth, err := oracle.New(o.oracle).Status(ctx)
	if err != nil {
		return nil, err
	}
	return append(missing, t.behindOracle(p, truth)...), nil
}

// behindOracle says what of the simulated network was not taken in yet.
func (t *tool) behindOracle(p *status.Picture, truth oracle.Status) []string {
	var missing []string
	if !truth.Done {
		missing = append(missing, "the simulated network goes on")
	}
	top := t.settings.topology()
	if at := highest(p.Cursors[top.Live]); at < truth.LastSeq {
		missing = append(missing, fmt.Sprintf("the relay is read up to %d of %d", at, truth.LastSeq))
	}
	if at := highest(p.Cursors[top.Labels]); at < truth.Labels {
		missing = append(missing, fmt.Sprintf("labels are read up to %d of %d", at, truth.Labels))
	}
	enumerated := false
	for _, v := range p.Cursors[top.Jobs] {
		enumerated = enumerated || v == "!ingester-done"
	}
	if !enumerated {
		missing = append(missing, "the repositories are not listed to the end")
	}
	return missing
}

func highest(cursors map[string]string) int64 {
	top := int64(0)
	for _, v := range cursors {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			top = max(top, n)
		}
	}
	return top
}

// Summary is what came of a run.
type Summary struct {
	Events      int64               `json:"events_ingested"`
	Labels      int64               `json:"labels_ingested"`
	Jobs        int64               `json:"repo_jobs"`
	Repos       map[string]int64    `json:"backfill"`
	Backfilled  int64               `json:"events_backfilled"`
	Trimmed     int64               `json:"entries_trimmed"`
	Left        map[string]int64    `json:"streams_now"`
	Lag         map[string]int64    `json:"lag"`
	DeadLetters int64               `json:"dead_letters"`
	Rows        map[string]int64    `json:"rows"`
	Truth       map[string]int64    `json:"truth,omitempty"`
	Wrong       []oracle.Difference `json:"differences,omitempty"`
	Backlog     store.Backlog       `json:"database_backlog"`
}

func (t *tool) summary(ctx context.Context, camera *status.Camera, o statusOptions) error {
	p, err := camera.Take(ctx)
	if err != nil {
		return err
	}
	db, err := t.database(ctx)
	if err != nil {
		return err
	}
	top := t.settings.topology()
	s := Summary{
		Events: p.Find(top.Live).Added, Labels: p.Find(top.Labels).Added, Jobs: p.Find(top.Jobs).Added,
		Backfilled: p.Find(top.Backfill).Added, Repos: p.Repos, Left: map[string]int64{}, Lag: map[string]int64{},
	}
	for _, st := range p.Streams {
		s.Trimmed += st.Removed()
		s.Left[st.Name], s.Lag[st.Name] = st.Length, st.Lag
		s.DeadLetters += st.DeadLetters
	}
	if s.Rows, err = db.Rows(ctx, true); err != nil {
		return err
	}
	if s.Backlog, err = db.Backlog(ctx); err != nil {
		return err
	}
	if o.oracle != "" {
		if s.Truth, err = oracle.New(o.oracle).Counts(ctx); err != nil {
			return err
		}
		s.Wrong = oracle.Compare(s.Rows, s.Truth)
	}
	if t.json {
		err = t.dump(s)
	} else {
		err = t.showSummary(s)
	}
	if err == nil && len(s.Wrong) > 0 {
		err = errFound
	}
	return err
}

func (t *tool) showSummary(s Summary) error {
	totals := render.NewTable("TOTAL", ">ENTRIES")
	totals.Row("events from relays", render.Count(s.Events))
	totals.Row("labels", render.Count(s.Labels))
	totals.Row("repositories listed", render.Count(s.Jobs))
	totals.Row("repositories backfilled", render.Count(s.Repos["repos"]))
	totals.Row("repositories gone or failed", render.Count(s.Repos["gone"]+s.Repos["failed"]))
	totals.Row("events from the backfill", render.Count(s.Backfilled))
	totals.Row("entries trimmed", render.Count(s.Trimmed))
	totals.Row("dead letters", render.Count(s.DeadLetters))
	if err := totals.Write(t.out); err != nil {
		return err
	}
	t.say("")
	streams := render.NewTable("STREAM", ">NOW", ">LAG")
	for _, name := range t.settings.topology().Streams() {
		streams.Row(name, render.Count(s.Left[name]), render.Count(s.Lag[name]))
	}
	if err := streams.Write(t.out); err != nil {
		return err
	}
	t.say("")
	rows := render.NewTable("TABLE", ">ROWS", ">TRUTH", "")
	for _, name := range store.Tables() {
		n, there := s.Rows[name]
		if !there {
			continue
		}
		truth, verdict := "", ""
		if want, known := s.Truth[name]; known {
			if truth, verdict = render.Count(want), "ok"; want != n {
				verdict = "DIFFERS"
			}
		}
		rows.Row(name, render.Count(n), truth, verdict)
	}
	if err := rows.Write(t.out); err != nil {
		return err
	}
	if len(s.Truth) > 0 {
		t.say("")
		if len(s.Wrong) == 0 {
			t.say("all %d tables agree with the truth of the simulated network", len(s.Truth))
		} else {
			t.say("%d of %d tables differ from the truth of the simulated network", len(s.Wrong), len(s.Truth))
		}
	}
	return nil
}
