package simnet

import (
	"bytes"
	"testing"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/labeling"
	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit/repo"
)

func mustMap(t *testing.T, r *atrepo.Repo) map[string]string {
	t.Helper()
	leaves := map[string]cid.Cid{}
	require.NoError(t, r.MST.WriteToMap(leaves))
	out := map[string]string{}
	for path, c := range leaves {
		out[path] = c.String()
	}
	return out
}

func verifyLabels(t *testing.T, n *Network, frames [][]byte) {
	t.Helper()
	negated := 0
	for _, data := range frames {
		kind, message, err := repo.Message(data)
		require.NoError(t, err)
		require.Equal(t, "#labels", kind)
		var m comatproto.LabelSubscribeLabels_Labels
		require.NoError(t, m.UnmarshalCBOR(bytes.NewReader(message)))
		for _, l := range m.Labels {
			label := labeling.FromLexicon(l)
			require.NoError(t, label.VerifySyntax())
			require.NoError(t, label.VerifySignature(n.World.Account(l.Src).LabelKey.Public()))
			if l.Neg != nil && *l.Neg {
				negated++
			}
		}
	}
	require.Positive(t, negated)
}
