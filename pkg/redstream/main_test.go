package redstream_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Starts the children of the test kit; it lives as long as the process.
		goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"))
}
