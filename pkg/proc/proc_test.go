package proc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/fault"
)

func TestMain(m *testing.M) {
	if how := os.Getenv(childEnv); how != "" {
		os.Exit(beChild(how))
	}
	goleak.VerifyTestMain(m)
}

type fakeApp struct {
	run   func(context.Context) error
	ready error
}

func (a *fakeApp) Run(ctx context.Context) error { return a.run(ctx) }
func (a *fakeApp) Ready(context.Context) error   { return a.ready }

type settings struct {
	Mode string `env:"INGESTER_MODE" default:"all" oneof:"all,firehose" help:"what to do"`
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func newShell(app App, env ...string) (*shell, *output) {
	out := &output{}
	return &shell{
		name: "ingester", version: "v1", cfg: &settings{}, stdout: out, stderr: out, environ: append(env, "METRICS_PORT=0", "LOG_FORMAT=text"),
		build: func(context.Context, Deps) (App, error) { return app, nil },
	}, out
}

func get(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, http.NoBody)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func local(addr string) string { return "127.0.0.1" + addr[strings.LastIndexByte(addr, ':'):] }

func TestServeUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	app := &fakeApp{run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	s, out := newShell(app)
	building, build := make(chan struct{}), make(chan struct{})
	s.build = func(_ context.Context, d Deps) (App, error) {
		close(building)
		<-build
		d.Handle("GET /extra", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("extra")) }))
		return app, nil
	}
	addrs := make(chan string, 1)
	s.onListen = func(a string) { addrs <- local(a) }
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- s.run(ctx, nil) }()
	addr := <-addrs
	<-building
	status, body := get(t, addr, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "starting")
	status, _ = get(t, addr, "/healthz")
	require.Equal(t, http.StatusOK, status, "a process that waits is alive")
	close(build)
	until(t, func() bool { st, _ := get(t, addr, "/readyz"); return st == http.StatusOK })
	_, body = get(t, addr, "/metrics")
	require.Contains(t, body, `sluice_build_info{`)
	require.Contains(t, body, `version="v1"`)
	_, body = get(t, addr, "/extra")
	require.Equal(t, "extra", body)
	status, _ = get(t, addr, "/debug/pprof/cmdline")
	require.Equal(t, http.StatusOK, status)
	cancel()
	require.Equal(t, 0, <-code)
	require.Contains(t, out.String(), "msg=stopped")
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		_ = fault.Sleep(t.Context(), 10*time.Millisecond)
	}
	t.Fatal("not within 5 s")
}

func TestReadinessNamesTheReason(t *testing.T) {
	t.Parallel()
	app := &fakeApp{ready: errors.New("redis: connection refused")}
	r := &readiness{app: app}
	require.ErrorContains(t, r.check(t.Context()), "connection refused")
	app.ready = nil
	require.Error(t, r.check(t.Context()), "the answer is kept for a second")
}

func TestEarlyEndsAreErrors(t *testing.T) {
	t.Parallel()
	for want, run := range map[string]func(context.Context) error{
		"ingester: returned while the process was running": func(context.Context) error { return nil },
		"ingester: relay is gone":                          func(context.Context) error { return errors.New("relay is gone") },
	} {
		s, out := newShell(&fakeApp{run: run})
		require.Equal(t, 1, s.run(t.Context(), nil))
		require.Contains(t, out.String(), want)
	}
	s, out := newShell(nil)
	s.build = func(context.Context, Deps) (App, error) { return nil, errors.New("REDIS_URL=x: no such host") }
	require.Equal(t, 1, s.run(t.Context(), nil))
	require.Contains(t, out.String(), "start: REDIS_URL=x: no such host")
}

func TestStopWhileWaitingToStartIsClean(t *testing.T) {
	t.Parallel()
	s, _ := newShell(nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.build = func(ctx context.Context, _ Deps) (App, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	require.Equal(t, 0, s.run(ctx, nil))
}

func TestBadConfigurationEndsWithOneLineEach(t *testing.T) {
	t.Parallel()
	s, out := newShell(nil, "INGESTER_MODE=fire", "INGESTER_MODUS=x", "LOG_LEVEL=loud")
	require.Equal(t, 1, s.run(t.Context(), nil))
	require.Equal(t, 3, strings.Count(out.String(), "\n"), out)
	require.Contains(t, out.String(), "ingester: INGESTER_MODE=fire: must be one of all, firehose")
}

func TestPortInUseNamesTheSetting(t *testing.T) {
	t.Parallel()
	app := &fakeApp{run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	first, _ := newShell(app)
	addrs, code := make(chan string, 1), make(chan int, 1)
	first.onListen = func(a string) { addrs <- a }
	ctx, cancel := context.WithCancel(t.Context())
	go func() { code <- first.run(ctx, nil) }()
	addr := <-addrs
	port := addr[strings.LastIndexByte(addr, ':')+1:]
	second, out := newShell(app)
	require.Equal(t, 1, second.run(t.Context(), []string{"--metrics-port", port}))
	require.Contains(t, out.String(), "METRICS_PORT="+port)

	third, out := newShell(app)
	require.Equal(t, 0, third.run(t.Context(), []string{"healthcheck", "--metrics-port", port}))
	until(t, func() bool {
		return third.run(t.Context(), []string{"healthcheck", "--ready", "--metrics-port=" + port}) == 0
	})
	cancel()
	require.Equal(t, 0, <-code)
	require.Equal(t, 1, third.run(t.Context(), []string{"healthcheck", "--metrics-port", port}))
	require.Contains(t, out.String(), "connection refused")
}

func TestSubcommands(t *testing.T) {
	t.Parallel()
	s, out := newShell(nil)
	ran := false
	s.commands = []Command{{Name: "migrate", Help: "make the tables", Run: func(_ context.Context, d Deps) error {
		ran = d.Version == "v1"
		return nil
	}}, {Name: "broken", Run: func(context.Context, Deps) error { return errors.New("no rights") }}}
	require.Equal(t, 0, s.run(t.Context(), []string{"migrate", "--ingester-mode=firehose"}))
	require.True(t, ran)
	require.Equal(t, 1, s.run(t.Context(), []string{"broken"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"version"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"config", "names"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"config"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"config", "check"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"config", "reference"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"help"}))
	require.Equal(t, 0, s.run(t.Context(), []string{"--help"}))
	require.Equal(t, 1, s.run(t.Context(), []string{"migrat"}))
	for _, want := range []string{"no rights", "ingester v1", "INGESTER_MODE\n", "ingester_mode: all # default", "| `INGESTER_MODE` |", `unknown command "migrat"`} {
		require.Contains(t, out.String(), want)
	}
}

func TestGroupEndsAllWhenOneEnds(t *testing.T) {
	t.Parallel()
	g := NewGroup(t.Context())
	stopped := make(chan struct{})
	g.Go("write", func(ctx context.Context) error { <-ctx.Done(); close(stopped); return nil })
	g.Go("read", func(context.Context) error { return io.ErrUnexpectedEOF })
	err := g.Wait()
	require.EqualError(t, err, "read: unexpected EOF")
	<-stopped

	ctx, cancel := context.WithCancel(t.Context())
	g = NewGroup(ctx)
	g.Go("read", func(ctx context.Context) error { <-ctx.Done(); return nil })
	cancel()
	require.NoError(t, g.Wait())
}

func TestWorkContextOutlivesItsParentByTheGrace(t *testing.T) {
	t.Parallel()
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
	work, end := WorkContext(parent, 50*time.Millisecond)
	defer end()
	require.Equal(t, "v", work.Value(key{}))
	start := time.Now()
	cancel()
	require.NoError(t, work.Err())
	<-work.Done()
	require.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)

	work, end = WorkContext(t.Context(), time.Hour)
	end()
	require.Error(t, work.Err())
}

// TestSignals runs this test binary as a program and sends it signals.
func TestSignals(t *testing.T) {
	t.Parallel()
	p := startChild(t, "obey")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.cmd.Wait(), "SIGTERM ends with code 0: %s", p.out)
	require.Contains(t, p.out.String(), "signal=terminated")

	p = startChild(t, "ignore")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	until(t, func() bool { return strings.Contains(p.out.String(), "msg=stopping") })
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, p.cmd.Wait(), "a second signal ends at once")
	require.Contains(t, p.out.String(), "stopped by a second signal")
}
