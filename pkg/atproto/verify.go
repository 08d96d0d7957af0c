package atproto

import (
	"context"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/maypok86/otter/v2"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// Level says how much of a commit is verified.
type Level string

// The levels. Each includes the ones before it.
const (
	// Off: blocks hash to their CIDs, and the archive is that of the frame.
	Off Level = "off"
	// Structure: the operations lead from prevData to the tree.
	Structure Level = "structure"
	// Full: the commit is signed with the key of the account.
	Full Level = "full"
)

// futureTolerance is how far a revision may be ahead of the clock.
const futureTolerance = 5 * time.Minute

// KeySource knows the signing keys of accounts.
type KeySource interface {
	// Identity returns what is known of an account, maybe from a cache. It may
	// block on the network, and is safe for concurrent use. An account that does
	// not exist is a Permanent error.
	Identity(ctx context.Context, did string) (Identity, error)
	// Refresh is Identity past the caches.
	Refresh(ctx context.Context, did string) (Identity, error)
}

// Verdict is what verification has shown.
type Verdict struct {
	// Proven: the operations lead from PrevData to the tree. Not so at level
	// off, and when the sender gave no PrevData: the commit is then taken as the
	// first that is seen of the account.
	Proven bool
	// Signed: the signature was checked.
	Signed bool
	// Data is the root of the tree after the commit; compare the PrevData of
	// the next commit of the account with it.
	Data CID
}

// refreshEvery is how often a bad signature makes the key of one account be
// fetched anew. An identity that was refreshed for another reason counts at
// once.
const refreshEvery = 30 * time.Second

// Verifier verifies commits. It is safe for concurrent use.
// NewVerifier makes one; a literal works too, and then fetches the key anew for
// every bad signature.
type Verifier struct {
	// Keys is needed for level Full only.
	Keys KeySource
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// refused are the accounts whose signature was bad by a key that was fetched
	// for it.
	refused *otter.Cache[string, refusal]
}

type refusal struct {
	key string
	at  time.Time
}

// NewVerifier makes a Verifier. The keys are needed for level Full only; a nil
// now is time.Now.
func NewVerifier(keys KeySource, now func() time.Time) *Verifier {
	return &Verifier{Keys: keys, Now: now, refused: otter.Must(&otter.Options[string, refusal]{
		MaximumSize: 10_000,
		Executor:    func(task func()) { task() },
	})}
}

// Verify checks a commit to a level. A commit that is wrong is an
// event.DropError; that a key could not be had is Transient.
func (v *Verifier) Verify(ctx context.Context, c *Commit, level Level) (Verdict, error) {
	if err := c.Open(); err != nil {
		return Verdict{}, err
	}
	out := Verdict{Data: c.head.Data}
	if level == Off {
		return out, nil
	}
	if err := v.checkRev(c.Rev); err != nil {
		return Verdict{}, err
	}
	proven, err := c.prove()
	if err != nil {
		return Verdict{}, fault.As(fault.ClassOf(err), fmt.Errorf("commit %s of %s: %w", c.Rev, c.DID, err))
	}
	out.Proven = proven
	if level == Structure {
		return out, nil
	}
	if err := v.Signature(ctx, c.head); err != nil {
		return Verdict{}, err
	}
	out.Signed = true
	return out, nil
}

// VerifySync checks a #sync frame to a level, as Verify does for a commit.
func (v *Verifier) VerifySync(ctx context.Context, s *Sync, level Level) (Verdict, error) {
	if err := s.Open(); err != nil {
		return Verdict{}, err
	}
	out := Verdict{Data: s.head.Data}
	if level == Off {
		return out, nil
	}
	if err := v.checkRev(s.Rev); err != nil {
		return Verdict{}, err
	}
	if level == Structure {
		return out, nil
	}
	if err := v.Signature(ctx, s.head); err != nil {
		return Verdict{}, err
	}
	out.Signed = true
	return out, nil
}

func (v *Verifier) checkRev(rev string) error {
	tid, err := syntax.ParseTID(rev)
	if err != nil {
		return event.Dropf(event.ReasonBadRev, "rev %.40q: %w", rev, err)
	}
	if ahead := tid.Time().Sub(v.clock()); ahead > futureTolerance {
		return event.Dropf(event.ReasonFutureRev, "rev %s is %s ahead of the clock", rev, ahead.Round(time.Second))
	}
	return nil
}

// prove shows that the tree has what the operations say, and that without them
// it is the tree of prevData.
func (c *Commit) prove() (bool, error) {
	for i := range c.Ops {
		op := &c.Ops[i]
		if reason := ReasonOf(op.Err); op.Err != nil && reason != event.ReasonBadPath {
			return false, op.Err
		}
		if op.Action != ActionDelete {
			if _, ok := c.blocks[op.CID]; !ok {
				return false, event.Dropf(event.ReasonNoRecord, "record %s is not in the commit", op.Path)
			}
		}
	}
	first := c.PrevData.IsZero()
	t, err := openTree(c.head.Data, c.blocks)
	if err != nil {
		return false, err
	}
	if err := t.check(c.Ops, first); err != nil {
		return false, err
	}
	if first {
		return false, nil
	}
	if err := t.invert(c.Ops); err != nil {
		return false, err
	}
	if got := t.hash(); got != c.PrevData {
		return false, event.Dropf(event.ReasonBadProof, "operations lead back to %s, prevData is %s", got, c.PrevData)
	}
	return true, nil
}

// Signature checks a signed commit against the key that is known, and once more
// against the key of now if that fails.
func (v *Verifier) Signature(ctx context.Context, head *SignedCommit) error {
	id, err := v.Keys.Identity(ctx, head.DID)
	if err != nil {
		return err
	}
	err = verifyWith(id, head)
	if err == nil {
		return nil
	}
	if v.refusedLately(id) {
		return err
	}
	fresh, ferr := v.Keys.Refresh(ctx, head.DID)
	if ferr != nil {
		return ferr
	}
	if fresh.SigningKey != id.SigningKey {
		err = verifyWith(fresh, head)
	}
	if err != nil && v.refused != nil {
		v.refused.Set(head.DID, refusal{key: fresh.SigningKey, at: v.clock()})
	}
	return err
}

func (v *Verifier) refusedLately(id Identity) bool {
	if v.refused == nil {
		return false
	}
	last, ok := v.refused.GetIfPresent(id.DID)
	return ok && last.key == id.SigningKey && v.clock().Sub(last.at) < refreshEvery
}

func (v *Verifier) clock() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}

func verifyWith(id Identity, head *SignedCommit) error {
	key, err := id.PublicKey()
	if err != nil {
		return err
	}
	return head.Verify(key)
}
