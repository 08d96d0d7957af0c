package atproto_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
)

// Whatever is inserted, set and removed, in whatever order: the tree is the one
// that its leaves have by definition, and taking operations back leads to the
// tree before them.
func TestTreeProperties(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		leaves := map[string]atproto.CID{}
		tree, err := atproto.NewEdit(atproto.CID{}, nil)
		require.NoError(t, err)
		key := func() string { return fmt.Sprintf("app.bsky.feed.post/%d", rng.IntN(300)) }
		value := func() atproto.CID { return atproto.SumCID([]byte{byte(rng.Uint32()), byte(rng.Uint32())}) }
		for range rng.IntN(300) {
			k := key()
			_, have := leaves[k]
			switch {
			case !have:
				leaves[k] = value()
				require.NoError(t, tree.Insert(k, leaves[k]))
			case rng.IntN(3) == 0:
				leaves[k] = value()
				require.NoError(t, tree.Set(k, leaves[k]))
			default:
				delete(leaves, k)
				require.NoError(t, tree.Remove(k))
			}
		}
		store := atproto.Store{}
		before := store.Tree(leaves)
		require.Equal(t, before, tree.Hash(), "seed %d", seed)
		for k, v := range leaves {
			got, err := tree.Get(k)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}

		ops := randomOps(rng, leaves, value)
		after := store.Tree(leaves)
		edit, err := atproto.NewEdit(after, store)
		require.NoError(t, err)
		require.NoError(t, edit.Check(ops), "seed %d", seed)
		require.NoError(t, edit.Invert(ops), "seed %d", seed)
		require.Equal(t, before, edit.Hash(), "seed %d", seed)
	}
}

// randomOps changes the leaves and says how.
func randomOps(rng *rand.Rand, leaves map[string]atproto.CID, value func() atproto.CID) (ops []atproto.Op) {
	keys := slices.Sorted(maps.Keys(leaves))
	for i := range 1 + rng.IntN(20) {
		switch {
		case i < len(keys) && rng.IntN(3) == 0:
			ops = append(ops, atproto.Op{Action: atproto.ActionDelete, Path: keys[i], Prev: leaves[keys[i]]})
			delete(leaves, keys[i])
		case i < len(keys) && rng.IntN(2) == 0:
			v := value()
			ops = append(ops, atproto.Op{Action: atproto.ActionUpdate, Path: keys[i], Prev: leaves[keys[i]], CID: v})
			leaves[keys[i]] = v
		default:
			k, v := fmt.Sprintf("app.bsky.feed.like/%d", i), value()
			ops = append(ops, atproto.Op{Action: atproto.ActionCreate, Path: k, CID: v})
			leaves[k] = v
		}
	}
	return ops
}

func TestTreeRefusals(t *testing.T) {
	t.Parallel()
	tree, err := atproto.NewEdit(atproto.CID{}, nil)
	require.NoError(t, err)
	v := atproto.SumCID(nil)
	require.Error(t, tree.Remove("a/b"))
	require.Error(t, tree.Set("a/b", v))
	require.NoError(t, tree.Insert("a/b", v))
	require.Error(t, tree.Insert("a/b", v))
	require.Error(t, tree.Remove("a/c"))
	require.Error(t, tree.Set("a/c", v))
	got, err := tree.Get("a/c")
	require.NoError(t, err)
	require.True(t, got.IsZero())
	require.NoError(t, tree.Remove("a/b"))
	require.Equal(t, atproto.Store{}.Tree(nil), tree.Hash())
}
