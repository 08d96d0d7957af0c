package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/atproto"
	"sluice/services/streamctl/internal/plc"
	"sluice/services/streamctl/internal/render"
)

func (t *tool) identityCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "identity", Short: "The cache of identities that the services share"}
	var after string
	imp := &cobra.Command{
		Use: "import <file | - | address>", Short: "Fill the cache from an export of the PLC directory",
		Long: "Import stores keys, servers and handles, so that ingesters and backfillers need not ask the PLC\n" +
			"directory for them. An export has one operation a line, as JSON, plain or gzipped. Of a DID the\n" +
			"latest operation counts, whatever the order of the lines; what is newer in the cache stays, so\n" +
			"that an export may be imported again, or a later one on top.\n\n" +
			"An address that ends in /export is read page by page, from --after on; it is slow: 1,000\n" +
			"operations a request, and the public directory limits requests.\n\n" +
			"The cache holds IDENTITY_CACHE_SHARED identities (the same value for all programs); of more,\n" +
			"some are forgotten at random. They are taken for fresh for INGESTER_IDENTITY_TTL_SECS and\n" +
			"BACKFILLER_IDENTITY_TTL_SECS. Lines that cannot be read are told with their number, and the code\n" +
			"is 2.",
		Example: "  streamctl identity import plc-export.jsonl.gz\n" +
			"  zstdcat plc.jsonl.zst | streamctl identity import -\n" +
			"  streamctl identity import https://plc.directory/export --after 2026-01-01T00:00:00Z",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return t.identityImport(cmd.Context(), args[0], after) },
	}
	imp.Flags().StringVar(&after, "after", "", "of an export endpoint: only operations after this time (RFC 3339)")
	cmd.AddCommand(imp)
	return cmd
}

// badOperation is a line that could not be read.
type badOperation struct {
	Line  int64  `json:"line"`
	Error string `json:"error"`
}

// importReport is the answer in JSON.
type importReport struct {
	Lines     int64          `json:"lines"`
	Stored    int64          `json:"stored"`
	Nullified int64          `json:"nullified"`
	Bad       int64          `json:"bad"`
	BadLines  []badOperation `json:"bad_lines,omitempty"`
	Last      string         `json:"last_operation,omitempty"`
}

func (t *tool) identityImport(ctx context.Context, from, after string) error {
	var since time.Time
	if after != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, after); err != nil {
			return fmt.Errorf("--after=%s: want a time like 2026-01-01T00:00:00Z", after)
		}
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	var r importReport
	tell := t.teller()
	im := &plc.Importer{Cache: redis.NewCache(identityCache, t.settings.Identities), Counts: new(plc.Counts)}
	im.Bad = func(line int64, err error) {
		switch n := im.Counts.Bad.Load(); {
		case n <= maxBadLines:
			tell.line("%s:%d: %s", from, line, err)
		case n == maxBadLines+1:
			tell.line("%s: there are more bad lines", from)
		}
		if len(r.BadLines) < maxBadJSON {
			r.BadLines = append(r.BadLines, badOperation{line, err.Error()})
		}
	}
	err = tell.during(ctx, func(took time.Duration) string { return importProgress(im.Counts, took) },
		func(ctx context.Context) error { return t.importFrom(ctx, im, from, since) })
	c := im.Counts
	r.Lines, r.Stored, r.Nullified, r.Bad = c.Lines.Load(), c.Stored.Load(), c.Nullified.Load(), c.Bad.Load()
	if last := c.LastTime(); !last.IsZero() {
		r.Last = last.Format("2006-01-02T15:04:05.000Z")
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return fmt.Errorf("%w after %s lines, the last operation of %s", err, render.Count(r.Lines), orNone(r.Last))
	}
	return t.showImported(&r)
}

func importProgress(c *plc.Counts, took time.Duration) string {
	text := fmt.Sprintf("%s operations read, %s identities stored (%s)", render.Count(c.Lines.Load()), render.Count(c.Stored.Load()),
		render.Rate(float64(c.Lines.Load())/took.Seconds()))
	if last := c.LastTime(); !last.IsZero() {
		text += ", at " + last.Format(time.DateTime)
	}
	return text
}

func (t *tool) importFrom(ctx context.Context, im *plc.Importer, from string, after time.Time) error {
	if strings.Contains(from, "://") {
		client, err := atproto.NewHTTPClient(atproto.HTTPConfig{Trusted: true, HeaderTimeout: time.Minute, UserAgent: "sluice-streamctl/" + t.version})
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		return im.Remote(ctx, client, from, after)
	}
	if !after.IsZero() {
		return errors.New("--after is for an export endpoint only")
	}
	in, err := t.input(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	return im.Read(ctx, in)
}

func (t *tool) showImported(r *importReport) error {
	if t.json {
		if err := t.dump(r); err != nil {
			return err
		}
	}
	t.say("%s operations read, %s identities stored", render.Count(r.Lines), render.Count(r.Stored))
	if r.Nullified > 0 {
		t.say("%s operations were undone later", render.Count(r.Nullified))
	}
	if r.Last != "" {
		t.say("the last operation is of %s", r.Last)
	}
	if r.Stored > int64(t.settings.Identities) {
		t.say("the cache holds %s (IDENTITY_CACHE_SHARED): if there were more DIDs, some are forgotten", render.Count(int64(t.settings.Identities)))
	}
	if r.Bad > 0 {
		t.say("%s lines could not be read", render.Count(r.Bad))
		return errFound
	}
	return nil
}
