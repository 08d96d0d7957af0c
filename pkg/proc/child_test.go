package proc

import (
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

func startChild(t *testing.T, how string) *child {
	t.Helper()
	p := &child{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$"), out: &output{}}
	p.cmd.Env = append(os.Environ(), "PROC_TEST_CHILD="+how)
	p.cmd.Stderr, p.cmd.Stdout = p.out, p.out
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	until(t, func() bool { return strings.Contains(p.out.String(), "msg=running") })
	return p
}
