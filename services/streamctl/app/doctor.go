package app

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
)

func (t *tool) doctorCmd() *cobra.Command {
	var during time.Duration
	var verbose bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong, what it means and what mends it",
		Long: "Doctor looks twice, some seconds apart, at Redis, the streams and PostgreSQL. Exit code 0: nothing\n" +
			"is wrong; 2: something is; 1: it could not look.",
		Example: "  streamctl doctor\n  streamctl doctor --for 30s --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.doctor(cmd.Context(), during, verbose) },
	}
	cmd.Flags().DurationVar(&during, "for", 5*time.Second, "time between the two looks")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the checks that found nothing too")
	return cmd
}

func (t *tool) doctor(ctx context.Context, during time.Duration, verbose bool) error {
	redis, err := t.client(ctx)
	if err != nil {
		if f, ok := doctor.Refusal(err); ok {
			return t.showFindings([]doctor.Finding{f}, verbose)
		}
		return err
	}
	camera := &status.Camera{Redis: redis, Topology: t.settings.topology()}
	first, err := camera.Take(ctx)
	if err != nil {
		return err
	}
	if err := fault.Sleep(ctx, during); err != nil {
		return err
	}
	last, err := camera.Take(ctx)
	if err != nil {
		return err
	}
	p, err := t.patient(ctx, redis, first, last)
	if err != nil {
		return err
	}
	return t.showFindings(doctor.Examine(p), verbose)
}

// patient gathers what the checks look at beside two pictures.
func (t *tool) patient(ctx context.Context, redis *redstream.Client, first, last *status.Picture) (*doctor.Patient, error) {
	p := &doctor.Patient{
		Topology: t.settings.topology(), First: first, Last: last, Marks: t.settings.marks(),
		Lanes: t.settings.IndexerLanes, Batch: t.settings.IndexerBatch, Pool: t.settings.PoolMax,
	}
	if err := t.examineStreams(ctx, redis, p); err != nil {
		return nil, err
	}
	t.examineDatabase(ctx, p)
	p.Versions = map[string][]string{}
	for _, target := range t.settings.MetricsTargets {
		name, addr := doctor.SplitTarget(target)
		if families, err := doctor.Scrape(ctx, addr); err == nil {
			v := doctor.VersionOf(families)
			p.Versions[v] = append(p.Versions[v], name)
		}
	}
	return p, nil
}

func (t *tool) examineStreams(ctx context.Context, redis *redstream.Client, p *doctor.Patient) error {
	p.Phantoms, p.EntryBytes, p.Reasons = map[string]int{}, map[string]int64{}, map[string]map[string]int64{}
	for _, s := range p.Last.Streams {
		for _, g := range s.Groups {
			n, err := redis.Phantoms(ctx, s.Name, g.Name)
			if err != nil {
				return err
			}
			p.Phantoms[s.Name+"/"+g.Name] = n
		}
		entries, err := redis.Newest(ctx, s.Name, 100)
		if err != nil {
			return err
		}
		p.EntryBytes[s.Name] = averageBytes(entries)
		if s.DeadLetters > 0 {
			if p.Reasons[s.Name], err = redis.DeadLetters(s.Name, p.Topology.Letters(s.Name)).Reasons(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// averageBytes estimates what an entry costs in Redis: its fields and about 30
// bytes of its node.
func averageBytes(entries []redstream.Entry) int64 {
	if len(entries) == 0 {
		return 0
	}
	total := 0
	for _, e := range entries {
		total += 30
		for _, f := range e.Fields {
			total += len(f.Name) + len(f.Value) + 4
		}
	}
	return int64(total / len(entries))
}

func (t *tool) examineDatabase(ctx context.Context, p *doctor.Patient) {
	db, err := t.database(ctx)
	if err == nil {
		srv, srvErr := db.Server(ctx)
		if err = srvErr; err == nil {
			p.Backlog, err = db.Backlog(ctx)
			p.Database = &srv
		}
	}
	if err != nil {
		p.Database, p.DatabaseError = nil, err.Error()
	}
}

func (t *tool) showFindings(found []doctor.Finding, verbose bool) error {
	worst := doctor.Worst(found)
	if t.json {
		if err := t.dump(map[string]any{"worst": worst, "findings": found}); err != nil {
			return err
		}
	} else {
		shown := 0
		for _, f := range found {
			if f.Level == doctor.OK && !verbose {
				continue
			}
			shown++
			t.say("%-4s %s: %s", f.Level, f.Check, f.What)
			if f.Means != "" {
				t.say("     means  %s", f.Means)
			}
			if f.Do != "" {
				t.say("     do     %s", f.Do)
			}
		}
		good := 0
		for _, f := range found {
			if f.Level == doctor.OK {
				good++
			}
		}
		if shown > 0 {
			t.say("")
		}
		t.say("%d checks are fine; the worst finding is: %s", good, worst)
	}
	if worst == doctor.Bad || worst == doctor.Warn {
		return errFound
	}
	return nil
}

func (t *tool) repairCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "repair", Short: "Mend what can be mended without losing an entry",
		Long: "Repair makes missing groups (at the start of their stream), forgets phantoms, removes the names of\n" +
			"dead consumers that hold nothing, and then trims. A dead consumer that holds entries stays: the\n" +
			"running members of its group take them over. It shows what it will do, and asks.",
		Example: "  streamctl repair --dry-run\n  streamctl repair",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.repair(cmd.Context(), dry) },
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	return cmd
}

type repaired struct {
	Stream string `json:"stream"`
	Group  string `json:"group,omitempty"`
	Action string `json:"action"`
}

func (t *tool) repair(ctx context.Context, dry bool) error {
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	camera := &status.Camera{Redis: redis, Topology: t.settings.topology()}
	p, err := camera.Take(ctx)
	if err != nil {
		return err
	}
	did, err := t.repairAll(ctx, redis, p, true)
	if err != nil {
		return err
	}
	if !dry && len(did) > 0 {
		if !t.yes {
			if err := repairTable(did).Write(t.err); err != nil {
				return err
			}
		}
		if err := t.confirm("do that?"); err != nil {
			return err
		}
		if did, err = t.repairAll(ctx, redis, p, false); err != nil {
			return err
		}
	}
	if t.json {
		return t.dump(did)
	}
	if len(did) == 0 {
		t.say("nothing to mend")
	}
	return repairTable(did).Write(t.out)
}

func repairTable(did []repaired) *render.Table {
	table := render.NewTable("STREAM", "GROUP", "ACTION")
	for _, r := range did {
		table.Row(r.Stream, r.Group, r.Action)
	}
	return table
}

func (t *tool) repairAll(ctx context.Context, redis *redstream.Client, p *status.Picture, dry bool) ([]repaired, error) {
	did := []repaired{}
	for _, s := range p.Streams {
		done, err := t.repairStream(ctx, redis, s, dry)
		did = append(did, done...)
		if err != nil {
			return did, err
		}
	}
	return did, nil
}

// janitorAge is how long a consumer must have been silent before its name goes.
const janitorAge = time.Minute

func (t *tool) repairStream(ctx context.Context, redis *redstream.Client, s status.Stream, dry bool) (did []repaired, err error) {
	there := map[string]bool{}
	for _, g := range s.Groups {
		there[g.Name] = true
		done, err := repairGroup(ctx, redis, s.Name, g, dry)
		did = append(did, done...)
		if err != nil {
			return did, err
		}
	}
	wanted := t.settings.topology().Groups(s.Name)
	for _, want := range wanted {
		if s.Added == 0 || there[want] {
			continue
		}
		if !dry {
			if err := redis.EnsureGroup(ctx, s.Name, want); err != nil {
				return did, err
			}
		}
		did = append(did, repaired{s.Name, want, "make the group"})
	}
	if dry || s.Length == 0 {
		return did, nil // trimming alone is done by the indexers, or by streamctl trim
	}
	n, _, err := redis.Trim(ctx, s.Name, wanted...)
	if n > 0 {
		did = append(did, repaired{s.Name, "", fmt.Sprintf("trim %d entries", n)})
	}
	return did, err
}

// repairGroup forgets phantoms and removes dead consumers that hold nothing.
func repairGroup(ctx context.Context, redis *redstream.Client, stream string, g status.Group, dry bool) (did []repaired, err error) {
	n, err := redis.Phantoms(ctx, stream, g.Name)
	if err != nil {
		return nil, err
	}
	if n > 0 && !dry {
		if n, err = redis.SweepPhantoms(ctx, stream, g.Name); err != nil {
			return nil, err
		}
	}
	if n > 0 {
		did = append(did, repaired{stream, g.Name, fmt.Sprintf("forget %d phantoms", n)})
	}
	var dead []string
	if !dry {
		if dead, err = redis.RemoveDead(ctx, stream, g.Name, janitorAge); err != nil {
			return did, err
		}
	} else {
		for _, c := range g.Consumers {
			if !c.Alive && c.Pending == 0 && c.Idle > janitorAge {
				dead = append(dead, c.Name)
			}
		}
	}
	for _, name := range dead {
		did = append(did, repaired{stream, g.Name, "remove dead consumer " + name})
	}
	return did, nil
}
