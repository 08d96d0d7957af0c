package atproto_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

func TestRealRepos(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(testkit.Shared(t, "fixtures/repos"), "*.car"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			prev := ""
			info, err := atproto.ReadRepo(t.Context(), bytes.NewReader(b), atproto.RepoOptions{}, func(r atproto.Record) error {
				path := r.Collection + "/" + r.RKey
				require.Less(t, prev, path)
				prev = path
				require.Equal(t, r.CID, atproto.SumCID(r.Value))
				e := event.Event{RecordCBOR: r.Value}
				_, err := e.RecordJSON()
				return err
			})
			t.Logf("%+v %v", info, err)
			require.NoError(t, err)
		})
	}
}
