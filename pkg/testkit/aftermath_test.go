package testkit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

// TestSharedServersLeaveNothingBehind runs tests of this package in a process
// of its own, ends it, and looks for what is left of its servers.
func TestSharedServersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^(TestRedisAnswers|TestPostgresAnswers)$")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, testkit.RedisEnv+"=", testkit.PostgresEnv+"=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Eventually(t, func() bool {
		left, err := filepath.Glob(filepath.Join(dir, "sluice-*"))
		return err == nil && len(left) == 0
	}, 15*time.Second, 50*time.Millisecond)
}
