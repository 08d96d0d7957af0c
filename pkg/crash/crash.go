// Package crash names the points between two durable steps at which a test may
// kill the process. In production no point is armed and Point costs one atomic
// load.
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env arms one point: "name" kills at the first visit, "name:n" at the n-th.
const Env = "SLUICE_CRASH_POINT"

// The points, in the order of the walk of one event.
const (
	AfterReadBeforeAdd     = "after_read_before_add"
	AfterAddBeforeReply    = "after_add_before_reply"
	AfterReadBeforeApply   = "after_read_before_apply"
	InsideTx               = "inside_tx"
	AfterCommitBeforeAck   = "after_commit_before_ack"
	AfterAckBeforeTrim     = "after_ack_before_trim"
	AfterChunkBeforeNext   = "after_chunk_before_next"
	AfterRepoBeforeAck     = "after_repo_before_ack"
	AfterStateBeforeSettle = "after_state_before_settle"
	AfterParkBeforeAck     = "after_park_before_ack"
	AfterPageBeforeCursor  = "after_page_before_cursor"
	AfterFoldBeforeCommit  = "after_fold_before_commit"
	AfterSweepBeforeCommit = "after_sweep_before_commit"
)

type arming struct {
	name string
	left atomic.Int64
}

var armed = load(os.Getenv(Env))

func load(v string) *arming {
	if v == "" {
		return nil
	}
	name, count, found := strings.Cut(v, ":")
	a := &arming{name: name}
	a.left.Store(1)
	if n, err := strconv.ParseInt(count, 10, 64); found && err == nil && n > 0 {
		a.left.Store(n)
	}
	return a
}

// Point kills the process with SIGKILL if name is the armed point and this is
// the visit it was armed for. Otherwise it does nothing.
func Point(name string) {
	if armed == nil || armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal may take a moment; nothing after the point may run
}
