package testkit

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Restart starts a killed server again, on the same port and folder and with
// the same arguments.
func (s *RedisServer) Restart(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(s.cmd.Path, s.cmd.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startPinned(cmd); err != nil {
		tb.Fatal(err)
	}
	s.cmd = cmd
	if err := waitRedis(s.URL, 20*time.Second); err != nil {
		tb.Fatal(err)
	}
}
