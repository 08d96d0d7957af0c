package event

import (
	"fmt"

	"sluice/pkg/fault"
)

// Reason says why something from outside was dropped or parked. The set is
// closed, so it can be a metric label.
type Reason string

// The reasons. Those of frames and repositories first, those of stream entries
// after them.
const (
	ReasonBadFrame     Reason = "bad_frame"     // not a header and a body
	ReasonUnknownKind  Reason = "unknown_kind"  // a kind of frame that is not known
	ReasonTooBig       Reason = "too_big"       // over a limit of the protocol, or marked tooBig
	ReasonTooManyOps   Reason = "too_many_ops"  // more than 200 operations in a commit
	ReasonBadDID       Reason = "bad_did"       // not a DID
	ReasonBadRev       Reason = "bad_rev"       // not a TID, or not that of the signed commit
	ReasonFutureRev    Reason = "future_rev"    // revision ahead of the clock
	ReasonBadTime      Reason = "bad_time"      // time of a frame not RFC 3339
	ReasonBadOp        Reason = "bad_op"        // operation without what its action needs
	ReasonBadPath      Reason = "bad_path"      // collection or record key malformed
	ReasonBadCID       Reason = "bad_cid"       // CID that no repository can have, or not that of the tree
	ReasonBadCAR       Reason = "bad_car"       // archive malformed
	ReasonTruncated    Reason = "truncated"     // archive ends in the middle
	ReasonBadBlock     Reason = "bad_block"     // block that does not hash to its CID
	ReasonMissingBlock Reason = "missing_block" // block that is referred to is not there
	ReasonBadCommit    Reason = "bad_commit"    // signed commit malformed or of another repository
	ReasonOldVersion   Reason = "old_version"   // repository format before 3
	ReasonBadTree      Reason = "bad_tree"      // search tree malformed
	ReasonBadProof     Reason = "bad_proof"     // operations do not lead from prevData to the tree
	ReasonBadSignature Reason = "bad_signature" // signature not by the key of the account
	ReasonNoIdentity   Reason = "no_identity"   // DID not found, tombstoned, or without key
	ReasonBadRecord    Reason = "bad_record"    // record is not a map in canonical DAG-CBOR
	ReasonNoRecord     Reason = "no_record"     // record is absent
	ReasonBadLabel     Reason = "bad_label"     // label without src, uri, val or cts
	ReasonBadHandle    Reason = "bad_handle"    // not a handle
	ReasonBadEntry     Reason = "bad_entry"     // stream entry that cannot be read
	ReasonBadType      Reason = "bad_type"      // stream entry of a type that is not known
	ReasonRejected     Reason = "rejected"      // readable, and refused by what applies it

	ReasonBadValue    Reason = "bad_value"       // readable, with a value that the database cannot hold
	ReasonUnreachable Reason = "pds_unreachable" // of an account whose server did not answer when it was asked
)

// Reasons lists every reason, for metrics that are complete from the start.
func Reasons() []Reason {
	return []Reason{
		ReasonBadFrame, ReasonUnknownKind, ReasonTooBig, ReasonTooManyOps, ReasonBadDID, ReasonBadRev,
		ReasonFutureRev, ReasonBadTime, ReasonBadOp, ReasonBadPath, ReasonBadCID, ReasonBadCAR,
		ReasonTruncated, ReasonBadBlock, ReasonMissingBlock, ReasonBadCommit, ReasonOldVersion,
		ReasonBadTree, ReasonBadProof, ReasonBadSignature, ReasonNoIdentity, ReasonBadRecord,
		ReasonNoRecord, ReasonBadLabel, ReasonBadHandle, ReasonBadEntry, ReasonBadType, ReasonRejected,
		ReasonBadValue, ReasonUnreachable,
	}
}

// DropError is the error of an input that cannot be used, with the reason. Drop
// and Dropf make it Permanent; who knows that the input may come whole another
// time wraps it as Transient.
type DropError struct {
	Reason Reason
	Err    error
}

func (e *DropError) Error() string { return string(e.Reason) + ": " + e.Err.Error() }
func (e *DropError) Unwrap() error { return e.Err }

// Drop makes a Permanent error with a reason.
func Drop(reason Reason, err error) error {
	return fault.As(fault.Permanent, &DropError{Reason: reason, Err: err})
}

// Dropf formats a Permanent error with a reason; %w works as in fmt.Errorf.
func Dropf(reason Reason, format string, args ...any) error {
	return Drop(reason, fmt.Errorf(format, args...))
}
