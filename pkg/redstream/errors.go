package redstream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// Errors a caller may ask for with errors.Is. Their class says what to do.
var (
	// ErrTooOld: the server is older than Redis 7.0. Fatal.
	ErrTooOld = errors.New("redis is older than 7.0")
	// ErrEvicting: maxmemory-policy is not noeviction, so Redis may delete a
	// whole stream to make room. Fatal.
	ErrEvicting = errors.New("redis maxmemory-policy is not noeviction")
	// ErrWrongType: a key of ours holds something that is not a stream. Fatal.
	ErrWrongType = errors.New("key holds another type")
	// ErrDenied: the credentials or the access list refuse a command. Fatal.
	ErrDenied = errors.New("redis denies access")
	// ErrUnsupported: the server does not know a command or an option. Fatal.
	ErrUnsupported = errors.New("redis does not support the command")
	// ErrMemory: Redis has reached maxmemory and refuses the write. Transient.
	ErrMemory = errors.New("redis is out of memory")
	// ErrNoGroup: the stream or the consumer group is gone. Transient: a
	// consumer creates it again at 0.
	ErrNoGroup = errors.New("stream or group is gone")
	// ErrBadID: an id that is not of the form ms-seq. Permanent.
	ErrBadID = errors.New("malformed stream id")
	// ErrCursorMoved: the stored cursor is not the one this writer goes on
	// from: Redis lost its tail, or somebody else wrote. Fatal unless the
	// caller reads the cursor again, calls Writer.Resume and starts there.
	ErrCursorMoved = errors.New("cursor moved")
	// ErrBadCursor: a numeric cursor key holds something else. Fatal.
	ErrBadCursor = errors.New("cursor is not a number")
	// ErrOrder: the items of an append are not in ascending order of Seq, or
	// reach beyond the cursor that goes with them. Permanent.
	ErrOrder = errors.New("items out of order")
	// ErrTooWide: an entry with more fields than a script can carry. Permanent.
	ErrTooWide = errors.New("too many fields")
	// ErrSlot: on a cluster, keys that must change together are in different
	// slots. Fatal.
	ErrSlot = errors.New("keys are in different cluster slots")
	// ErrClosed: the writer or consumer was closed.
	ErrClosed = errors.New("closed")
	// ErrNotFound: no such entry.
	ErrNotFound = errors.New("no such entry")
)

type rule struct {
	prefix string // first word of the reply, or a text within it when it starts with '*'
	is     error
	class  fault.Class
}

// rules are tried in order against the text of an error reply; a reply that
// matches none is Transient, as are all errors of the connection.
var rules = []rule{
	{"OOM", ErrMemory, fault.Transient},
	{"WRONGTYPE", ErrWrongType, fault.Fatal},
	{"NOGROUP", ErrNoGroup, fault.Transient},
	{"UNBLOCKED", ErrNoGroup, fault.Transient},
	{"NOAUTH", ErrDenied, fault.Fatal},
	{"WRONGPASS", ErrDenied, fault.Fatal},
	{"NOPERM", ErrDenied, fault.Fatal},
	{"CROSSSLOT", ErrSlot, fault.Fatal},
	{"*Invalid stream ID", ErrBadID, fault.Permanent},
	{"*unknown command", ErrUnsupported, fault.Fatal},
	{"*Unknown Redis command", ErrUnsupported, fault.Fatal},
	{"*syntax error", ErrUnsupported, fault.Fatal},
	{"*requires the key to exist", ErrNoGroup, fault.Transient},
	{"*no such key", ErrNoGroup, fault.Transient},
}

// classify wraps err with what was done and gives it its class and its name.
// This is the only place that looks at the text of a reply.
func classify(op, key string, err error) error {
	if err == nil {
		return nil
	}
	what := op
	if key != "" {
		what = op + " " + key
	}
	reply, ok := rueidis.IsRedisErr(err)
	if !ok {
		return fmt.Errorf("%s: %w", what, err)
	}
	text := reply.Error()
	for _, r := range rules {
		within, anywhere := strings.CutPrefix(r.prefix, "*")
		if anywhere && strings.Contains(text, within) || !anywhere && strings.HasPrefix(text, r.prefix) {
			return fault.As(r.class, fmt.Errorf("%s: %w: %s", what, r.is, text))
		}
	}
	// An aborted transaction names the cause of its first refused command.
	if strings.HasPrefix(text, "EXECABORT") && strings.Contains(text, "OOM") {
		return fmt.Errorf("%s: %w: %s", what, ErrMemory, text)
	}
	return fmt.Errorf("%s: %w", what, err)
}
