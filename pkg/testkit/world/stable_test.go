package world

import (
	"fmt"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJudgementsDoNotHangOnWhatIsGone makes the tables a second time from what
// is left in the end, as a backfill finds it, and compares what was judged: who
// never saw what was edited or deleted must come to the same.
func TestJudgementsDoNotHangOnWhatIsGone(t *testing.T) {
	t.Parallel()
	judged := 0
	for seed := range uint64(12) {
		w := small(t, func(o *Options) { o.Seed, o.Records, o.Accounts = 100+seed, 2500, 24+int(seed) })
		first := w.gen.tables
		var left []*Record
		for _, r := range first.records {
			left = append(left, r)
		}
		sort.Slice(left, func(i, j int) bool {
			if left[i].Time != left[j].Time {
				return left[i].Time < left[j].Time
			}
			return left[i].Path() < left[j].Path()
		})
		again := newTables()
		for _, r := range left {
			again.put(r)
		}
		for uri, row := range first.posts {
			require.Equal(t, row.violatesGate, again.posts[uri].violatesGate, "seed %d: gate of %s", seed, uri)
			require.Equal(t, row.violatesEmbedding, again.posts[uri].violatesEmbedding, "seed %d: embedding of %s", seed, uri)
			if row.violatesGate || row.violatesEmbedding {
				judged++
			}
			if first.flags(row).InvalidReplyRoot {
				require.True(t, again.posts[uri].invalidRoot, uri)
			}
		}
		require.Len(t, again.unique, len(first.unique))
		for key, c := range first.unique {
			require.Equal(t, c.holder.URI, again.unique[key].holder.URI, "seed %d: %s", seed, key)
			require.Len(t, again.unique[key].others, len(c.others), key)
		}
	}
	require.Positive(t, judged)
}

// TestManySeeds makes worlds of odd shapes; the builder checks each operation
// against the tree.
func TestManySeeds(t *testing.T) {
	t.Parallel()
	for i, o := range []Options{
		{Accounts: 8, Records: 60},
		{Accounts: 8, Records: 900, PDS: 1},
		{Accounts: 30, Records: 400, BackfillShare: -1, BornShare: -1},
		{Accounts: 30, Records: 400, BackfillShare: 0.9, BornShare: 0.05},
		{Accounts: 30, Records: 400, BackfillShare: 0.05, BornShare: 0.9},
		{Accounts: 25, Records: 300, NoAccountEvents: true, NoSync: true, NoStaleStatus: true},
		{Accounts: 40, Records: 300, Hostile: HostileKinds()},
		{Accounts: 60, Records: 1},
	} {
		o.Seed = uint64(i)
		w, err := Generate(o)
		require.NoError(t, err, fmt.Sprint(o))
		require.Positive(t, w.Len())
		counts := w.Counts()
		require.Positive(t, counts["record"])
	}
}
