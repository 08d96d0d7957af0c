package app

import (
	"context"

	"github.com/spf13/cobra"

	"sluice/services/streamctl/internal/render"
)

func (t *tool) verifyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Check the tables against what they should hold",
		Example: "  streamctl verify counts\n  streamctl verify repo did:plc:ewvi7nxzyoun6zhxrhs64oiz",
	}
	var repair bool
	var examples int
	counts := &cobra.Command{
		Use: "counts", Short: "Compare the aggregates with the rows that they count",
		Long: "Counts compares the likes, replies, reposts, quotes, followers, follows and posts of every post and\n" +
			"account with the rows, in one snapshot, while the indexer works. --repair corrects the difference\n" +
			"in the way in which the indexer counts, so it is right whatever happens at the same time.\n" +
			"It reads the tables from end to end. Exit code 2 when something differs.",
		Example: "  streamctl verify counts\n  streamctl verify counts --repair",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.verifyCounts(cmd.Context(), repair, examples) },
	}
	counts.Flags().BoolVar(&repair, "repair", false, "correct what differs")
	counts.Flags().IntVar(&examples, "examples", 10, "how many differences to show")
	cmd.AddCommand(counts, t.verifyRepoCmd())
	return cmd
}

func (t *tool) verifyCounts(ctx context.Context, repair bool, examples int) error {
	db, err := t.database(ctx)
	if err != nil {
		return err
	}
	r, err := db.VerifyCounts(ctx, repair, examples, nil)
	if err != nil {
		return err
	}
	if t.json {
		err = t.dump(r)
	} else {
		table := render.NewTable("COUNT", ">CHECKED", ">DIFFER")
		for _, c := range []string{"likeCount", "replyCount", "repostCount", "quoteCount", "followersCount", "followsCount", "postsCount"} {
			table.Row(c, render.Count(r.Checked[c]), render.Count(r.Drifted[c]))
		}
		if err = table.Write(t.out); err == nil {
			for _, d := range r.Examples {
				t.say("%s of %s is %d, should be %d", d.Count, d.Key, d.Kept, d.Real)
			}
			if repair {
				t.say("%d corrections written; the indexer folds them in", r.Repaired)
			}
		}
	}
	if err == nil && r.Total() > 0 && !repair {
		err = errFound
	}
	return err
}
