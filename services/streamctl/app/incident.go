package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"sluice/pkg/redstream/incident"
)

func (t *tool) incidentCmd() *cobra.Command {
	var entries int
	var verbose bool
	cmd := &cobra.Command{
		Use: "incident", Short: "Replay the trimming incident with the rules of that time and with ours",
		Long: "Incident plays the incident of October 2025 on REDIS_URL: consumers that stay in their history,\n" +
			"crashed consumers, phantoms, streams that do not shrink, consumers deleted by hand; once with the\n" +
			"rules of that time, once with ours. Its keys begin with STREAM_KEY_PREFIX and \"incident:\"; they are\n" +
			"deleted before and after, others are not touched. Exit code 2: ours lose something or miss a\n" +
			"criterion. Better on a Redis that serves nobody else.",
		Example: "  streamctl incident --redis-url redis://localhost:6390\n  streamctl incident --entries 20000 --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.incident(cmd.Context(), entries, verbose) },
	}
	cmd.Flags().IntVar(&entries, "entries", 6000, "entries of each of the two streams")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the log of our side")
	return cmd
}

// minIncident is the least number of entries with which everything happens:
// with fewer some consumer gets none.
const minIncident = 3000

func (t *tool) incident(ctx context.Context, entries int, verbose bool) error {
	if entries < minIncident {
		return fmt.Errorf("--entries=%d: want %d or more", entries, minIncident)
	}
	prefix := t.settings.KeyPrefix + "incident:"
	if _, err := t.client(ctx); err != nil {
		return err
	}
	if err := t.confirm("delete what begins with " + prefix + " on this Redis, and play there for about half a minute?"); err != nil {
		return err
	}
	o := incident.Options{Entries: entries, KeyPrefix: prefix}
	if verbose {
		o.Log = slog.New(slog.NewTextHandler(t.err, nil))
	}
	out := t.out
	if t.json {
		out = io.Discard
	}
	r, err := incident.Run(ctx, t.settings.RedisURL, out, o)
	if err != nil {
		return err
	}
	if t.json {
		if err := t.dump(r); err != nil {
			return err
		}
	}
	if r.Err() != nil {
		return errFound
	}
	return nil
}
