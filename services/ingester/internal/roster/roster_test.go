package roster

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func file(t *testing.T, text string) (name string, write func(text string)) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "relays")
	write = func(text string) {
		require.NoError(t, os.WriteFile(name+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(name+".new", name))
	}
	write(text)
	return name, write
}

func TestListChangesWithItsFile(t *testing.T) {
	t.Parallel()
	name, write := file(t, "relay.one # the first\n\n wss://relay.two, ws://relay.three:2470\n")
	r, err := New(Config{Relays: []string{"not.read"}, File: name, Every: time.Millisecond}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	relays, changed := r.Relays()
	require.Equal(t, []string{"relay.one", "wss://relay.two", "ws://relay.three:2470"}, relays)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()

	write("relay.four\n")
	<-changed
	relays, changed = r.Relays()
	require.Equal(t, []string{"relay.four"}, relays)

	// What cannot be used changes nothing, and is told once.
	for n, bad := range []string{"", "# nobody", "ftp://x", "a\na", strings.Repeat("relay.example\n", 10_000)} {
		write(bad)
		require.Eventually(t, func() bool { return testutil.ToFloat64(r.errors) == float64(n+1) }, 30*time.Second, time.Millisecond)
	}
	require.NoError(t, os.Remove(name))
	require.Eventually(t, func() bool { return testutil.ToFloat64(r.errors) == 6 }, 30*time.Second, time.Millisecond)
	relays, _ = r.Relays()
	require.Equal(t, []string{"relay.four"}, relays)

	write("relay.four")
	write("relay.five")
	<-changed
	relays, _ = r.Relays()
	require.Equal(t, []string{"relay.five"}, relays)
	require.InDelta(t, 6, testutil.ToFloat64(r.errors), 0)
	cancel()
	require.NoError(t, <-ended)
}

func TestListOfASettingStays(t *testing.T) {
	t.Parallel()
	r, err := New(Config{Relays: []string{"relay.one"}}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	relays, _ := r.Relays()
	require.Equal(t, []string{"relay.one"}, relays)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.Run(ctx))
}

func TestBadListIsAnErrorAtTheStart(t *testing.T) {
	t.Parallel()
	name, _ := file(t, "ftp://x")
	for _, c := range []Config{{File: name}, {File: name + ".absent"}, {Relays: []string{"ftp://x"}}} {
		_, err := New(c, slog.New(slog.DiscardHandler), nil)
		require.Error(t, err)
	}
}
