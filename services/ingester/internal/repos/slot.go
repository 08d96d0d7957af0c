package repos

import (
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/redstream"
	"sluice/services/ingester/internal/feed"
)

// slot is the place of one frame in the order in which its relay sent it.
type slot struct {
	relay *relay
	// seq is the relay's sequence number, 0 for a frame without one.
	seq int64
	// late: a higher seq was read before.
	late bool
	did  string
	// frame is what was read; dropped when the slot has been judged.
	frame *atproto.Frame
	bytes int64
	at    time.Time // when it was read
	time  time.Time // the frame's own, zero if it has none

	// done closes when the slot has been judged. What follows is written by
	// the judge before that and read by the writer after.
	done chan struct{}
	out  outcome
}

// outcome is what the judgement of a frame asks the writer to do before the
// cursor passes it. The zero outcome asks nothing.
type outcome struct {
	// entry is what goes to the stream; nil: nothing. Slots of several relays
	// may share one.
	entry *entry
	// resync asks for the repository as a whole.
	resync bool
	// dead parks the frame.
	dead *feed.DeadLetter
	// state is saved in the same step; empty: nothing to save.
	state string
	// fatal stops the process: our own state is in doubt.
	fatal error
	// rewind sets the cursor back to the start instead, and closes durable.
	rewind  bool
	durable chan struct{}
}

// entry is what one frame becomes in the stream: all of it or nothing.
type entry struct {
	key    string // names the commit across relays; empty with one relay
	fields []redstream.Field
	bytes  int64
	tally  tally
	// time is the frame's own.
	time time.Time
	// written is guarded by the pipeline's write turn.
	written bool
}

// tally counts the operations among the events of an entry.
type tally struct {
	creates, updates, deletes int
}

func (s *slot) finish(out outcome) {
	s.out = out
	s.frame = nil
	close(s.done)
}

func (s *slot) judged() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// about is whom a frame is about, "" where it is about nobody, and when.
func about(f *atproto.Frame) (did string, at time.Time) {
	switch f.Kind {
	case atproto.KindCommit:
		return f.Commit.DID, parseTime(f.Commit.Time)
	case atproto.KindSync:
		return f.Sync.DID, parseTime(f.Sync.Time)
	case atproto.KindAccount:
		return f.Account.DID, parseTime(f.Account.Time)
	case atproto.KindIdentity:
		return f.Identity.DID, parseTime(f.Identity.Time)
	default:
		return "", time.Time{}
	}
}

// parseTime is zero for a text that is no time.
func parseTime(text string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at
}
