package atproto

import (
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// Limits of the protocol for one commit and one record.
const (
	MaxOps    = 200
	MaxBlocks = 2_000_000
	MaxRecord = 1_000_000
)

// Commit is the body of a #commit frame. ParseFrame fills what is in the frame;
// the archive in it is opened by Verify, Open or Events.
type Commit struct {
	Seq  int64
	DID  string
	Time string
	Rev  string
	// Since is the rev before this one, as the sender says; may be empty.
	Since string
	// Commit names the signed commit.
	Commit CID
	// PrevData is the root of the tree before the commit; zero when the sender
	// did not say.
	PrevData CID
	// TooBig: the sender left out the operations; only a fetch of the repository
	// brings them.
	TooBig bool
	// Ops are at most MaxOps of NumOps.
	Ops    []Op
	NumOps int
	// Blocks is the archive as sent.
	Blocks []byte

	head   *SignedCommit
	blocks blocks
}

// Action is what an operation does.
type Action string

// The actions.
const (
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
	ActionDelete Action = "delete"
)

// Op is one operation of a commit.
type Op struct {
	Action Action
	// Path is collection/rkey as sent; Collection and RKey are set when it is
	// well-formed.
	Path       string
	Collection string
	RKey       string
	// CID is the record after the operation: create and update.
	CID CID
	// Prev is the record before it: update and delete; zero if the sender did
	// not say.
	Prev CID
	// Err says why the operation cannot be used, the rest of the commit can.
	Err error
}

func parseCommit(r *dagcbor.Reader) (*Commit, error) {
	c := new(Commit)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "seq":
			c.Seq, err = r.Int()
		case "repo":
			c.DID, err = r.Str()
		case "time":
			c.Time, err = r.Str()
		case "rev":
			c.Rev, err = r.Str()
		case "since":
			c.Since, err = optionalText(r)
		case "commit":
			c.Commit, err = optionalCID(r)
		case "prevData":
			c.PrevData, err = optionalCID(r)
		case "tooBig":
			c.TooBig, err = r.Bool()
		case "blocks":
			c.Blocks, err = r.Bytes()
		case "ops":
			err = c.parseOps(r)
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

func (c *Commit) parseOps(r *dagcbor.Reader) (err error) {
	if c.NumOps, err = r.Array(); err != nil {
		return err
	}
	c.Ops = make([]Op, 0, min(c.NumOps, MaxOps))
	for i := range c.NumOps {
		if i >= MaxOps {
			_, err = r.Item()
		} else {
			var op Op
			op, err = parseOp(r)
			c.Ops = append(c.Ops, op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseOp fails only when the frame cannot be read on; what is wrong with the
// operation itself is its Err.
func parseOp(r *dagcbor.Reader) (op Op, err error) {
	var action []byte
	err = eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "action":
			action, err = r.Text()
		case "path":
			op.Path, err = r.Str()
		case "cid":
			err = op.link(r, &op.CID)
		case "prev":
			err = op.link(r, &op.Prev)
		default:
			_, err = r.Item()
		}
		return err
	})
	op.check(string(action))
	return op, err
}

// link takes a link of any form; one that no repository can have is the
// operation's error.
func (op *Op) link(r *dagcbor.Reader, to *CID) error {
	if r.TakeNull() {
		return nil
	}
	b, err := r.Link()
	if err != nil {
		return err
	}
	c, err := cidOf(b)
	if err != nil {
		op.Err = err
	}
	*to = c
	return nil
}

func (op *Op) check(action string) {
	switch action {
	case string(ActionCreate):
		op.Action = ActionCreate
	case string(ActionUpdate):
		op.Action = ActionUpdate
	case string(ActionDelete):
		op.Action = ActionDelete
	}
	if op.Err != nil {
		return
	}
	switch {
	case op.Action == "":
		op.Err = event.Dropf(event.ReasonBadOp, "action %.16q", action)
	case op.Action == ActionDelete && !op.CID.IsZero():
		op.Err = event.Dropf(event.ReasonBadOp, "delete with a cid")
	case op.Action != ActionDelete && op.CID.IsZero():
		op.Err = event.Dropf(event.ReasonBadOp, "%s without a cid", op.Action)
	case op.Action == ActionCreate && !op.Prev.IsZero():
		op.Err = event.Dropf(event.ReasonBadOp, "create with a prev")
	default:
		op.Collection, op.RKey, op.Err = SplitPath(op.Path)
	}
}

// SplitPath takes a repository path apart and checks both halves.
func SplitPath(path string) (collection, rkey string, err error) {
	collection, rkey, ok := strings.Cut(path, "/")
	if !ok || !validRKey(rkey) {
		return "", "", event.Dropf(event.ReasonBadPath, "path %.100q", path)
	}
	if _, err := syntax.ParseNSID(collection); err != nil {
		return "", "", event.Dropf(event.ReasonBadPath, "path %.100q: %w", path, err)
	}
	return collection, rkey, nil
}

// validRKey is the syntax of record keys; the same as that of
// syntax.ParseRecordKey, and a fraction of its cost.
func validRKey(s string) bool {
	if len(s) == 0 || len(s) > 512 || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '~', c == '.', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

// Open reads the archive of the commit, hashes every block, and checks that it
// holds the commit that the frame names, of this account and revision. It does
// the work once.
func (c *Commit) Open() error {
	if c.head != nil {
		return nil
	}
	switch {
	case c.TooBig || len(c.Blocks) > MaxBlocks:
		return event.Dropf(event.ReasonTooBig, "commit of %s: too big", c.DID)
	case c.NumOps > MaxOps:
		return event.Dropf(event.ReasonTooManyOps, "commit of %s: %d operations", c.DID, c.NumOps)
	}
	if _, err := time.Parse(time.RFC3339, c.Time); err != nil {
		return event.Dropf(event.ReasonBadTime, "commit of %s: time %.40q", c.DID, c.Time)
	}
	root, bs, err := readCAR(c.Blocks)
	if err != nil {
		return err
	}
	if root != c.Commit {
		return event.Dropf(event.ReasonBadCommit, "commit of %s: frame names %s, archive %s", c.DID, c.Commit, root)
	}
	head, err := openHead(root, bs, c.DID, c.Rev)
	if err != nil {
		return err
	}
	c.head, c.blocks = head, bs
	return nil
}

// Head is the signed commit; nil before Open.
func (c *Commit) Head() *SignedCommit { return c.head }

// Record returns the record that a create or update writes, checked to be a
// map in canonical DAG-CBOR.
func (c *Commit) Record(op *Op) ([]byte, error) {
	if err := c.Open(); err != nil {
		return nil, err
	}
	b, ok := c.blocks[op.CID]
	if !ok {
		return nil, event.Dropf(event.ReasonNoRecord, "record %s of %s is not in the commit", op.Path, c.DID)
	}
	return b, checkRecord(b)
}

func checkRecord(b []byte) error {
	if len(b) > MaxRecord {
		return event.Dropf(event.ReasonTooBig, "record of %d bytes", len(b))
	}
	if err := dagcbor.Validate(b); err != nil {
		return event.Dropf(event.ReasonBadRecord, "record: %w", err)
	}
	if !dagcbor.IsMap(b) {
		return event.Dropf(event.ReasonBadRecord, "record is not a map")
	}
	return nil
}

// Events appends the operations that keep wants to dst, in their order. An
// operation that cannot be used goes to drop with the reason. An error means
// that the archive could not be opened. The records point into the frame.
func (c *Commit) Events(dst []event.Event, keep func(collection string) bool, drop func(op *Op, err error)) ([]event.Event, error) {
	if err := c.Open(); err != nil {
		return dst, err
	}
	id := c.Commit.String()
	for i := range c.Ops {
		op := &c.Ops[i]
		if op.Err != nil {
			drop(op, op.Err)
			continue
		}
		if !keep(op.Collection) {
			continue
		}
		e := event.Event{
			Type: event.Type(op.Action), Seq: c.Seq, Time: c.Time, DID: c.DID,
			Commit: id, Rev: c.Rev, Collection: op.Collection, RKey: op.RKey,
		}
		if op.Action != ActionDelete {
			record, err := c.Record(op)
			if err != nil {
				drop(op, err)
				continue
			}
			e.CID, e.RecordCBOR = op.CID.String(), record
		}
		dst = append(dst, e)
	}
	return dst, nil
}
