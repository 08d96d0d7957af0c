package backfill

import (
	"strconv"
	"strings"
	"time"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
)

// attemptsField carries the attempts that a job has cost so far, beside the
// job itself. An entry without it has cost none.
const attemptsField = "attempts"

// task is one job on its way through the process.
type task struct {
	job *event.RepoJob
	// from is the reader that the delivery belongs to.
	from     *reader
	delivery redstream.Delivery
	class    class
	attempts int
	// known is what was recorded of the repository when the job was read.
	known Record
	// pds is the base URL of the host that has the repository; set by resolving.
	pds string
	// fresh: the DID document was asked for anew in this attempt.
	fresh bool
}

// did is whose repository it is; empty for an entry that cannot be read.
func (t *task) did() string {
	if t.job == nil {
		return ""
	}
	return t.job.DID
}

// covered says whether the repository was already emitted at the rev of the
// job. What an operator asks for is always done.
func (t *task) covered() bool {
	return t.job.Reason != event.ReasonManual && t.known.covers(t.job.Rev)
}

// queued is when the entry was written: by its id, which begins with the
// milliseconds.
func (t *task) queued() time.Time {
	text, _, _ := strings.Cut(t.delivery.ID, "-")
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func classOf(j *event.RepoJob) class {
	if j.Priority > 0 || (j.Reason != "" && j.Reason != event.ReasonEnumerate) {
		return urgent
	}
	return bulk
}

// attemptsOf reads the attempts of an entry; what is no number counts as none.
func attemptsOf(e redstream.Entry) int {
	v, _ := e.Get(attemptsField)
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// withAttempts are the fields of the entry with another number of attempts.
func withAttempts(e redstream.Entry, attempts int) []redstream.Field {
	out := make([]redstream.Field, 0, len(e.Fields)+1)
	for _, f := range e.Fields {
		if f.Name != attemptsField {
			out = append(out, f)
		}
	}
	if attempts > 0 {
		out = append(out, redstream.Field{Name: attemptsField, Value: strconv.Itoa(attempts)})
	}
	return out
}
