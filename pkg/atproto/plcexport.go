package atproto

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/fault"
)

// ErrNullified is the error of an operation that a later one has undone.
var ErrNullified = errors.New("operation is nullified")

// PLCOperation is one line of an export of the PLC directory: what an account
// is from that operation on.
type PLCOperation struct {
	Identity Identity
	// At is when the directory took the operation.
	At time.Time
	// Tombstone: the account is no more; Identity has only the DID.
	Tombstone bool
}

// plcBody has the fields of all kinds of operations: plc_operation,
// plc_tombstone, and create, which is the older form of the first.
type plcBody struct {
	Type                string            `json:"type"`
	VerificationMethods map[string]string `json:"verificationMethods"`
	AlsoKnownAs         []string          `json:"alsoKnownAs"`
	Services            map[string]struct {
		Type     string          `json:"type"`
		Endpoint json.RawMessage `json:"endpoint"`
	} `json:"services"`

	SigningKey string `json:"signingKey"`
	Handle     string `json:"handle"`
	Service    string `json:"service"`
}

// ParsePLCOperation reads one line of an export. Its errors are Permanent;
// ErrNullified is among them.
func ParsePLCOperation(line []byte) (PLCOperation, error) {
	var row struct {
		DID       string          `json:"did"`
		Operation json.RawMessage `json:"operation"`
		Nullified bool            `json:"nullified"`
		CreatedAt string          `json:"createdAt"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return PLCOperation{}, fault.Permanentf("read operation: %w", err)
	}
	if did, err := syntax.ParseDID(row.DID); err != nil || did.Method() != "plc" {
		return PLCOperation{}, fault.Permanentf("read operation: %.80q is no did:plc", row.DID)
	}
	at, err := time.Parse(time.RFC3339, row.CreatedAt)
	if err != nil {
		return PLCOperation{}, fault.Permanentf("read operation of %s: createdAt %.40q is no time", row.DID, row.CreatedAt)
	}
	op := PLCOperation{At: at, Identity: Identity{DID: row.DID}}
	if row.Nullified {
		return op, fault.As(fault.Permanent, fmt.Errorf("read operation of %s: %w", row.DID, ErrNullified))
	}
	var body plcBody
	if err := json.Unmarshal(row.Operation, &body); err != nil {
		return op, fault.Permanentf("read operation of %s: %w", row.DID, err)
	}
	switch body.Type {
	case "plc_tombstone":
		op.Tombstone = true
	case "create":
		op.Identity.fromLegacy(&body)
	case "plc_operation":
		op.Identity.fromPLC(&body)
	default:
		return op, fault.Permanentf("read operation of %s: unknown type %.40q", row.DID, body.Type)
	}
	return op, nil
}

func (i *Identity) fromPLC(b *plcBody) {
	i.Handle = documentHandle(b.AlsoKnownAs)
	i.SigningKey = exportedKey(b.VerificationMethods["atproto"])
	i.LabelerKey = exportedKey(b.VerificationMethods["atproto_label"])
	if s, ok := b.Services["atproto_pds"]; ok && s.Type == "AtprotoPersonalDataServer" {
		setEndpoint(&i.PDS, s.Endpoint)
	}
	if s, ok := b.Services["atproto_labeler"]; ok && s.Type == "AtprotoLabeler" {
		setEndpoint(&i.Labeler, s.Endpoint)
	}
}

// exportedKey is a key of an operation. It is parsed by who uses it: to parse
// those of every account takes most of the time of an import.
func exportedKey(didKey string) string {
	if !strings.HasPrefix(didKey, "did:key:z") || len(didKey) > 256 {
		return ""
	}
	return didKey
}

func (i *Identity) fromLegacy(b *plcBody) {
	i.Handle = documentHandle([]string{"at://" + strings.TrimPrefix(b.Handle, "at://")})
	i.SigningKey = exportedKey(b.SigningKey)
	service := b.Service
	if !strings.HasPrefix(service, "http://") && !strings.HasPrefix(service, "https://") {
		service = "https://" + service
	}
	if raw, err := json.Marshal(service); err == nil {
		setEndpoint(&i.PDS, raw)
	}
}

// BulkCache is a Cache that takes many at once.
type BulkCache interface {
	// GetMany returns what was stored for the DIDs, in their order; nil for
	// those without anything.
	GetMany(ctx context.Context, dids []string) ([][]byte, error)
	// SetMany stores the values for at most ttl.
	SetMany(ctx context.Context, dids []string, values [][]byte, ttl time.Duration) error
}

// ImportIdentities stores what operations of an export say, in the form that a
// Directory reads, as if it had been learned now. Of a DID the latest operation
// counts, whatever the order; one that is not newer than what is stored changes
// nothing. It returns how many were stored.
func ImportIdentities(ctx context.Context, cache BulkCache, ops []PLCOperation, ttl time.Duration) (stored int, err error) {
	latest := make(map[string]int, len(ops))
	dids := make([]string, 0, len(ops))
	for n := range ops {
		did := ops[n].Identity.DID
		before, seen := latest[did]
		if !seen {
			dids = append(dids, did)
		}
		if !seen || !ops[n].At.Before(ops[before].At) {
			latest[did] = n
		}
	}
	have, err := cache.GetMany(ctx, dids)
	if err != nil {
		return 0, fmt.Errorf("import identities: %w", err)
	}
	now := time.Now()
	names, values := make([]string, 0, len(dids)), make([][]byte, 0, len(dids))
	for n, did := range dids {
		op := &ops[latest[did]]
		if knownSince(have[n], op.At) {
			continue
		}
		v, err := op.stored(now)
		if err != nil {
			return 0, fmt.Errorf("import identity of %s: %w", did, err)
		}
		names, values = append(names, did), append(values, v)
	}
	if err := cache.SetMany(ctx, names, values, ttl); err != nil {
		return 0, fmt.Errorf("import identities: %w", err)
	}
	return len(names), nil
}

func (op *PLCOperation) stored(now time.Time) ([]byte, error) {
	k := known{id: op.Identity, at: now}
	if op.Tombstone {
		k.gone = "tombstoned"
	}
	s := op.Identity.stored(k)
	s.Operation = op.At.UnixMilli()
	return s.marshal()
}

// knownSince says whether what is stored is newer than an operation: it came
// from a later operation, or from a document that was fetched after it.
func knownSince(have []byte, at time.Time) bool {
	var s storedIdentity
	if len(bytes.TrimSpace(have)) == 0 || json.Unmarshal(have, &s) != nil {
		return false
	}
	if s.Operation > 0 {
		return s.Operation > at.UnixMilli()
	}
	return time.Unix(s.At, 0).After(at)
}
