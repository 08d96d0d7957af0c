package app

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/lexicon"
	"sluice/services/streamctl/internal/audit"
	"sluice/services/streamctl/internal/jobs"
	"sluice/services/streamctl/internal/render"
)

// maxRepo bounds the archive of a repository that is compared.
const maxRepo = 4 << 30

func (t *tool) verifyRepoCmd() *cobra.Command {
	var repair bool
	var examples int
	cmd := &cobra.Command{
		Use: "repo <did | handle>", Short: "Compare our records of one account with its repository",
		Long: "Repo fetches the repository from the server that the DID document names, checks its hashes and its\n" +
			"signature, and compares each (uri, cid) with the table of records: missing is only there, extra only\n" +
			"here, different has another CID. Records that no AppView indexes, those against their lexicon, and\n" +
			"what came here after the repository was read do not count.\n\n" +
			"--repair puts a job on the stream of the backfill: the repository is fetched again, and what is\n" +
			"extra is deleted when its snapshot is in the tables. Exit code 0: the same, or a job was put; 2:\n" +
			"something differs; 1: it could not be compared.",
		Example: "  streamctl verify repo did:plc:ewvi7nxzyoun6zhxrhs64oiz\n  streamctl verify repo alice.example.com --repair\n  streamctl verify repo did:web:example.com --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.verifyRepo(cmd.Context(), args[0], repair, examples)
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "have the repository fetched again when something differs")
	cmd.Flags().IntVar(&examples, "examples", 10, "how many differences to show")
	return cmd
}

type repoReport struct {
	*audit.Report
	Repair bool `json:"repair_queued"`
}

func (t *tool) verifyRepo(ctx context.Context, name string, repair bool, examples int) error {
	if examples < 0 {
		return fmt.Errorf("--examples=%d: want 0 or more", examples)
	}
	r, err := t.auditRepo(ctx, name, examples)
	if err != nil {
		return err
	}
	out := repoReport{Report: r}
	if repair && r.Differs() {
		if err := t.refetch(ctx, r.DID); err != nil {
			return err
		}
		out.Repair = true
	}
	if t.json {
		err = t.dump(out)
	} else {
		err = t.showRepo(out)
	}
	if err == nil && r.Differs() && !repair {
		err = errFound
	}
	return err
}

func (t *tool) auditRepo(ctx context.Context, name string, examples int) (*audit.Report, error) {
	dir, err := t.directory(ctx)
	if err != nil {
		return nil, err
	}
	did, err := jobs.DID(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	db, err := t.database(ctx)
	if err != nil {
		return nil, err
	}
	who, err := dir.Refresh(ctx, did)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", did, err)
	}
	if who.PDS == "" {
		return nil, fmt.Errorf("%s: its DID document names no server", did)
	}
	client, err := atproto.NewHTTPClient(atproto.HTTPConfig{
		AllowPrivate: t.settings.PrivateNetwork, HeaderTimeout: time.Minute, MaxBody: maxRepo, UserAgent: "sluice-streamctl/" + t.version,
	})
	if err != nil {
		return nil, fmt.Errorf("ALLOW_PRIVATE_NETWORK: %w", err)
	}
	defer client.CloseIdleConnections()
	catalog, err := lexicon.New(lexicon.Options{LegacyBlobs: t.settings.LegacyBlobs})
	if err != nil {
		return nil, err
	}
	car, err := audit.Fetch(ctx, client, who.PDS, did)
	if err != nil {
		return nil, err
	}
	defer car.Close()
	tell, read := t.teller(), &counter{in: car}
	verifier := &atproto.Verifier{Keys: dir}
	var r *audit.Report
	err = tell.during(ctx, func(time.Duration) string { return render.Bytes(read.n.Load()) + " of the repository read" }, func(ctx context.Context) (err error) {
		r, err = audit.Compare(ctx, read, db, audit.Config{DID: did, Verify: verifier.Signature, Catalog: catalog, Examples: examples, MaxBytes: maxRepo})
		return err
	})
	if err != nil {
		return nil, err
	}
	account, err := db.Account(ctx, did)
	if err != nil {
		return nil, err
	}
	r.PDS, r.OurRev = who.PDS, account.Rev
	return r, nil
}

// refetch has a repository fetched again.
func (t *tool) refetch(ctx context.Context, did string) error {
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	a := &jobs.Adder{Stream: t.settings.Jobs, Encoding: event.Encoding(t.settings.Encoding)}
	if err := a.Open(redis, 0); err != nil {
		return err
	}
	defer a.Close()
	return a.Add(ctx, []jobs.Repo{{DID: did}})
}

func (t *tool) showRepo(r repoReport) error {
	t.say("repository  %s at rev %s, from %s", r.DID, r.Rev, r.PDS)
	t.say("our tables  at rev %s", orNone(r.OurRev))
	table := render.NewTable("RECORDS", ">COUNT", "")
	for _, row := range []struct {
		name string
		n    int64
		what string
	}{
		{"in the repository", r.Records, ""},
		{"same", r.Same, ""},
		{"missing", r.Missing, "there, and not here"},
		{"extra", r.Extra, "here, and not there"},
		{"different", r.Different, "another CID"},
		{"newer", r.Newer, "came here after the repository was read"},
		{"refused", r.Refused, "malformed or against their lexicon"},
		{"not indexed", r.Other, "of other collections"},
	} {
		table.Row(row.name, render.Count(row.n), row.what)
	}
	if err := table.Write(t.out); err != nil {
		return err
	}
	for _, d := range r.Examples {
		t.say("%s %s", d.Kind, d.URI)
	}
	if n := r.Missing + r.Extra + r.Different - int64(len(r.Examples)); n > 0 {
		t.say("and %s more (--examples)", render.Count(n))
	}
	switch {
	case r.Repair:
		t.say("a job was put on %s: the repository is fetched again", t.settings.Jobs)
	case r.Differs() && r.Behind():
		t.say("our tables are behind the repository: what differs may be under way (streamctl why %s)", r.DID)
	case r.Differs():
		t.say("to fetch it again: streamctl verify repo %s --repair", r.DID)
	default:
		t.say("every record agrees")
	}
	return nil
}

// counter counts what was read.
type counter struct {
	in io.Reader
	n  atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n.Add(int64(n))
	return n, err
}
