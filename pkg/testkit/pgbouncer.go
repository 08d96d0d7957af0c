package testkit

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartPgBouncer puts a PgBouncer in transaction mode before the PostgreSQL at
// databaseURL, with the given number of server connections, and returns the
// URL of the database through it. The test is skipped where it is not installed.
func StartPgBouncer(tb testing.TB, databaseURL string, connections int) string {
	tb.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		// Debian keeps it where the PATH of a user may not lead.
		bin, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		tb.Skip("pgbouncer is not installed (apt-get install pgbouncer)")
	}
	direct, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sluice-pgb-") //nolint:usetesting // its parent may be closed to PostgreSQL's account
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	port := FreePort(tb)
	ini := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
ignore_startup_parameters = extra_float_digits,options,search_path,statement_timeout,lock_timeout,idle_in_transaction_session_timeout
`, direct.Hostname(), direct.Port(), port, filepath.Join(dir, "users"), connections)
	for name, text := range map[string]string{"pgbouncer.ini": ini, "users": fmt.Sprintf("%q \"\"\n", direct.User.Username())} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	attr, err := credential(dir)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(bin, filepath.Join(dir, "pgbouncer.ini"))
	cmd.SysProcAttr = attr
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := startPinned(cmd); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	})
	pooled := *direct
	pooled.Host = fmt.Sprintf("127.0.0.1:%d", port)
	if err := poll(20*time.Second, func(ctx context.Context) error { return ask(ctx, pooled.String()) }); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		tb.Fatalf("pgbouncer on port %d: %v\n%s", port, err, text)
	}
	return pooled.String()
}

func ask(ctx context.Context, url string) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	_, err = c.Exec(ctx, "SELECT 1", pgx.QueryExecModeSimpleProtocol)
	return err
}
