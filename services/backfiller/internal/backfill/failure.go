package backfill

import (
	"errors"
	"fmt"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
)

// Reason says why a repository could not be read. The set is closed; it is a
// metric label and stands in the recorded state of a repository.
type Reason string

// The reasons, by what is done about them. docs/backfill-errors.md is the table
// for operators.
const (
	// The repository is gone: recorded as its state, acked.
	RepoNotFound    Reason = "repo_not_found"
	RepoTakendown   Reason = "repo_takendown"
	RepoSuspended   Reason = "repo_suspended"
	RepoDeactivated Reason = "repo_deactivated"
	DIDGone         Reason = "did_gone"
	NoPDS           Reason = "no_pds"
	BadPDS          Reason = "bad_pds"
	AddressRefused  Reason = "address_refused"

	// The host is in trouble: it is parked, and the repository is tried again.
	HostUnreachable Reason = "host_unreachable"
	HostTimeout     Reason = "host_timeout"
	HostError       Reason = "host_error"
	HostThrottled   Reason = "host_throttled"
	HostDead        Reason = "host_dead"
	BodySlow        Reason = "body_slow"

	// This fetch went wrong: it is tried again after a delay.
	BodyCut          Reason = "body_cut"
	Redirected       Reason = "redirected"
	BadResponse      Reason = "bad_response"
	CARInvalid       Reason = "car_invalid"
	BlockMissing     Reason = "block_missing"
	BlockCorrupt     Reason = "block_corrupt"
	MSTInvalid       Reason = "mst_invalid"
	CommitInvalid    Reason = "commit_invalid"
	SignatureInvalid Reason = "signature_invalid"
	IdentityFailed   Reason = "identity_failed"
	RepoBehind       Reason = "repo_behind"

	// Trying again cannot help: dead letters at once.
	TooLarge  Reason = "too_large"
	OldFormat Reason = "old_format"
)

// action is what the settling of a failure does with the job.
type action uint8

const (
	// actRetry: one attempt is charged and the job comes back after a delay.
	actRetry action = iota
	// actHost: as actRetry, and the host is parked.
	actHost
	// actThrottle: the host is parked; the job waits for it and is not charged.
	actThrottle
	// actGone: the state is recorded and the job acked.
	actGone
	// actDead: the job goes to the dead letters.
	actDead
)

// stage is which of the error counters of the contracts a reason moves.
type stage uint8

const (
	stageFetch stage = iota
	stageParse
	stageVerify
)

type rule struct {
	act   action
	stage stage
}

// rules is the table of docs/backfill-errors.md.
var rules = map[Reason]rule{
	RepoNotFound:    {actGone, stageFetch},
	RepoTakendown:   {actGone, stageFetch},
	RepoSuspended:   {actGone, stageFetch},
	RepoDeactivated: {actGone, stageFetch},
	DIDGone:         {actGone, stageFetch},
	NoPDS:           {actGone, stageFetch},
	BadPDS:          {actGone, stageFetch},
	AddressRefused:  {actGone, stageFetch},

	HostUnreachable: {actHost, stageFetch},
	HostTimeout:     {actHost, stageFetch},
	HostError:       {actHost, stageFetch},
	HostThrottled:   {actThrottle, stageFetch},
	HostDead:        {actRetry, stageFetch},
	BodySlow:        {actHost, stageFetch},

	BodyCut:          {actRetry, stageFetch},
	Redirected:       {actRetry, stageFetch},
	BadResponse:      {actRetry, stageFetch},
	CARInvalid:       {actRetry, stageParse},
	BlockMissing:     {actRetry, stageParse},
	BlockCorrupt:     {actRetry, stageParse},
	MSTInvalid:       {actRetry, stageParse},
	CommitInvalid:    {actRetry, stageVerify},
	SignatureInvalid: {actRetry, stageVerify},
	IdentityFailed:   {actRetry, stageFetch},
	RepoBehind:       {actRetry, stageVerify},

	TooLarge:  {actDead, stageFetch},
	OldFormat: {actDead, stageVerify},
}

// RepoError is one failed attempt at a repository.
type RepoError struct {
	Reason Reason
	// RetryAfter is how long the host asked to be left alone; 0 if it did not.
	RetryAfter time.Duration
	Err        error
}

func (f *RepoError) Error() string {
	if f.Err == nil {
		return string(f.Reason)
	}
	return string(f.Reason) + ": " + f.Err.Error()
}

// Unwrap returns the cause.
func (f *RepoError) Unwrap() error { return f.Err }

func (f *RepoError) rule() rule { return rules[f.Reason] }

// stale says that the identity may be out of date: the repository may be at
// another host by now, or signed with another key.
func (f *RepoError) stale() bool {
	switch f.Reason {
	case RepoNotFound, RepoDeactivated, RepoTakendown, SignatureInvalid, HostUnreachable, RepoBehind:
		return true
	default:
		return false
	}
}

// ofArchive are the reasons of a repository that came and cannot be used.
var ofArchive = map[event.Reason]Reason{
	event.ReasonBadCAR:       CARInvalid,
	event.ReasonTruncated:    BodyCut,
	event.ReasonBadBlock:     BlockCorrupt,
	event.ReasonBadCID:       BlockCorrupt,
	event.ReasonMissingBlock: BlockMissing,
	event.ReasonNoRecord:     BlockMissing,
	event.ReasonBadTree:      MSTInvalid,
	event.ReasonBadPath:      MSTInvalid,
	event.ReasonBadCommit:    CommitInvalid,
	event.ReasonBadRev:       CommitInvalid,
	event.ReasonFutureRev:    CommitInvalid,
	event.ReasonOldVersion:   OldFormat,
	event.ReasonBadDID:       CommitInvalid,
	event.ReasonBadSignature: SignatureInvalid,
	event.ReasonNoIdentity:   SignatureInvalid,
	event.ReasonTooBig:       TooLarge,
}

// archiveFailure classes an error of reading the archive; nil when the archive
// is not to blame.
func archiveFailure(err error) *RepoError {
	if f := asFailure(err); f != nil {
		return f // of the body, which the archive was read from
	}
	reason := atproto.ReasonOf(err)
	if reason == "" {
		return nil
	}
	mine, ok := ofArchive[reason]
	if !ok {
		mine = CARInvalid
	}
	return &RepoError{Reason: mine, Err: err}
}

func failf(r Reason, format string, args ...any) *RepoError {
	return &RepoError{Reason: r, Err: fmt.Errorf(format, args...)}
}

// asFailure finds the RepoError in a chain of errors, or nil.
func asFailure(err error) *RepoError {
	f, _ := errors.AsType[*RepoError](err)
	return f
}

// orFailure is err as the RepoError that it is, or err itself.
func orFailure(err error) error {
	if f := archiveFailure(err); f != nil {
		return f
	}
	return err
}
