package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
	"sluice/pkg/testkit/replay"
)

// The whole road: frames from a relay through the ingester, with full
// verification, and the indexer into the tables.
func TestFramesThroughTheIngester(t *testing.T) {
	t.Parallel()
	names := []string{"net_mixed", "net_actors", "net_deletion"}
	if soak() {
		names = networks(t)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := loadNetwork(t, name)
			recording, err := replay.LoadNetwork(n.dir)
			require.NoError(t, err)
			server := replay.Serve(t, recording)
			s := newSuite(t)
			cfg := s.config("one")
			env := server.Env()
			cfg.ResolveDIDs, cfg.CheckAccounts = true, true
			cfg.PLCURL, cfg.HandleResolver, cfg.AllowPrivate = env["PLC_URL"], env["HANDLE_RESOLVER_URL"], []string{"all"}
			in := s.start(cfg)
			s.mute(n)
			s.ingest(env, recording.LastSeq())
			s.wait(in)
			checkTables(t, n, s, nil)
		})
	}
}

// ingest runs an ingester from the oldest frame until its cursor is at last. It
// goes on until the test ends.
func (s *suite) ingest(env map[string]string, last int64) *process {
	s.t.Helper()
	path, err := ingester()
	require.NoError(s.t, err)
	port := testkit.FreePort(s.t)
	environment := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "REDIS_URL=" + s.redisURL, "STREAM_KEY_PREFIX=" + s.prefix,
		fmt.Sprintf("METRICS_PORT=%d", port), "INGESTER_MODE=firehose", "INGESTER_FIREHOSE_START=oldest", "INGESTER_VERIFY=full", "LOG_LEVEL=warn",
	}
	for name, value := range env {
		environment = append(environment, name+"="+value)
	}
	p := launch(s.t, path, port, environment)
	cursor := "firehose_live:cursor:" + bareHost(env["INGESTER_RELAY_HOSTS"])
	require.Eventually(s.t, func() bool {
		value, _, err := s.client.Cursor(s.t.Context(), cursor)
		at, _ := strconv.ParseInt(value, 10, 64)
		return err == nil && at >= last
	}, time.Minute, 20*time.Millisecond, "%s", p.out)
	stats, err := s.client.Stats(s.t.Context(), "firehose_live")
	require.NoError(s.t, err)
	s.last["firehose_live"] = stats.LastID
	return p
}

// soak says whether the long forms of the tests are wanted.
func soak() bool { return os.Getenv("SLUICE_SOAK") != "" }

// bareHost is a relay setting without its scheme.
func bareHost(setting string) string {
	for i := range setting {
		if len(setting) > i+3 && setting[i:i+3] == "://" {
			return setting[i+3:]
		}
	}
	return setting
}
