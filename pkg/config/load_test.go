package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/config"
)

type redisPart struct {
	URL string `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis"`
}

type sample struct {
	redisPart
	Redis  redisPart
	Relays []string      `env:"INGESTER_RELAY_HOSTS,INGESTER_HOSTS" default:"bsky.network" help:"relays"`
	Mode   string        `env:"INGESTER_MODE" default:"all" oneof:"all,firehose" help:"mode"`
	Wait   time.Duration `env:"INGESTER_BATCH_TIMEOUT_MS" unit:"ms" default:"1000" min:"1" help:"wait"`
	HTTP   time.Duration `env:"BACKFILLER_HTTP_TIMEOUT_SECS" unit:"s" default:"60" help:"timeout"`
	Size   int           `env:"INGESTER_BATCH_SIZE" default:"500" min:"1" max:"10000" help:"size"`
	Marks  int64         `env:"INGESTER_HIGH_WATER_MARK" default:"100_000" help:"mark"`
	On     bool          `env:"ENABLE_DID_RESOLUTION" default:"true" help:"on"`
	Ratio  float64       `env:"INGESTER_RATIO" default:"0.5" min:"0" max:"1" help:"ratio"`
	bad    error
}

func (s *sample) Validate() error { return s.bad }

func load(t *testing.T, cfg any, env []string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	l := config.Loader{Service: "ingester", Environ: env, Output: &out}
	err := l.Load(args, cfg)
	return out.String(), err
}

func TestDefaultsFillEveryField(t *testing.T) {
	t.Parallel()
	var c sample
	_, err := load(t, &c, nil)
	require.NoError(t, err)
	require.Equal(t, "redis://localhost:6379", c.Redis.URL)
	require.Equal(t, "redis://localhost:6379", c.URL, "an embedded struct is searched too")
	require.Equal(t, []string{"bsky.network"}, c.Relays)
	require.Equal(t, time.Second, c.Wait)
	require.Equal(t, time.Minute, c.HTTP)
	require.Equal(t, int64(100000), c.Marks)
	require.True(t, c.On)
	require.InDelta(t, 0.5, c.Ratio, 1e-9)
}

func TestPrecedenceIsFileEnvironmentFlag(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte("ingester:\n  mode: firehose\n  batch_size: 7\ningester_relay_hosts: [a, b]\nenable_did_resolution: false\nindexer_mode: label\n"), 0o600))
	var c sample
	_, err := load(t, &c, []string{"SLUICE_CONFIG=" + file, "INGESTER_BATCH_SIZE=8", "INGESTER_BATCH_TIMEOUT_MS=250", "BACKFILLER_HTTP_TIMEOUT_SECS=1m30s"}, "--ingester-batch-size=9", "--ingester-ratio", "0.25")
	require.NoError(t, err)
	require.Equal(t, "firehose", c.Mode)
	require.Equal(t, []string{"a", "b"}, c.Relays)
	require.Equal(t, 9, c.Size)
	require.Equal(t, 250*time.Millisecond, c.Wait)
	require.Equal(t, 90*time.Second, c.HTTP)
	require.False(t, c.On)
	require.InDelta(t, 0.25, c.Ratio, 1e-9)
}

func TestAliasIsReadWhenTheCanonicalNameIsAbsent(t *testing.T) {
	t.Parallel()
	var c sample
	_, err := load(t, &c, []string{"INGESTER_HOSTS=x, y ,", "INGESTER_MODE="})
	require.NoError(t, err)
	require.Equal(t, []string{"x", "y"}, c.Relays)
	require.Equal(t, "all", c.Mode, "an empty variable counts as absent")
	_, err = load(t, &c, []string{"INGESTER_HOSTS=x", "INGESTER_RELAY_HOSTS=z"})
	require.NoError(t, err)
	require.Equal(t, []string{"z"}, c.Relays)
}

func TestAllThatIsWrongIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	var c sample
	_, err := load(t, &c, []string{
		"INGESTER_MODE=fire", "INGESTER_BATCH_TIMEOUT_MS=soon", "INGESTER_BATCH_SIZE=0", "INGESTER_HIGH_WATER_MARK=many",
		"ENABLE_DID_RESOLUTION=perhaps", "INGESTER_RATIO=2", "INGESTER_RELAY_HOST=x", "INDEXER_STREAM=y", "SLUICE_CONFIGS=z",
		"INDEXER_MODE=label", "BACKFILLER_CONCURRENCY=3", "SLUICE_TEST_REDIS_URL=x", "PATH=/bin",
	})
	require.Error(t, err)
	for _, want := range []string{
		"INGESTER_MODE=fire: must be one of all, firehose",
		"INGESTER_BATCH_TIMEOUT_MS=soon: want a number of ms or a duration such as 30s",
		"INGESTER_BATCH_SIZE=0: must be between 1 and 10000",
		"INGESTER_HIGH_WATER_MARK=many: want a whole number",
		"ENABLE_DID_RESOLUTION=perhaps: want true or false",
		"INGESTER_RATIO=2: must be between 0 and 1",
		"unknown variable INGESTER_RELAY_HOST; the nearest known one is INGESTER_RELAY_HOSTS",
		"unknown variable INDEXER_STREAM; the nearest known one is INDEXER_STREAMS",
		"unknown variable SLUICE_CONFIGS; the nearest known one is SLUICE_CONFIG",
	} {
		require.ErrorContains(t, err, want)
	}
	require.Len(t, strings.Split(err.Error(), "\n"), 9, "variables of the other services are no errors")
}

func TestUnknownFileKeysAndFlagsNameTheNearest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte("redis_urll: redis://x\ningester:\n  mod: all\n"), 0o600))
	var c sample
	_, err := load(t, &c, nil, "--config", file)
	require.ErrorContains(t, err, "unknown key redis_urll; the nearest known one is redis_url")
	require.ErrorContains(t, err, "unknown key ingester.mod; the nearest known one is ingester_mode")
	_, err = load(t, &c, nil, "--redis-ur=x")
	require.EqualError(t, err, "unknown flag --redis-ur; the nearest known one is --redis-url")
	_, err = load(t, &c, nil, "--config", "/nonexistent.yaml")
	require.ErrorContains(t, err, "read the configuration file /nonexistent.yaml")
	_, err = load(t, &c, nil, "stray")
	require.ErrorContains(t, err, `unexpected argument "stray"`)
}

func TestSecretsComeFromFilesAndAreRedacted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("redis://user:hunter2@cache:6379\n"), 0o600))
	var c sample
	_, err := load(t, &c, []string{"REDIS_URL_FILE=" + file})
	require.NoError(t, err)
	require.Equal(t, "redis://user:hunter2@cache:6379", c.Redis.URL)
	out, err := load(t, &c, []string{"REDIS_URL_FILE=" + file, "INGESTER_HOSTS=a"}, "--print-config")
	require.ErrorIs(t, err, config.ErrDone)
	require.NotContains(t, out, "hunter2")
	require.Contains(t, out, `redis_url: "redis://user:xxxxx@cache:6379" # `+file)
	require.Contains(t, out, "ingester_relay_hosts: a # environment INGESTER_HOSTS")
	_, err = load(t, &c, []string{"REDIS_URL_FILE=" + file, "REDIS_URL=redis://y"})
	require.ErrorContains(t, err, "REDIS_URL and REDIS_URL_FILE are both set")
	_, err = load(t, &c, []string{"REDIS_URL_FILE=/nonexistent"})
	require.ErrorContains(t, err, "REDIS_URL_FILE=/nonexistent")
	require.Equal(t, "[redacted]", config.Redact("hunter2"))
}

func TestPrintedConfigurationCanBeLoadedAgain(t *testing.T) {
	t.Parallel()
	var first, second sample
	env := []string{"INGESTER_HOSTS=wss://a:1,b", "INGESTER_BATCH_TIMEOUT_MS=5s", "INGESTER_RATIO=0.1"}
	out, err := load(t, &first, env, "--print-config")
	require.ErrorIs(t, err, config.ErrDone)
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte(out), 0o600))
	_, err = load(t, &second, nil, "--config="+file)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

func TestValidateHasTheLastWord(t *testing.T) {
	t.Parallel()
	c := sample{bad: errors.New("INGESTER_X=1: contradicts INGESTER_Y")}
	_, err := load(t, &c, nil)
	require.ErrorContains(t, err, "contradicts")
}

func TestTwoStructsShareASetting(t *testing.T) {
	t.Parallel()
	var a struct {
		Port int `env:"METRICS_PORT,BACKFILLER_METRICS_PORT" default:"4100" help:"port"`
	}
	var b struct {
		Port int `env:"METRICS_PORT" default:"9090" help:"port"`
	}
	l := config.Loader{Service: "backfiller", Environ: nil, Output: &bytes.Buffer{}}
	require.NoError(t, l.Load(nil, &a, &b))
	require.Equal(t, 4100, b.Port, "the first declaration sets the default")
	l.Environ = []string{"BACKFILLER_METRICS_PORT=1"}
	require.NoError(t, l.Load(nil, &a, &b))
	require.Equal(t, []int{1, 1}, []int{a.Port, b.Port})
}

func TestHelpAndReferenceListEverySetting(t *testing.T) {
	t.Parallel()
	var c sample
	help, err := load(t, &c, nil, "--help")
	require.ErrorIs(t, err, config.ErrDone)
	var ref bytes.Buffer
	require.NoError(t, config.Reference(&ref, &c))
	settings, err := config.Settings(&c)
	require.NoError(t, err)
	require.Len(t, settings, 9)
	for _, s := range settings {
		require.Contains(t, help, s.Name)
		require.Contains(t, ref.String(), "| `"+s.Name+"` |")
	}
}

func TestBadDeclarationsAreRefused(t *testing.T) {
	t.Parallel()
	_, err := config.Settings(&struct {
		M map[string]string `env:"X_MAP"`
	}{})
	require.ErrorContains(t, err, "cannot be a setting")
	_, err = config.Settings(sample{})
	require.ErrorContains(t, err, "not a pointer to a struct")
}
