package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/crash"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// program is the path of the indexer, built once for all tests; ingester that
// of the ingester.
var (
	program  = sync.OnceValues(func() (string, error) { return build("indexer") })
	ingester = sync.OnceValues(func() (string, error) { return build("ingester") })
)

func build(name string) (string, error) {
	dir, err := os.MkdirTemp("", "sluice-"+name+"-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	out, err := exec.Command("go", "build", "-o", path, "sluice/services/"+name).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// process is an indexer as a process of its own.
type process struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	port int
	done chan error
}

func (s *suite) environment(port int, extra ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"REDIS_URL=" + s.redisURL, "STREAM_KEY_PREFIX=" + s.prefix, "DATABASE_URL=" + s.dbURL, "DATABASE_SCHEMA=" + s.schema,
		fmt.Sprintf("METRICS_PORT=%d", port), "INDEXER_DEBUG_WAIT=true", "ENABLE_DID_RESOLUTION=false", "INDEXER_CHECK_ACCOUNTS=false",
		"DB_POOL_MAX_SIZE=8", "DB_POOL_MIN_IDLE=1", "INDEXER_CONCURRENCY=4", "INDEXER_BATCH_SIZE=50", "INDEXER_CLAIM_IDLE_SECS=2",
		"INDEXER_FOLD_MS=20", "INDEXER_RECHECK_MS=20", "INDEXER_CONSUMER=one", "SHUTDOWN_GRACE_SECS=5", "LOG_LEVEL=warn",
	}, extra...)
}

func (s *suite) run(extra ...string) *process {
	s.t.Helper()
	path, err := program()
	require.NoError(s.t, err)
	port := testkit.FreePort(s.t)
	return launch(s.t, path, port, s.environment(port, extra...))
}

func launch(t *testing.T, path string, port int, environment []string) *process {
	t.Helper()
	p := &process{port: port, out: &bytes.Buffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command(path)
	p.cmd.Env = environment
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	require.NoError(t, p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.ended(time.Minute)
}

// ended waits for the end of the process.
func (p *process) ended(limit time.Duration) bool {
	select {
	case err := <-p.done:
		p.done <- err
		return true
	case <-time.After(limit):
		return false
	}
}

// waitFor asks the process until everything sent is in the tables.
func (s *suite) waitFor(p *process) {
	s.t.Helper()
	query := url.Values{"timeout": {"60s"}}
	for stream, id := range s.last {
		query.Set(stream, id)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	last := ""
	require.Eventually(s.t, func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/debug/wait?%s", p.port, query.Encode()), nil)
		require.NoError(s.t, err)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		last = string(body)
		return resp.StatusCode == http.StatusOK
	}, 90*time.Second, 50*time.Millisecond, "%s\n%s", last, p.out)
}

// history is a recorded network that ends in rows of every kind.
func history(t *testing.T) *network {
	t.Helper()
	return loadNetwork(t, "net_mixed")
}

// sameTables compares two suites that have indexed the same events.
func sameTables(t *testing.T, want, got map[string][]row) {
	t.Helper()
	for _, d := range compare(want, got) {
		t.Error(d)
	}
}

var allTables = []string{
	"actor", "actor_sync", "record", "duplicate_record", "profile", "post", "post_embed_image", "post_embed_external",
	"post_embed_record", "post_embed_video", "post_embed_gallery_image", "feed_item", "quote", "op_thread_reply", "thread_gate", "post_gate", "like",
	"repost", "follow", "actor_block", "list", "list_item", "list_block", "feed_generator", "labeler", "starter_pack",
	"verification", "post_agg", "profile_agg", "notification", "label",
}

// A process that is killed between any two steps, and started again, ends in
// the same tables.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	n := history(t)
	calm := newSuite(t)
	calm.send("firehose_live", event.JSON, n.events...)
	p := calm.run()
	calm.waitFor(p)
	want := calm.rows(allTables...)
	p.kill()
	for _, point := range []string{
		crash.AfterReadBeforeApply + ":2", crash.InsideTx + ":2", crash.InsideTx + ":4", crash.AfterCommitBeforeAck + ":1",
		crash.AfterCommitBeforeAck + ":3", crash.AfterAckBeforeTrim + ":2", crash.AfterFoldBeforeCommit + ":1",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t)
			s.send("firehose_live", event.JSON, n.events...)
			first := s.run(crash.Env + "=" + point)
			require.True(t, first.ended(time.Minute), "the point was not reached\n%s", first.out)
			status, ok := first.cmd.ProcessState.Sys().(syscall.WaitStatus)
			require.True(t, ok && status.Signal() == syscall.SIGKILL, "%v\n%s", first.cmd.ProcessState, first.out)
			s.waitFor(s.run())
			sameTables(t, want, s.rows(allTables...))
		})
	}
}

// SIGTERM in the middle of the work: the process ends in time with code 0, and
// the next one finishes.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	const total = 4000
	s.send("firehose_live", event.JSON, likes(total, 200)...)
	first := s.run("INDEXER_BATCH_SIZE=20")
	require.Eventually(t, func() bool {
		return strings.Contains(first.metrics(t), "indexer_events_processed_total") && first.value(t, "indexer_events_processed_total") > 100
	}, time.Minute, 20*time.Millisecond, first.out)
	require.NoError(t, first.cmd.Process.Signal(syscall.SIGTERM))
	require.True(t, first.ended(15*time.Second), first.out)
	require.Zero(t, first.cmd.ProcessState.ExitCode(), first.out)
	s.waitFor(s.run("INDEXER_CONSUMER=two"))
	require.Len(t, s.rows("like")["like"], total)
}

// metrics scrapes the process; "" while it does not answer.
func (p *process) metrics(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", p.port), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// value reads one metric without labels.
func (p *process) value(t *testing.T, name string) float64 {
	t.Helper()
	for line := range strings.SplitSeq(p.metrics(t), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			require.NoError(t, err)
			return v
		}
	}
	return 0
}

// sum adds up all the series of a metric.
func (p *process) sum(t *testing.T, name string) (total float64) {
	t.Helper()
	for line := range strings.SplitSeq(p.metrics(t), "\n") {
		series, number, ok := strings.Cut(line, " ")
		if bare, _, _ := strings.Cut(series, "{"); !ok || bare != name {
			continue
		}
		var v float64
		_, err := fmt.Sscan(number, &v)
		require.NoError(t, err)
		total += v
	}
	return total
}

// likes makes events of distinct likes by so many accounts, of few posts.
func likes(total, accounts int) []event.Event {
	out := make([]event.Event, total)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range out {
		did := fmt.Sprintf("did:plc:%024d", i%accounts)
		rev := tid(i)
		cid := "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
		out[i] = event.Event{
			Type: event.Create, Seq: int64(i + 1), Time: at.Add(time.Duration(i) * time.Millisecond).Format("2006-01-02T15:04:05.000Z"),
			DID: did, Commit: cid, Rev: rev, Collection: "app.bsky.feed.like", RKey: rev, CID: cid,
			Record: fmt.Appendf(nil, `{"$type":"app.bsky.feed.like","subject":{"uri":"at://did:plc:%024d/app.bsky.feed.post/%d","cid":%q},"createdAt":"2026-01-01T00:00:00.000Z"}`, 999, i/accounts, cid),
		}
	}
	return out
}

// tid is the i-th revision or key.
func tid(i int) string {
	const digits = "234567abcdefghijklmnopqrstuvwxyz"
	b := []byte("3k22222222222")
	for at := len(b) - 1; i > 0; at-- {
		b[at] = digits[i%32]
		i /= 32
	}
	return string(b)
}

// Settings that cannot work end the process with a message that names them.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	path, err := program()
	require.NoError(t, err)
	for name, c := range map[string]struct{ env, want string }{
		"unknown variable": {"INDEXER_BATCHSIZE=5", "INDEXER_BATCH_SIZE"},
		"bad mode":         {"INDEXER_MODE=everything", "INDEXER_MODE"},
		"bad url":          {"DATABASE_URL=http://nowhere", "DATABASE_URL"},
		"no streams":       {"INDEXER_STREAMS=,", "INDEXER_STREAMS"},
		"bad network":      {"ALLOW_PRIVATE_NETWORK=everything", "ALLOW_PRIVATE_NETWORK"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t)
			cmd := exec.Command(path)
			cmd.Env = append(s.environment(testkit.FreePort(t), "ENABLE_DID_RESOLUTION=true"), c.env)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, cmd.Start())
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case err := <-done:
				require.Error(t, err)
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill()
				t.Fatalf("still running: %s", &out)
			}
			require.Equal(t, 1, cmd.ProcessState.ExitCode(), out.String())
			require.Contains(t, out.String(), c.want)
		})
	}
}

// migrate --check says what is missing and changes nothing; migrate does it.
func TestMigrateCommand(t *testing.T) {
	t.Parallel()
	path, err := program()
	require.NoError(t, err)
	s := newSuite(t)
	migrate := func(args ...string) string {
		cmd := exec.Command(path, append([]string{"migrate"}, args...)...)
		cmd.Env = append(s.environment(0), "LOG_LEVEL=info")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Contains(t, migrate("--check"), "create the AppView's tables")
	require.Contains(t, migrate("--check"), "create the AppView's tables", "the check has changed something")
	require.Contains(t, migrate(), "database migrated")
	require.Contains(t, migrate("--check"), "nothing is left to do")
}
