package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresEnv names the PostgreSQL that tests share. Unset: the first use in a
// test binary starts one of its own, which ends with the binary.
const PostgresEnv = "SLUICE_TEST_DATABASE_URL"

// PostgresServer is a PostgreSQL of one test.
type PostgresServer struct {
	URL  string
	dir  string
	port int
	cmd  *exec.Cmd
}

// StartPostgres starts a PostgreSQL of its own for a test that restarts or
// breaks it. Settings are -c arguments, "name=value".
func StartPostgres(tb testing.TB, settings ...string) *PostgresServer {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sluice-pg-") //nolint:usetesting // its parent may be closed to PostgreSQL's account
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := startPostgres(dir, FreePort(tb), settings...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

func postgresBin(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed (apt-get install postgresql)", name)
	}
	return found[len(found)-1], nil
}

// credential is the account PostgreSQL runs under: it refuses root. When the
// process that started it dies, it shuts down at once, but not without giving
// its shared memory back.
func credential(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}

func startPostgres(dir string, port int, settings ...string) (*PostgresServer, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	attr, err := credential(dir)
	if err != nil {
		return nil, err
	}
	initdb, err := postgresBin("initdb")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	ini := exec.Command(initdb, "--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", data)
	ini.SysProcAttr, ini.Dir = attr, dir
	if out, err := ini.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s := &PostgresServer{
		URL: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port),
		dir: dir, port: port,
	}
	return s, s.Start(settings...)
}

// Start runs the server on its data directory; after Kill or Stop it comes
// back with what was committed.
func (s *PostgresServer) Start(settings ...string) error {
	bin, err := postgresBin("postgres")
	if err != nil {
		return err
	}
	attr, err := credential(s.dir)
	if err != nil {
		return err
	}
	args := []string{
		"-D", filepath.Join(s.dir, "data"), "-p", strconv.Itoa(s.port), "-k", s.dir, "-h", "127.0.0.1",
		"-c", "fsync=off", "-c", "max_connections=300", "-c", "shared_buffers=256MB",
		"-c", "max_locks_per_transaction=512", "-c", "log_min_messages=error",
	}
	for _, set := range settings {
		args = append(args, "-c", set)
	}
	cmd := exec.Command(bin, args...)
	cmd.SysProcAttr, cmd.Dir = attr, s.dir
	logFile, err := os.OpenFile(filepath.Join(s.dir, "postgres.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := startPinned(cmd); err != nil {
		return err
	}
	s.cmd = cmd
	return s.wait(90 * time.Second)
}

func (s *PostgresServer) wait(limit time.Duration) error {
	err := poll(limit, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, s.URL)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		return fmt.Errorf("postgres on port %d: %w", s.port, err)
	}
	return nil
}

// Kill ends the server at once (immediate shutdown: as after a crash) and
// waits for it.
func (s *PostgresServer) Kill() { s.end(syscall.SIGQUIT) }

// Stop ends the server in order, closing sessions (fast shutdown).
func (s *PostgresServer) Stop() { s.end(syscall.SIGINT) }

func (s *PostgresServer) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_, _ = s.cmd.Process.Wait()
	s.cmd = nil
}

var sharedPostgres = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(PostgresEnv); url != "" {
		return url, nil
	}
	dir, err := os.MkdirTemp("", "sluice-pg-")
	if err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	s, err := startPostgres(dir, port)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return s.URL, cleanUpAfter(s.cmd, dir)
})

// Postgres returns the URL of a PostgreSQL shared by the tests of this binary
// and the name of a schema of this test alone, not yet created. The schema,
// and a second one named schema+"_sluice", are dropped when the test ends.
func Postgres(tb testing.TB) (url, schema string) {
	tb.Helper()
	url = PostgresURL(tb)
	schema = "t" + RandomName()
	tb.Cleanup(func() { DropSchema(url, schema) })
	return url, schema
}

// PostgresURL is the URL of Postgres, for tests that see to their schemas.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	url, err := sharedPostgres()
	if err != nil {
		tb.Fatal(err)
	}
	return url
}

// DropSchema drops a schema and the one named schema+"_sluice", if they are
// there.
func DropSchema(url, schema string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, name := range []string{schema, schema + "_sluice"} {
		_, _ = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{name}.Sanitize()+" CASCADE")
	}
}
