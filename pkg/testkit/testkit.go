// Package testkit gives tests a real Redis and a real PostgreSQL, and a
// simulated AT Protocol network with a model of what is true in it. Only tests
// and the simnet program import it.
package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
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
func FreePort(tb testing.TB) int {
	tb.Helper()
	p, err := freePort()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("listener has no TCP address: %v", l.Addr())
	}
	return addr.Port, nil
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
