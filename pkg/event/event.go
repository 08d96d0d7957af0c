// Package event holds what travels through the streams: repository events,
// repository jobs and labels, with their JSON and protobuf forms.
package event

import "encoding/json"

// Type tags an Event.
type Type string

// The types of an Event, as written on the wire.
const (
	Create   Type = "create"
	Update   Type = "update"
	Delete   Type = "delete"
	Repo     Type = "repo"
	Account  Type = "account"
	Identity Type = "identity"
)

// SeqBackfill is the seq of an event that came from a repository fetch and not
// from a relay's sequence. -2 and, on repo, account and identity events, an
// absent seq read the same.
const SeqBackfill int64 = -1

// Event is one change of one repository: an operation of a commit, the state
// of a repository, an account or an identity. Every value is as in the frame;
// nothing is invented.
type Event struct {
	Type Type
	// Seq is the relay's sequence number, or SeqBackfill.
	Seq int64
	// Time is the frame's own time, RFC 3339. It becomes indexedAt.
	Time string
	DID  string
	// Commit is the commit CID and Rev the repository revision (a TID). Both
	// are empty on account and identity events.
	Commit string
	Rev    string
	// Collection, RKey: create, update and delete.
	Collection string
	RKey       string
	// CID of the record: create and update.
	CID string
	// Record is the record in the JSON form of the data model; RecordCBOR its
	// DAG-CBOR bytes. A create or update has at least one of them; RecordJSON
	// and DAGCBOR derive the other.
	Record     json.RawMessage
	RecordCBOR []byte
	// Snapshot marks the last event of a fetched repository; Count is then the
	// number of records emitted for it.
	Snapshot bool
	Count    int64
	// Active and Status: account. Status is lower case and may be empty.
	Active bool
	Status string
	// Handle: identity; may be empty.
	Handle string
}

// URI returns the at-uri of the record that a create, update or delete names.
func (e *Event) URI() string {
	return "at://" + e.DID + "/" + e.Collection + "/" + e.RKey
}

// Backfilled says whether the event came from a repository fetch.
func (e *Event) Backfilled() bool { return e.Seq < 0 }

// RepoJob asks the backfiller to fetch one repository.
type RepoJob struct {
	DID string `json:"did"`
	// Host is where the repository was listed. It is fetched from the PDS in
	// the DID document, not from here.
	Host string `json:"host"`
	Rev  string `json:"rev"`
	// Status and Active are as listed; Status may be empty.
	Status string `json:"status"`
	Active bool   `json:"active"`
	// Reason is one of ReasonEnumerate (also when empty), ReasonResync,
	// ReasonManual.
	Reason   string `json:"reason,omitempty"`
	Priority int    `json:"priority,omitempty"`
}

// Why a repository is fetched.
const (
	ReasonEnumerate = "enumerate"
	ReasonResync    = "resync"
	ReasonManual    = "manual"
)

// Label is one label of a labeler, with every field kept as received.
type Label struct {
	Ver *int64 `json:"ver,omitempty"`
	Src string `json:"src"`
	URI string `json:"uri"`
	// CID is empty when the label is about every version.
	CID string `json:"cid,omitempty"`
	Val string `json:"val"`
	Neg bool   `json:"neg,omitempty"`
	CTS string `json:"cts"`
	Exp string `json:"exp,omitempty"`
	// Sig is the signature, raw bytes; nil if the label is unsigned.
	Sig []byte `json:"-"`
}

// LabelEvent is one entry of label_live.
type LabelEvent struct {
	Seq   int64
	Host  string
	Label Label
}
