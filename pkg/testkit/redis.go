package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// RedisEnv names the Redis that tests share. Unset: the first use in a test
// binary starts one of its own, which ends with the binary.
const RedisEnv = "SLUICE_TEST_REDIS_URL"

// RedisServer is a redis-server process of one test.
type RedisServer struct {
	URL string
	Dir string
	cmd *exec.Cmd
}

// StartRedis starts a redis-server of its own for a test that restarts, fills
// or breaks it. Extra arguments are appended to its command line. It is
// stopped when the test ends.
func StartRedis(tb testing.TB, args ...string) *RedisServer {
	tb.Helper()
	s, err := startRedis(tb.TempDir(), FreePort(tb), args...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

func startRedis(dir string, port int, args ...string) (*RedisServer, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server is not installed (apt-get install redis-server): %w", err)
	}
	argv := append([]string{
		"--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
	}, args...)
	cmd := exec.Command(bin, argv...)
	logFile, err := os.Create(filepath.Join(dir, "redis.log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startPinned(cmd); err != nil {
		return nil, err
	}
	s := &RedisServer{URL: fmt.Sprintf("redis://127.0.0.1:%d", port), Dir: dir, cmd: cmd}
	if err := waitRedis(s.URL, 20*time.Second); err != nil {
		s.Kill()
		return nil, fmt.Errorf("redis-server on port %d: %w", port, err)
	}
	return s, nil
}

// Kill ends the server with SIGKILL and waits for it.
func (s *RedisServer) Kill() {
	_ = s.cmd.Process.Kill()
	_, _ = s.cmd.Process.Wait()
}

func waitRedis(url string, limit time.Duration) error {
	return poll(limit, func(ctx context.Context) error { return pingRedis(ctx, url) })
}

// poll repeats ready until it succeeds. After limit it returns its last error.
func poll(limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func pingRedis(ctx context.Context, url string) error {
	c, err := RedisClient(url)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Do(ctx, c.B().Ping().Build()).Error()
}

// RedisClient opens a plain client, for looking at what the code under test did.
func RedisClient(url string) (rueidis.Client, error) {
	opt, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	opt.DisableCache, opt.ForceSingleClient = true, true
	return rueidis.NewClient(opt)
}

var sharedRedis = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(RedisEnv); url != "" {
		return url, nil
	}
	dir, err := os.MkdirTemp("", "sluice-redis-")
	if err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	s, err := startRedis(dir, port)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return s.URL, cleanUpAfter(s.cmd, dir)
})

// Redis returns the URL of a Redis shared by the tests of this binary, and a
// key prefix of this test alone. Keys under the prefix are removed when the
// test ends.
func Redis(tb testing.TB) (url, prefix string) {
	tb.Helper()
	url, err := sharedRedis()
	if err != nil {
		tb.Fatal(err)
	}
	prefix = "t" + RandomName() + ":"
	tb.Cleanup(func() { dropPrefix(url, prefix) })
	return url, prefix
}

func dropPrefix(url, prefix string) {
	c, err := RedisClient(url)
	if err != nil {
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	keys, err := c.Do(ctx, c.B().Keys().Pattern("*"+prefix+"*").Build()).AsStrSlice()
	if err != nil || len(keys) == 0 {
		return
	}
	_ = c.Do(ctx, c.B().Unlink().Key(keys...).Build()).Error()
}

// RedisPort returns the port of a redis:// URL made by this package.
func RedisPort(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }
