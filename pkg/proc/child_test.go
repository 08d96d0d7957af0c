package proc

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type child struct {
	cmd *exec.Cmd
	out *output
}

// childEnv makes this test binary the program that gets the signals.
const childEnv = "PROC_TEST_CHILD"

// beChild obeys the stop signal, or ignores it, and returns the exit code.
func beChild(how string) int {
	s, _ := newShell(&fakeApp{run: func(ctx context.Context) error {
		<-ctx.Done()
		if how == "ignore" {
			select {}
		}
		return nil
	}})
	s.stderr = os.Stderr
	return s.run(context.Background(), nil)
}

func startChild(t *testing.T, how string) *child {
	t.Helper()
	p := &child{cmd: exec.CommandContext(t.Context(), os.Args[0]), out: &output{}}
	p.cmd.Env = append(os.Environ(), childEnv+"="+how)
	p.cmd.Stderr, p.cmd.Stdout = p.out, p.out
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	until(t, func() bool { return strings.Contains(p.out.String(), "msg=running") })
	return p
}
