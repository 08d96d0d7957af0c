package world

import (
	"path/filepath"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
)

func schemas(t *testing.T) *lexicon.BaseCatalog {
	t.Helper()
	catalog := lexicon.NewBaseCatalog()
	require.NoError(t, catalog.LoadDirectory(filepath.Join("..", "..", "lexicon", "lexicons")))
	return catalog
}

// TestRecordsAreLexiconValid takes every version of every record to the
// protocol's own validator.
func TestRecordsAreLexiconValid(t *testing.T) {
	t.Parallel()
	catalog := schemas(t)
	w := small(t, func(o *Options) { o.Accounts, o.Records, o.InvalidShare = 60, 6000, 0.05 })
	valid, invalid := map[string]int{}, 0
	for _, r := range w.gen.tables.records {
		if !indexedCollections[r.Collection] {
			continue
		}
		value, err := atdata.UnmarshalCBOR(r.CBOR)
		require.NoError(t, err, r.URI)
		err = lexicon.ValidateRecord(catalog, value, r.Collection, lexicon.StrictRecursiveValidation)
		if r.Invalid {
			require.Error(t, err, "%s: %v", r.URI, value)
			invalid++
			continue
		}
		require.NoError(t, err, "%s: %v", r.URI, value)
		_, err = syntax.ParseRecordKey(r.RKey)
		require.NoError(t, err)
		valid[r.Collection]++
	}
	require.Len(t, valid, len(Collections()))
	require.Positive(t, invalid)
}
