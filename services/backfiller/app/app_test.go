package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/proc"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// asProgram makes the test binary the program itself.
const asProgram = "BACKFILL_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		_ = os.Unsetenv(asProgram)
		var cfg Config
		proc.Main("backfiller", "test", &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
			return New(ctx, cfg, d)
		})
	}
	os.Exit(m.Run())
}

// program is the backfiller as a process of its own.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	logs strings.Builder
	addr string
}

// run starts the program on a network; extra are NAME=value.
func run(t *testing.T, url, prefix string, n *simnet.Network, extra ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	p := &program{t: t, cmd: exec.Command(exe), done: make(chan struct{})}
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + t.TempDir(), asProgram + "=1",
		"REDIS_URL=" + url, "STREAM_KEY_PREFIX=" + prefix, "PLC_URL=" + n.PLCURL, "ALLOW_PRIVATE_NETWORK=127.0.0.0/8",
		"BACKFILLER_METRICS_PORT=0", "BACKFILLER_CONSUMER=one", "BACKFILLER_CONCURRENCY=4", "BACKFILLER_CLAIM_IDLE_SECS=1",
		"BACKFILLER_RETRY_INITIAL_BACKOFF_MS=20", "BACKFILLER_RETRY_MAX_BACKOFF_MS=100", "SHUTDOWN_GRACE_SECS=3",
	}, extra...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		p.read(out)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Log(p.text())
		}
	})
	return p
}

func (p *program) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var entry struct {
			Msg   string `json:"msg"`
			Admin string `json:"admin"`
		}
		_ = json.Unmarshal(lines.Bytes(), &entry)
		p.mu.Lock()
		p.logs.Write(lines.Bytes())
		p.logs.WriteByte('\n')
		if entry.Msg == "starting" {
			p.addr = strings.Replace(entry.Admin, "[::]", "127.0.0.1", 1)
		}
		p.mu.Unlock()
	}
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.String()
}

// get asks the admin server.
func (p *program) get(path string) (int, string) {
	p.mu.Lock()
	addr := p.addr
	p.mu.Unlock()
	if addr == "" {
		return 0, ""
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+addr+path, http.NoBody)
	require.NoError(p.t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// ended waits for the end and says how it was.
func (p *program) ended(limit time.Duration) *os.ProcessState {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(3 * limit): // limits are for an idle machine
		p.t.Fatalf("still running after %s:\n%s", limit, p.text())
	}
	return p.cmd.ProcessState
}

func killed(s *os.ProcessState) bool {
	status, ok := s.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * limit) // limits are for an idle machine
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-tick.C
	}
}

// site is a network with the jobs of its accounts in a Redis.
type site struct {
	t           *testing.T
	url, prefix string
	redis       *redstream.Client
	net         *simnet.Network
}

func newSite(t *testing.T) *site {
	t.Helper()
	url, prefix := testkit.Redis(t)
	s := &site{t: t, url: url, prefix: prefix}
	s.net = simnet.Start(t, simnet.Options{World: world.Options{Seed: 3, Accounts: 40, Records: 3000, PDS: 2, NoAccountEvents: true}})
	var err error
	s.redis, err = redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(s.redis.Close)
	return s
}

func (s *site) enumerate() {
	s.t.Helper()
	w, err := s.redis.NewWriter(redstream.WriterConfig{Stream: "repo_backfill"})
	require.NoError(s.t, err)
	defer w.Close()
	var items []redstream.Item
	for _, a := range s.net.Truth().Accounts {
		field, value, err := event.JSON.Job(&event.RepoJob{DID: a.DID, Rev: a.Rev, Active: true})
		require.NoError(s.t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
	}
	require.NoError(s.t, w.Append(s.t.Context(), items))
}

// finished says that both groups have nothing left.
func (s *site) finished() bool {
	st, err := s.redis.Stats(s.t.Context(), "repo_backfill", "repo_backfill_group", "repo_backfill_group_urgent")
	if err != nil || len(st.Groups) != 2 || st.Lag != 0 || st.Pending != 0 {
		return false
	}
	n, err := s.redis.NewDelayed("repo_backfill:delayed", "repo_backfill").Len(s.t.Context())
	after, still := s.redis.Stats(s.t.Context(), "repo_backfill")
	return err == nil && still == nil && n == 0 && after.Added == st.Added
}

// complete compares the output with the truth.
func (s *site) complete() {
	s.t.Helper()
	c, err := testkit.RedisClient(s.url)
	require.NoError(s.t, err)
	defer c.Close()
	list, err := c.Do(s.t.Context(), c.B().Xrange().Key(s.prefix+"firehose_backfill").Start("-").End("+").Build()).AsXRange()
	require.NoError(s.t, err)
	got, closed := map[string]string{}, map[string]bool{}
	for _, x := range list {
		e, err := event.DecodeEvent(func(name string) (string, bool) { v, ok := x.FieldValues[name]; return v, ok })
		require.NoError(s.t, err)
		if e.Type == event.Repo {
			closed[e.DID] = e.Snapshot
		} else {
			got[e.URI()] = e.CID
		}
	}
	truth, want := s.net.Truth(), map[string]string{}
	for _, r := range truth.Records {
		if strings.Contains(r.URI, "/app.bsky.") || strings.Contains(r.URI, "/chat.bsky.") || strings.Contains(r.URI, "/com.germnetwork.declaration/") {
			want[r.URI] = r.CID
		}
	}
	require.NotEmpty(s.t, want)
	require.Equal(s.t, want, got)
	for _, a := range truth.Accounts {
		require.True(s.t, closed[a.DID], "%s is closed", a.DID)
	}
}

// The process is killed between two durable steps, several times, on the road
// of a good repository and on those of one that fails, is gone or is given up;
// whoever comes after it completes the work.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		point, faults string
		every         int
	}{
		{crash.AfterReadBeforeAdd, "", 3},
		{crash.AfterChunkBeforeNext, "", 3},
		{crash.AfterRepoBeforeAck, "", 3},
		{crash.AfterStateBeforeSettle, "pds_5xx=9/2,pds_truncated_car=9/3,pds_missing_block=9/2,pds_wrong_signature=9/4", 2},
	} {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			require.NoError(t, s.net.Faults.Apply(c.faults))
			s.enumerate()
			for visit := range 3 {
				p := run(t, s.url, s.prefix, s.net, fmt.Sprintf("%s=%s:%d", crash.Env, c.point, 2+c.every*visit))
				require.True(t, killed(p.ended(30*time.Second)), "died at %s", c.point)
			}
			require.False(t, s.finished())
			run(t, s.url, s.prefix, s.net, "BACKFILLER_MAX_RETRIES=20")
			eventually(t, 40*time.Second, "all done", s.finished)
			s.complete()
			for fault := range strings.SplitSeq(c.faults, ",") {
				if name, _, _ := strings.Cut(fault, "="); name != "" {
					require.Positive(t, s.net.Faults.Fired(name), name)
				}
			}
		})
	}
}

// A kill between the state of a repository that is gone, or given up, and the
// end of its job: the next process ends it the same way, once.
func TestKilledBeforeAJobIsGivenUp(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	gone, broken := millDID(1), millDID(2)
	m := newMill(t, func(w http.ResponseWriter, b repo.Bulk) {
		if b.DID == gone {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"RepoTakendown"}`)
			return
		}
		_, _ = io.WriteString(w, "no archive")
	})
	redis := openRedis(t, url, prefix)
	m.enumerate(t, redis, 3)
	for range 3 {
		p := m.start(t, url, prefix, crash.Env+"="+crash.AfterStateBeforeSettle, "BACKFILLER_MAX_RETRIES=0", "BACKFILLER_CLAIM_IDLE_SECS=1")
		require.True(t, killed(p.ended(30*time.Second)))
	}
	p := m.start(t, url, prefix, "BACKFILLER_MAX_RETRIES=0", "BACKFILLER_CLAIM_IDLE_SECS=1")
	q := redis.DeadLetters("repo_backfill", "repo_backfill_dlq")
	s := &site{t: t, redis: redis}
	eventually(t, 30*time.Second, "all ended", s.finished)
	n, err := q.Len(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, n, "each once")
	values, err := redis.NewRegister("repo_backfill", ":state", 1<<19).Get(t.Context(), strings.TrimPrefix(gone, "did:plc:"), strings.TrimPrefix(broken, "did:plc:"))
	require.NoError(t, err)
	require.Equal(t, []string{"g repo_takendown", "f body_cut"}, values, p.text())
}

// Every setting comes by the environment of the contracts alone; the admin
// server tells how it goes; SIGTERM ends it with code 0.
func TestProgramFromEnvironment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := run(t, s.url, s.prefix, s.net)
	eventually(t, 20*time.Second, "ready", func() bool { code, _ := p.get("/readyz"); return code == http.StatusOK })
	_, metrics := p.get("/metrics")
	for _, name := range []string{
		"backfiller_repos_processed_total", "backfiller_repos_failed_total", "backfiller_repos_dead_lettered_total",
		"backfiller_records_extracted_total", "backfiller_records_filtered_total", "backfiller_retries_attempted_total",
		"backfiller_repos_waiting", "backfiller_repos_running", "backfiller_output_stream_length", "backfiller_car_fetch_errors_total",
		"backfiller_car_parse_errors_total", "backfiller_verification_errors_total",
	} {
		require.Contains(t, metrics, "\n"+name+" 0\n", "present from the first scrape")
	}
	s.enumerate()
	eventually(t, 40*time.Second, "all done", s.finished)
	s.complete()
	eventually(t, 20*time.Second, "progress", func() bool {
		_, body := p.get("/progress")
		var got struct {
			Repos map[string]int64 `json:"repos"`
			Left  int64            `json:"left"`
		}
		return json.Unmarshal([]byte(body), &got) == nil && got.Repos["done"] == 40 && got.Left == 0
	})
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 0, p.ended(10*time.Second).ExitCode(), p.text())
	require.Contains(t, p.text(), "Trimmed")
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for setting, want := range map[string]string{
		"BACKFILLER_COLLECTIONS=app.*.x":              "BACKFILLER_COLLECTIONS",
		"BACKFILLER_CONCURRENCY=0":                    "BACKFILLER_CONCURRENCY",
		"BACKFILLER_CONCURENCY=5":                     "BACKFILLER_CONCURRENCY",
		"ALLOW_PRIVATE_NETWORK=nonsense":              "ALLOW_PRIVATE_NETWORK",
		"REDIS_URL=http://x":                          "REDIS_URL",
		"BACKFILLER_FIREHOSE_STREAM=repo_backfill":    "must differ",
		"BACKFILLER_RETRY_INITIAL_BACKOFF_MS=9999999": "BACKFILLER_RETRY_MAX_BACKOFF_MS",
	} {
		p := run(t, s.url, s.prefix, s.net, setting)
		require.Equal(t, 1, p.ended(20*time.Second).ExitCode(), setting)
		require.Contains(t, p.text(), want, setting)
	}
}
