package app

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/config"
	"sluice/pkg/proc"
)

func load(t *testing.T, env ...string) (Config, error) {
	t.Helper()
	var cfg Config
	l := config.Loader{Service: "simnet", Environ: env, Output: io.Discard}
	err := l.Load(nil, &cfg)
	return cfg, err
}

func start(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	a, err := New(context.Background(), cfg, proc.Deps{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

func status(t *testing.T, url string) (frames int, done bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url+"/_sim/status", http.NoBody)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var s struct {
		Frames int
		Done   bool
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&s))
	return s.Frames, s.Done
}

func TestProgramServesAndGoesOn(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	cfg, err := load(t, "SIMNET_ACCOUNTS=20", "SIMNET_RECORDS=200", "SIMNET_ENV_FILE="+file,
		"SIMNET_LIVE_SECONDS=1", "SIMNET_LIVE_RATE=200", "SIMNET_FAULTS=gap=1")
	require.NoError(t, err)
	defer start(t, cfg)()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	env := map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n") {
		name, value, _ := strings.Cut(line, "=")
		env[name] = value
	}
	for _, name := range []string{"PLC_URL", "INGESTER_RELAY_HOSTS", "INGESTER_LABELER_HOSTS", "HANDLE_RESOLVER_URL", "ALLOW_PRIVATE_NETWORK"} {
		require.NotEmpty(t, env[name], name)
	}
	before, _ := status(t, env["SIMNET_URL"])
	require.Eventually(t, func() bool {
		frames, done := status(t, env["SIMNET_URL"])
		return done && frames > before
	}, 60*time.Second, 50*time.Millisecond)
}

// TestProcessesShareAWorld starts two parts of one network as two programs.
func TestProcessesShareAWorld(t *testing.T) {
	t.Parallel()
	listen := "SIMNET_LISTEN=127.0.0.1:" + itoa(freePorts(t, 40))
	var urls []string
	for _, role := range []string{"plc", "pds"} {
		file := filepath.Join(t.TempDir(), role)
		cfg, err := load(t, listen, "SIMNET_ROLE="+role, "SIMNET_ACCOUNTS=20", "SIMNET_RECORDS=200", "SIMNET_ENV_FILE="+file)
		require.NoError(t, err)
		defer start(t, cfg)()
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		urls = append(urls, string(data))
	}
	require.Equal(t, urls[0], urls[1])
}

// freePorts finds so many free ports in a row, below those that the system
// gives to connections.
func freePorts(t *testing.T, n int) (first int) {
	t.Helper()
	for range 1000 {
		first := 10_000 + rand.IntN(20_000)
		taken := false
		for port := first; port < first+n && !taken; port++ {
			taken = !free(t, port)
		}
		if !taken {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

func free(t *testing.T, port int) bool {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:"+itoa(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestSettingsAreChecked(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]string{
		"SIMNET_ROLE=plc":          "SIMNET_LISTEN",
		"SIMNET_LISTEN=x:y":        "port",
		"SIMNET_ACCOUNTS=3":        "SIMNET_ACCOUNTS",
		"SIMNET_HOSTILE=earthworm": "earthworm",
	} {
		_, err := load(t, env)
		require.ErrorContains(t, err, want, env)
	}
}
