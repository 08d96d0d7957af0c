package atproto

import (
	"bytes"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// CID is the binary form of the only CIDs that name blocks of a repository:
// version 1, DAG-CBOR, sha2-256. The zero CID names nothing.
type CID [dagcbor.SumSize]byte

var cidPrefix = []byte{0x01, 0x71, 0x12, 0x20}

// SumCID names a block.
func SumCID(block []byte) CID { return dagcbor.Sum(block) }

// ParseCID reads the text form.
func ParseCID(s string) (CID, error) {
	b, err := dagcbor.ParseCID(s)
	if err != nil {
		return CID{}, event.Dropf(event.ReasonBadCID, "cid %.80q: %w", s, err)
	}
	return cidOf(b)
}

func cidOf(b []byte) (CID, error) {
	if len(b) != len(CID{}) || !bytes.HasPrefix(b, cidPrefix) {
		return CID{}, event.Dropf(event.ReasonBadCID, "cid %x is not version 1, DAG-CBOR, sha2-256", b[:min(len(b), 40)])
	}
	return CID(b), nil
}

// IsZero says whether c names nothing.
func (c CID) IsZero() bool { return c == CID{} }

// String returns the text form, or "" for the zero CID.
func (c CID) String() string {
	if c.IsZero() {
		return ""
	}
	var buf [64]byte
	return string(dagcbor.AppendCID(buf[:0], c[:]))
}
