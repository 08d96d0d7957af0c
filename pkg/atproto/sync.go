package atproto

import (
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// Sync is the body of a #sync frame: the state of a repository without the
// operations that led there. What is in it can only be had by fetching.
type Sync struct {
	Seq    int64
	DID    string
	Time   string
	Rev    string
	Blocks []byte

	head *SignedCommit
}

func parseSync(r *dagcbor.Reader) (*Sync, error) {
	s := new(Sync)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "seq":
			s.Seq, err = r.Int()
		case "did":
			s.DID, err = r.Str()
		case "time":
			s.Time, err = r.Str()
		case "rev":
			s.Rev, err = r.Str()
		case "blocks":
			s.Blocks, err = r.Bytes()
		default:
			_, err = r.Item()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, checkDID(s.DID)
}

// Open reads the signed commit of the frame. It does the work once.
func (s *Sync) Open() error {
	if s.head != nil {
		return nil
	}
	if len(s.Blocks) > MaxBlocks {
		return event.Dropf(event.ReasonTooBig, "sync of %s: %d bytes", s.DID, len(s.Blocks))
	}
	root, bs, err := readCAR(s.Blocks)
	if err != nil {
		return err
	}
	s.head, err = openHead(root, bs, s.DID, s.Rev)
	return err
}

// Head is the signed commit; nil before Open.
func (s *Sync) Head() *SignedCommit { return s.head }
