package backfill

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// Real repositories go through whole, or fail with a clear reason where their
// format is no longer valid.
func TestBackfillRealRepositories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(testkit.Shared(t, "fixtures/repos"), "*.car"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	r := newRig(t)
	x := r.start(func(c *Config) {
		c.SkipSignatures, c.Retry.Max, c.Collections = true, 0, []string{"*"}
	})
	good := 0
	for _, file := range files {
		archive, err := os.ReadFile(file)
		require.NoError(t, err)
		h := r.w.newHost(t, func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool { return sendCAR(w, archive) })
		a := r.w.add(t, h, 0)
		emitted := int64(0)
		info, readErr := atproto.ReadRepo(t.Context(), bytes.NewReader(archive), atproto.RepoOptions{}, func(atproto.Record) error {
			emitted++
			return nil
		})
		if readErr == nil {
			r.w.rename(a, info.DID)
		}
		r.jobs(event.RepoJob{DID: a.did})
		eventually(t, 10*time.Second, "settled", func() bool { s := r.state(a.did).State; return s == StateDone || s == StateFailed })
		got := r.state(a.did)
		t.Logf("%s: %s, %d records, error %v", filepath.Base(file), got, emitted, readErr)
		if readErr != nil {
			require.Equal(t, StateFailed, got.State)
			require.Equal(t, string(archiveFailure(readErr).Reason), got.Reason)
			continue
		}
		good++
		require.Equal(t, Record{State: StateDone, Rev: info.Rev}, got)
		require.Equal(t, emitted, r.output().closed[a.did])
		require.Equal(t, info.Leaves(), emitted+info.Filtered+x.rejected())
	}
	require.Positive(t, good)
}
