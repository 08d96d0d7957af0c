// Package dagcbor reads DAG-CBOR strictly: canonical form only, bounded depth
// and sizes, and turns it into the JSON form of the AT Protocol data model and
// back without a detour through Go values.
//
// Accepted is what the specification calls canonical: shortest integer heads,
// definite lengths, text map keys that are unique and sorted (by length, then
// by bytes), valid UTF-8, tag 42 with a CID and no other tag, and nothing
// after the value. Integers are those of int64. Nesting ends at MaxDepth.
//
// The data model has no floats, but AppViews keep a record that has one in a
// field that its lexicon does not know. So a finite float of 64 bits, the only
// width that DAG-CBOR has, is kept: as a JSON number with a fraction or an
// exponent, which FromJSON reads as a float again. NaN, infinities and shorter
// floats are errors, and so is undefined.
//
// Source: https://ipld.io/specs/codecs/dag-cbor/spec/ and
// https://atproto.com/specs/data-model.
package dagcbor

import "fmt"

// MaxDepth is how many maps and arrays may stand in each other.
const MaxDepth = 64

// Error tells what is wrong with an input and where.
type Error struct {
	// Offset is the byte of the input at which the error was seen.
	Offset int
	// Msg is one of a closed set of texts; none quotes the input.
	Msg string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Msg, e.Offset)
}

const (
	errShort     = "unexpected end of input"
	errTrailing  = "bytes after the value"
	errMinimal   = "integer not in its shortest form"
	errLength    = "indefinite or reserved length"
	errRange     = "integer outside of int64"
	errUTF8      = "invalid UTF-8"
	errDepth     = "nested too deeply"
	errKeyType   = "map key is not text"
	errKeyOrder  = "map keys not sorted or not unique"
	errTag       = "tag other than 42"
	errLink      = "malformed CID"
	errSimple    = "simple value other than false, true, null"
	errFloat     = "float that is not a finite one of 64 bits"
	errKind      = "value of another kind"
	errDuplicate = "duplicate key"
	errSyntax    = "malformed JSON"
	errSurrogate = "lone surrogate in a JSON string"
	errBase64    = "malformed base64"
)
