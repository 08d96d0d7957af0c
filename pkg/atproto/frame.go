package atproto

import (
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// MaxFrame bounds one message of an event stream, in bytes.
const MaxFrame = 5_000_000

// Kind says which body a Frame has.
type Kind string

// The kinds of frames. They are a closed set, fit for a metric label.
const (
	KindCommit   Kind = "commit"
	KindSync     Kind = "sync"
	KindIdentity Kind = "identity"
	KindAccount  Kind = "account"
	KindInfo     Kind = "info"
	KindLabels   Kind = "labels"
	// KindError is a frame with op -1: the server ends the stream.
	KindError Kind = "error"
	// KindUnknown is any other: to be counted and passed over.
	KindUnknown Kind = "unknown"
)

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{KindCommit, KindSync, KindIdentity, KindAccount, KindInfo, KindLabels, KindError, KindUnknown}
}

// Frame is one message of subscribeRepos or subscribeLabels. Of the bodies the
// one that Kind names is set.
type Frame struct {
	Kind Kind
	// Type is the t of the header as sent, for logs of unknown kinds.
	Type string
	// Seq is the sequence number, also of an unknown kind; 0 where there is none.
	Seq int64

	Commit   *Commit
	Sync     *Sync
	Identity *IdentityChange
	Account  *AccountChange
	Info     *Info
	Labels   *Labels
	Error    *StreamError
}

// IdentityChange says that the DID document or the handle of an account may
// have changed. Handle may be empty.
type IdentityChange struct {
	Seq    int64
	DID    string
	Time   string
	Handle string
}

// AccountChange says whether an account is hosted and served. Status is lower
// case and empty for an active account.
type AccountChange struct {
	Seq    int64
	DID    string
	Time   string
	Active bool
	Status string
}

// Info is a notice of the server about the stream.
type Info struct {
	Name    string
	Message string
}

// InfoOutdatedCursor is the Name of the Info that says that the server no longer
// has everything since the cursor: there is a gap.
const InfoOutdatedCursor = "OutdatedCursor"

// StreamError is the reason for which the server ends the stream.
type StreamError struct {
	Name    string
	Message string
}

// The names of a StreamError that the protocol defines.
const (
	ErrorFutureCursor    = "FutureCursor"
	ErrorConsumerTooSlow = "ConsumerTooSlow"
)

func (e *StreamError) Error() string { return "stream error " + e.Name + ": " + e.Message }

// ParseFrame reads the header and the body of one message. The result points
// into b, which must not change while it is in use. An error is a
// event.DropError; when the sequence number was readable, the Frame is returned
// with it, of KindUnknown, so that a cursor can pass.
func ParseFrame(b []byte) (*Frame, error) {
	if len(b) > MaxFrame {
		return nil, event.Dropf(event.ReasonTooBig, "frame of %d bytes", len(b))
	}
	r := dagcbor.NewReader(b)
	f := &Frame{Kind: KindUnknown}
	op, err := f.header(r)
	if err != nil {
		return nil, event.Dropf(event.ReasonBadFrame, "frame header: %w", err)
	}
	body := r.Rest()
	switch op {
	case 1:
		err = f.message(r)
	case -1:
		f.Kind = KindError
		f.Error = new(StreamError)
		err = parseNotice(r, "error", &f.Error.Name, &f.Error.Message)
	default:
		_, err = r.Item()
	}
	if err == nil {
		err = r.Done()
	}
	if err == nil {
		return f, nil
	}
	if err = asDrop(event.ReasonBadFrame, "frame", err); f.Kind != KindError {
		if seq := peekSeq(body); seq > 0 {
			return &Frame{Kind: KindUnknown, Type: f.Type, Seq: seq}, err
		}
	}
	return nil, err
}

func (f *Frame) header(r *dagcbor.Reader) (op int64, err error) {
	err = eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "op":
			op, err = r.Int()
		case "t":
			f.Type, err = optionalText(r)
		default:
			_, err = r.Item()
		}
		return err
	})
	return op, err
}

func (f *Frame) message(r *dagcbor.Reader) (err error) {
	switch f.Type {
	case "#commit":
		f.Kind = KindCommit
		f.Commit, err = parseCommit(r)
		if err == nil {
			f.Seq = f.Commit.Seq
		}
	case "#sync":
		f.Kind = KindSync
		f.Sync, err = parseSync(r)
		if err == nil {
			f.Seq = f.Sync.Seq
		}
	case "#identity":
		f.Kind = KindIdentity
		f.Identity, err = parseIdentity(r)
		if err == nil {
			f.Seq = f.Identity.Seq
		}
	case "#account":
		f.Kind = KindAccount
		f.Account, err = parseAccount(r)
		if err == nil {
			f.Seq = f.Account.Seq
		}
	case "#labels":
		f.Kind = KindLabels
		f.Labels, err = parseLabels(r)
		if err == nil {
			f.Seq = f.Labels.Seq
		}
	case "#info":
		f.Kind = KindInfo
		f.Info = new(Info)
		err = parseNotice(r, "name", &f.Info.Name, &f.Info.Message)
	default:
		f.Seq = peekSeq(r.Rest())
		_, err = r.Item()
	}
	return err
}

// peekSeq finds the seq of a body that is otherwise not understood.
func peekSeq(body []byte) (seq int64) {
	r := dagcbor.NewReader(body)
	_ = eachField(r, func(key []byte) (err error) {
		if string(key) == "seq" {
			if v, err := r.Int(); err == nil && v > 0 {
				seq = v
			}
			return errStop
		}
		_, err = r.Item()
		return err
	})
	return seq
}

func parseNotice(r *dagcbor.Reader, nameKey string, name, message *string) error {
	return eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case nameKey:
			*name, err = optionalText(r)
		case "message":
			*message, err = optionalText(r)
		default:
			_, err = r.Item()
		}
		return err
	})
}

func parseIdentity(r *dagcbor.Reader) (*IdentityChange, error) {
	c := new(IdentityChange)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "seq":
			c.Seq, err = r.Int()
		case "did":
			c.DID, err = r.Str()
		case "time":
			c.Time, err = r.Str()
		case "handle":
			c.Handle, err = optionalText(r)
		default:
			_, err = r.Item()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, checkDID(c.DID)
}

func parseAccount(r *dagcbor.Reader) (*AccountChange, error) {
	c := new(AccountChange)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "seq":
			c.Seq, err = r.Int()
		case "did":
			c.DID, err = r.Str()
		case "time":
			c.Time, err = r.Str()
		case "active":
			c.Active, err = r.Bool()
		case "status":
			c.Status, err = optionalText(r)
			c.Status = strings.ToLower(c.Status)
		default:
			_, err = r.Item()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, checkDID(c.DID)
}

func checkDID(did string) error {
	if _, err := syntax.ParseDID(did); err != nil {
		return event.Dropf(event.ReasonBadDID, "did %.80q: %w", did, err)
	}
	return nil
}
