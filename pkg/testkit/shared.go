package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// SharedEnv names the shared fixtures folder. Unset: the folder "shared" beside
// a parent of the working directory.
const SharedEnv = "SLUICE_SHARED"

// Shared returns the path of a file or folder of the shared fixtures, and skips
// the test where they are not at hand.
func Shared(tb testing.TB, name string) string {
	tb.Helper()
	root, ok := sharedRoot()
	if !ok {
		tb.Skipf("the shared fixtures folder is not at hand (set %s to it)", SharedEnv)
	}
	path := filepath.Join(root, filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("not in the shared fixtures folder: %s", name)
	}
	return path
}

func sharedRoot() (string, bool) {
	if dir := os.Getenv(SharedEnv); dir != "" {
		return dir, true
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		candidate := filepath.Join(dir, "shared")
		if info, err := os.Stat(filepath.Join(candidate, "fixtures")); err == nil && info.IsDir() {
			return candidate, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}
