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

	"sluice/pkg/event"
	"sluice/services/streamctl/internal/jobs"
	"sluice/services/streamctl/internal/render"
)

type retryOptions struct {
	which             jobs.Which
	all, gone, dryRun bool
}

func (t *tool) backfillRetryCmd() *cobra.Command {
	var o retryOptions
	cmd := &cobra.Command{
		Use: "retry [did | handle]...", Short: "Try failed repositories again",
		Long: "Retry puts jobs that were given up back on the job stream, with all their attempts before them.\n" +
			"The reason is that of the failure (body_cut, signature_invalid, ...) or that in the dead letters\n" +
			"(retries_exhausted, poison); several conditions must all agree. --gone takes the repositories\n" +
			"instead that the ledger has as gone: said so by their host or the directory, or at an address\n" +
			"that was refused.",
		Example: "  streamctl backfill retry --all --yes\n" +
			"  streamctl backfill retry --reason signature_invalid --dry-run\n" +
			"  streamctl backfill retry --host pds.example.com\n" +
			"  streamctl backfill retry --error 'connection reset'\n" +
			"  streamctl backfill retry --gone --reason address_refused\n" +
			"  streamctl backfill retry did:plc:ewvi7nxzyoun6zhxrhs64oiz",
		RunE: func(cmd *cobra.Command, args []string) error { return t.backfillRetry(cmd.Context(), args, o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.all, "all", false, "all that have failed")
	f.StringVar(&o.which.Reason, "reason", "", "those that failed for this reason")
	f.StringVar(&o.which.Error, "error", "", "those with this text in the error")
	f.StringVar(&o.which.Host, "host", "", "those of this host, by their DID document, or listed by it")
	f.BoolVar(&o.gone, "gone", false, "those that are recorded as gone, in place of those given up")
	f.BoolVar(&o.dryRun, "dry-run", false, "only count them, by reason")
	return cmd
}

// retryReport is the answer in JSON.
type retryReport struct {
	Matched  int64            `json:"matched"`
	ByReason map[string]int64 `json:"by_reason"`
	Retried  int64            `json:"retried"`
}

func (t *tool) backfillRetry(ctx context.Context, names []string, o retryOptions) error {
	some := len(names) > 0 || o.which.Reason != "" || o.which.Error != "" || o.which.Host != ""
	switch {
	case some == o.all:
		return errors.New("say which: DIDs or handles, --reason, --error, --host, or --all")
	case o.gone && o.which.Error != "":
		return errors.New("--gone: the ledger has no error texts; say the --reason")
	}
	var err error
	if len(names) > 0 {
		if o.which.DIDs, err = t.dids(ctx, names); err != nil {
			return err
		}
	}
	if o.which.Host != "" {
		base, err := jobs.HostURL(o.which.Host)
		if err != nil {
			return err
		}
		_, o.which.Host, _ = strings.Cut(base, "://")
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	dir, err := t.directory(ctx)
	if err != nil {
		return err
	}
	r := &jobs.Retrier{
		Redis: redis, Stream: t.settings.Jobs, DeadLetters: t.settings.DeadLetters, Directory: dir, Counts: new(jobs.Counts),
	}
	return t.retry(ctx, r, &o)
}

func (t *tool) retry(ctx context.Context, r *jobs.Retrier, o *retryOptions) error {
	report := retryReport{ByReason: map[string]int64{}}
	progress := func(time.Duration) string {
		return fmt.Sprintf("%s looked at, %s put back", render.Count(r.Counts.Seen.Load()), render.Count(r.Counts.Added.Load()))
	}
	var found []jobs.Failed
	tell := t.teller()
	err := tell.during(ctx, progress, func(ctx context.Context) (err error) {
		if !o.gone {
			found, err = r.Failed(ctx, &o.which)
			return err
		}
		return r.Gone(ctx, &o.which, func(f jobs.Failed) error { found = append(found, f); return nil })
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		report.ByReason[f.Reason]++
	}
	report.Matched = int64(len(found))
	if report.Matched == 0 || o.dryRun {
		return t.showRetried(&report, o)
	}
	if len(o.which.DIDs) == 0 {
		if err := t.confirm(fmt.Sprintf("try %s repositories again?", render.Count(report.Matched))); err != nil {
			return err
		}
	}
	err = tell.during(ctx, progress, func(ctx context.Context) error {
		if o.gone {
			return t.addGone(ctx, r, found)
		}
		return r.Redrive(ctx, found)
	})
	report.Retried = r.Counts.Added.Load()
	if err != nil {
		return fmt.Errorf("%s put back, then: %w", render.Count(report.Retried), err)
	}
	return t.showRetried(&report, o)
}

// addGone makes new jobs: those of repositories that are gone were
// acknowledged.
func (t *tool) addGone(ctx context.Context, r *jobs.Retrier, found []jobs.Failed) error {
	a := &jobs.Adder{Stream: t.settings.Jobs, Encoding: event.Encoding(t.settings.Encoding), Counts: r.Counts}
	if err := a.Open(r.Redis, t.settings.marks()[t.settings.Jobs]); err != nil {
		return err
	}
	defer a.Close()
	repos := make([]jobs.Repo, len(found))
	for i, f := range found {
		repos[i].DID = f.DID
	}
	return a.Add(ctx, repos)
}

func (t *tool) showRetried(r *retryReport, o *retryOptions) error {
	if t.json {
		return t.dump(r)
	}
	if r.Matched == 0 {
		t.say("nothing to retry")
		if len(o.which.DIDs) > 0 && !o.gone {
			t.say("streamctl backfill add fetches a repository whatever its state; streamctl why tells it")
		}
		return nil
	}
	table := render.NewTable("REASON", ">REPOSITORIES")
	for _, reason := range slices.Sorted(maps.Keys(r.ByReason)) {
		table.Row(reason, render.Count(r.ByReason[reason]))
	}
	if err := table.Write(t.out); err != nil {
		return err
	}
	if !o.dryRun {
		t.say("put back: %s", render.Count(r.Retried))
	}
	return nil
}
