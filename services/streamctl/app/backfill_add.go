package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/spf13/cobra"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/services/streamctl/internal/jobs"
	"sluice/services/streamctl/internal/render"
)

const (
	// maxBadLines bounds the bad lines that are told of one by one, maxBadJSON
	// those in the JSON.
	maxBadLines = 20
	maxBadJSON  = 1000
)

type addOptions struct {
	file, host, collection string
	limit                  int64
	restart, skipDone      bool
}

func (t *tool) backfillAddCmd() *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use: "add [did | handle]...", Short: "Fetch repositories again, now",
		Long: "Add puts jobs with reason manual on the job stream: they come before listed ones and are done\n" +
			"although the repository may be known (--skip-done leaves those out). A handle counts when the\n" +
			"document of its DID names it in turn.\n\n" +
			"A file has one DID or handle a line; what follows a # is left out; lines that name nothing are\n" +
			"told with their number, the others are added, and the code is 2. Listings wait while the job\n" +
			"stream is at its mark, and keep their place: the same command goes on after an interruption.\n" +
			"A host without a scheme is asked over TLS.",
		Example: "  streamctl backfill add did:plc:ewvi7nxzyoun6zhxrhs64oiz alice.example.com\n" +
			"  streamctl backfill add --file dids.txt\n" +
			"  zcat dids.gz | streamctl backfill add --file -\n" +
			"  streamctl backfill add --host pds.example.com --skip-done\n" +
			"  streamctl backfill add --collection app.bsky.labeler.service --host relay1.us-west.bsky.network",
		RunE: func(cmd *cobra.Command, args []string) error { return t.backfillAdd(cmd.Context(), args, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "file", "", "file with one DID or handle a line; - is standard input")
	f.StringVar(&o.host, "host", "", "every repository that this host lists")
	f.StringVar(&o.collection, "collection", "", "with --host: only those with records of this collection, as a relay lists them")
	f.Int64Var(&o.limit, "limit", 10_000_000, "most repositories of a listing in one run")
	f.BoolVar(&o.restart, "restart", false, "read a listing from its start, not from where the last run stopped")
	f.BoolVar(&o.skipDone, "skip-done", false, "leave out what was emitted at the listed rev, or at any where none is listed")
	return cmd
}

func (o *addOptions) check(names int) error {
	given := 0
	for _, set := range []bool{names > 0, o.file != "", o.host != ""} {
		if set {
			given++
		}
	}
	switch {
	case o.collection != "" && o.host == "":
		return errors.New("--collection needs the --host of a relay that lists it")
	case given != 1:
		return errors.New("say which: DIDs or handles, a --file of them, or a --host")
	case o.limit < 1:
		return fmt.Errorf("--limit=%d: want at least 1", o.limit)
	}
	if o.collection != "" {
		if _, err := syntax.ParseNSID(o.collection); err != nil {
			return fmt.Errorf("--collection=%s: %w", o.collection, err)
		}
	}
	return nil
}

// addReport is the answer of a run in JSON.
type addReport struct {
	Added    int64          `json:"added"`
	Known    int64          `json:"skipped_done"`
	Inactive int64          `json:"skipped_inactive"`
	Bad      int64          `json:"bad"`
	BadLines []jobs.BadLine `json:"bad_lines,omitempty"`
	// Resumed and End are those of a listing.
	Resumed bool `json:"resumed,omitempty"`
	End     bool `json:"end"`
}

func (t *tool) backfillAdd(ctx context.Context, names []string, o addOptions) error {
	if err := o.check(len(names)); err != nil {
		return err
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	mark := t.settings.marks()[t.settings.Jobs]
	if len(names) > 0 {
		mark = 0 // a few need not wait for many
	}
	a := &jobs.Adder{
		Stream: t.settings.Jobs, Encoding: event.Encoding(t.settings.Encoding), SkipDone: o.skipDone, Counts: new(jobs.Counts),
	}
	if err := a.Open(redis, mark); err != nil {
		return err
	}
	defer a.Close()
	tell := t.teller()
	var r addReport
	err = tell.during(ctx, func(took time.Duration) string { return addProgress(a, took) }, func(ctx context.Context) error {
		switch {
		case o.file != "":
			return t.addFile(ctx, a, o.file, &r, tell)
		case o.host != "":
			return t.addListing(ctx, a, o, &r)
		}
		return t.addNames(ctx, a, names, &r)
	})
	r.Added, r.Known, r.Inactive, r.Bad = a.Counts.Added.Load(), a.Counts.Known.Load(), a.Counts.Inactive.Load(), a.Counts.Bad.Load()
	if err != nil {
		return t.addFailed(ctx, &r, o, err)
	}
	return t.showAdded(&r, o)
}

func addProgress(a *jobs.Adder, took time.Duration) string {
	c := a.Counts
	text := fmt.Sprintf("%s looked at, %s added (%s)", render.Count(c.Seen.Load()), render.Count(c.Added.Load()),
		render.Rate(float64(c.Added.Load())/took.Seconds()))
	if a.Waiting() {
		text += ", waiting: the job stream is at its mark"
	}
	return text
}

// addNames adds all that are named, or none.
func (t *tool) addNames(ctx context.Context, a *jobs.Adder, names []string, r *addReport) error {
	dids, err := t.dids(ctx, names)
	if err != nil {
		return err
	}
	repos := make([]jobs.Repo, len(dids))
	for i, did := range dids {
		repos[i].DID = did
	}
	r.End = true
	return a.Add(ctx, repos)
}

// dids looks up DIDs and handles.
func (t *tool) dids(ctx context.Context, names []string) ([]string, error) {
	dir, err := t.directory(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(names))
	for i, name := range names {
		if out[i], err = jobs.DID(ctx, dir, name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *tool) addFile(ctx context.Context, a *jobs.Adder, path string, r *addReport, tell *teller) error {
	in, err := t.input(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	dir, err := t.directory(ctx)
	if err != nil {
		return err
	}
	told := 0
	err = a.AddLines(ctx, in, dir, func(b jobs.BadLine) {
		if told++; told <= maxBadLines {
			tell.line("%s:%d: %s", path, b.Line, b.Error)
		}
		if told <= maxBadJSON {
			r.BadLines = append(r.BadLines, b)
		}
	})
	if told > maxBadLines {
		tell.line("%s: %s bad lines more", path, render.Count(int64(told-maxBadLines)))
	}
	r.End = err == nil
	return err
}

// input opens a file; - is standard input.
func (t *tool) input(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(t.in), nil
	}
	return os.Open(path)
}

func (t *tool) addListing(ctx context.Context, a *jobs.Adder, o addOptions, r *addReport) error {
	base, err := jobs.HostURL(o.host)
	if err != nil {
		return err
	}
	client, err := jobs.NewListClient("sluice-streamctl/" + t.version)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	list := &atproto.Listing{Client: client, Host: base, Collection: o.collection}
	done, err := a.AddListing(ctx, list, o.limit, o.restart)
	r.Resumed, r.End = done.Resumed, done.End
	return err
}

func (t *tool) addFailed(ctx context.Context, r *addReport, o addOptions, err error) error {
	if r.Added == 0 {
		return err
	}
	again := ""
	if o.host != "" {
		again = "; the same command goes on from here"
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return fmt.Errorf("%w after %s jobs were added%s", err, render.Count(r.Added), again)
}

func (t *tool) showAdded(r *addReport, o addOptions) error {
	if t.json {
		if err := t.dump(r); err != nil {
			return err
		}
	}
	t.say("added %s jobs to %s", render.Count(r.Added), t.settings.Jobs)
	for _, x := range []struct {
		n    int64
		what string
	}{
		{r.Known, "left out: emitted already"}, {r.Inactive, "left out: not active on that host"}, {r.Bad, "could not be read"},
	} {
		if x.n > 0 {
			t.say("%s %s", render.Count(x.n), x.what)
		}
	}
	if r.Resumed {
		t.say("the listing was read on from where the last run stopped (--restart begins anew)")
	}
	if o.host != "" && !r.End {
		t.say("the listing goes on: the same command continues it")
	}
	if o.file != "" && r.Bad > 0 {
		return errFound
	}
	return nil
}
