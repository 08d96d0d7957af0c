package app

import (
	"context"
	"errors"
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
	"sluice/pkg/testkit/simnet"
)

// binary builds the real program once for all tests of this package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sluice-ingester-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "ingester")
	out, err := exec.Command("go", "build", "-o", path, "..").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// program starts the real program with the settings of the rig and more.
func (r *rig) program(more ...string) *exec.Cmd {
	r.t.Helper()
	path, err := binary()
	require.NoError(r.t, err)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "METRICS_PORT=0")
	for k, v := range r.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, more...)
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(r.t, cmd.Start())
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// killed waits for the program to kill itself at its crash point.
func killed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		status, ok := exit.Sys().(syscall.WaitStatus)
		require.True(t, ok)
		require.Equal(t, syscall.SIGKILL, status.Signal(), "the crash point was not reached")
	case <-time.After(30 * time.Second):
		t.Fatal("the program did not reach its crash point")
	}
}

// ended stops the program in order.
func ended(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "a stop that was asked for is exit code 0")
}

func TestKilledAtCrashPointLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		crash.AfterReadBeforeAdd + ":1", crash.AfterReadBeforeAdd + ":4", crash.AfterAddBeforeReply + ":1", crash.AfterAddBeforeReply + ":3",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			n := network(t, 3, 1, "")
			r := newRig(t, n.Env())
			r.env["INGESTER_MODE"], r.env["INGESTER_BATCH_SIZE"] = "firehose", "40"
			killed(t, r.program(crash.Env+"="+point))
			second := r.program(crash.Env + "=" + point)
			killed(t, second)
			last := r.program()
			r.caughtUp(n)
			ended(t, last)
			r.agrees(n)
			seen := map[string]bool{}
			events := r.events()
			for i := range events {
				e := &events[i]
				id := string(e.Type) + itoa(e.Seq) + e.Collection + e.RKey
				require.False(t, seen[id], "%s is written twice", id)
				seen[id] = true
			}
		})
	}
}

func TestKilledBetweenLabelsAndTheirCursor(t *testing.T) {
	t.Parallel()
	for _, point := range []string{crash.AfterReadBeforeAdd, crash.AfterAddBeforeReply} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			n := network(t, 6, 1, "")
			r := newRig(t, n.Env())
			r.env["INGESTER_MODE"], r.env["INGESTER_BATCH_SIZE"] = "labeler", "10"
			killed(t, r.program(crash.Env+"="+point+":1"))
			killed(t, r.program(crash.Env+"="+point+":2"))
			last := r.program()
			require.Eventually(t, func() bool {
				return r.get("label_live:cursor:"+strings.TrimPrefix(n.LabelerHost, "ws://")) == itoa(n.World.LastLabel())
			}, 60*time.Second, 10*time.Millisecond)
			ended(t, last)
			r.labels(n)
			seen := map[string]bool{}
			for _, f := range r.entries("label_live") {
				require.False(t, seen[f["event"]], "a label is written twice")
				seen[f["event"]] = true
			}
		})
	}
}

func TestKilledBetweenPageAndCursorRepeatsNoJob(t *testing.T) {
	t.Parallel()
	n := network(t, 4, 1, "")
	r := newRig(t, n.Env())
	r.env["INGESTER_MODE"] = "backfill"
	host := strings.TrimPrefix(n.RelayHost, "ws://")
	killed(t, r.program(crash.Env+"="+crash.AfterPageBeforeCursor))
	require.Empty(t, r.jobs())
	last := r.program()
	require.Eventually(t, func() bool { return r.get("repo_backfill:cursor:"+host) == "!ingester-done" }, 60*time.Second, 10*time.Millisecond)
	ended(t, last)
	seen := map[string]bool{}
	for _, j := range r.jobs() {
		require.False(t, seen[j.DID])
		seen[j.DID] = true
	}
	for _, a := range n.Truth().Accounts {
		require.True(t, seen[a.DID] || a.Status == "deleted")
	}
}

func TestKilledAtRandomUnderLoad(t *testing.T) {
	t.Parallel()
	n := simnet.Start(t, simnet.Options{World: network(t, 5, 1, "").World.Options, Rate: 100}) // seconds, so that all kills fall in the middle
	r := newRig(t, n.Env())
	r.env["INGESTER_BATCH_SIZE"] = "20"
	for i := range 4 {
		cmd := r.program()
		before := r.length("firehose_live")
		require.Eventually(t, func() bool { return r.length("firehose_live") > before+25*i }, 60*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	last := r.program()
	r.caughtUp(n)
	require.Eventually(t, func() bool {
		return r.get("label_live:cursor:"+strings.TrimPrefix(n.LabelerHost, "ws://")) == itoa(n.World.LastLabel())
	}, 60*time.Second, 10*time.Millisecond)
	require.NoError(t, last.Process.Kill()) // it may have had nothing left to do, and not be up yet
	_ = last.Wait()
	r.agrees(n)
	r.labels(n)
	seen := map[string]bool{}
	for _, f := range r.entries("label_live") {
		require.False(t, seen[f["event"]], "a label is written twice")
		seen[f["event"]] = true
	}
	events := r.events()
	for i := range events {
		e := &events[i]
		if e.Type == event.Repo {
			continue
		}
		id := string(e.Type) + itoa(e.Seq) + e.Collection + e.RKey
		require.False(t, seen[id], "%s is written twice", id)
		seen[id] = true
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	t.Parallel()
	path, err := binary()
	require.NoError(t, err)
	for name, c := range map[string]struct{ env, want []string }{
		"unknown name":  {[]string{"INGESTER_MOOD=all"}, []string{"INGESTER_MOOD", "INGESTER_MODE"}},
		"bad mode":      {[]string{"INGESTER_MODE=some"}, []string{"INGESTER_MODE", "some"}},
		"bad relay":     {[]string{"INGESTER_RELAY_HOSTS=ftp://x"}, []string{"INGESTER_RELAY_HOSTS", "ftp://x"}},
		"bad start":     {[]string{"INGESTER_FIREHOSE_START=yesterday"}, []string{"INGESTER_FIREHOSE_START", "yesterday"}},
		"bad redis url": {[]string{"REDIS_URL=http://x"}, []string{"REDIS_URL"}},
		"bad pattern":   {[]string{"INGESTER_COLLECTIONS=app.*.feed"}, []string{"INGESTER_COLLECTIONS", "app.*.feed"}},
		"bad network":   {[]string{"ALLOW_PRIVATE_NETWORK=10.0.0.0/99", "REDIS_URL=" + sharedURL(t)}, []string{"ALLOW_PRIVATE_NETWORK", "10.0.0.0/99"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, path)
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "METRICS_PORT=0"}, c.env...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 1, exit.ExitCode(), string(out))
			for _, w := range c.want {
				require.Contains(t, string(out), w)
			}
		})
	}
}
