// Package testkit gives tests a real Redis and a real PostgreSQL, and a
// simulated AT Protocol network with a model of what is true in it. Only tests
// and the simnet program import it.
package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"os/exec"
	"runtime"
	"testing"
)

// RandomName returns 12 lower-case hex digits.
func RandomName() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// FreePort returns a TCP port that was free on 127.0.0.1 a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startPinned starts cmd from a thread that lives as long as the process:
// Pdeathsig fires when the thread that started the child ends, not the process.
func startPinned(cmd *exec.Cmd) error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		errs <- cmd.Start()
		select {}
	}()
	return <-errs
}
