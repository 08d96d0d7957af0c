package dagcbor

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// Kind is the kind of the next value of a Reader.
type Kind uint8

// The kinds of the data model, and End when nothing is left.
const (
	End Kind = iota
	Int
	Bytes
	Text
	Array
	Map
	Link
	Bool
	Null
	Float
	Invalid
)

const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6

	byteFalse = 0xf4
	byteTrue  = 0xf5
	byteNull  = 0xf6
	byteF64   = 0xfb
)

// Reader takes DAG-CBOR values apart one by one without copying: what it
// returns points into the input. It checks each value by itself; the order of
// map keys is the caller's, or Value's, to check. The zero Reader is at its end.
type Reader struct {
	b   []byte
	pos int
	// anyOrder: the order of map keys is not checked.
	anyOrder bool
}

// NewReader reads b, which must not change while results are in use.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Pos is the offset of the next value.
func (r *Reader) Pos() int { return r.pos }

// Rest is what has not been read.
func (r *Reader) Rest() []byte { return r.b[r.pos:] }

// Done is an error when anything is left.
func (r *Reader) Done() error {
	if r.pos != len(r.b) {
		return r.fail(errTrailing)
	}
	return nil
}

func (r *Reader) fail(msg string) error { return &Error{Offset: r.pos, Msg: msg} }

// Kind looks at the next value without taking it.
func (r *Reader) Kind() Kind {
	if r.pos >= len(r.b) {
		return End
	}
	c := r.b[r.pos]
	switch c >> 5 {
	case majorUint, majorNint:
		return Int
	case majorBytes:
		return Bytes
	case majorText:
		return Text
	case majorArray:
		return Array
	case majorMap:
		return Map
	case majorTag:
		return Link
	}
	switch c {
	case byteFalse, byteTrue:
		return Bool
	case byteNull:
		return Null
	case byteF64:
		return Float
	}
	return Invalid
}

// head takes a head byte and its argument. Not for major 7.
func (r *Reader) head() (major byte, arg uint64, err error) {
	if r.pos >= len(r.b) {
		return 0, 0, r.fail(errShort)
	}
	c := r.b[r.pos]
	if c&31 < 24 {
		r.pos++
		return c >> 5, uint64(c & 31), nil
	}
	return r.longHead(c)
}

func (r *Reader) longHead(c byte) (major byte, arg uint64, err error) {
	info := c & 31
	if info > 27 {
		return 0, 0, r.fail(errLength)
	}
	size := 1 << (info - 24)
	if len(r.b)-r.pos-1 < size {
		return 0, 0, r.fail(errShort)
	}
	p := r.b[r.pos+1:]
	floor := uint64(24)
	switch size {
	case 1:
		arg = uint64(p[0])
	case 2:
		arg, floor = uint64(binary.BigEndian.Uint16(p)), 1<<8
	case 4:
		arg, floor = uint64(binary.BigEndian.Uint32(p)), 1<<16
	default:
		arg, floor = binary.BigEndian.Uint64(p), 1<<32
	}
	if arg < floor {
		return 0, 0, r.fail(errMinimal)
	}
	r.pos += 1 + size
	return c >> 5, arg, nil
}

func (r *Reader) want(major byte) (uint64, error) {
	start := r.pos
	m, arg, err := r.head()
	if err != nil {
		return 0, err
	}
	if m != major {
		r.pos = start
		return 0, r.fail(errKind)
	}
	return arg, nil
}

// count takes the head of a container and bounds it by the bytes that are
// left, so that a caller may allocate for it.
func (r *Reader) count(major byte, each int) (int, error) {
	n, err := r.want(major)
	if err != nil {
		return 0, err
	}
	if n > uint64(len(r.b)-r.pos)/uint64(each) {
		return 0, r.fail(errShort)
	}
	return int(n), nil
}

// Map takes the head of a map and returns its number of pairs.
func (r *Reader) Map() (int, error) { return r.count(majorMap, 2) }

// Array takes the head of an array and returns its length.
func (r *Reader) Array() (int, error) { return r.count(majorArray, 1) }

func (r *Reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.b)-r.pos) {
		return nil, r.fail(errShort)
	}
	b := r.b[r.pos : r.pos+int(n) : r.pos+int(n)]
	r.pos += int(n)
	return b, nil
}

// Bytes takes a byte string.
func (r *Reader) Bytes() ([]byte, error) {
	n, err := r.want(majorBytes)
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// Text takes a text string, which is valid UTF-8.
func (r *Reader) Text() ([]byte, error) {
	n, err := r.want(majorText)
	if err != nil {
		return nil, err
	}
	b, err := r.take(n)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		return nil, r.fail(errUTF8)
	}
	return b, nil
}

// Str is Text, copied into a string.
func (r *Reader) Str() (string, error) {
	b, err := r.Text()
	return string(b), err
}

// Int takes an integer.
func (r *Reader) Int() (int64, error) {
	major, arg, err := r.head()
	switch {
	case err != nil:
		return 0, err
	case major > majorNint:
		return 0, r.fail(errKind)
	case arg > math.MaxInt64:
		return 0, r.fail(errRange)
	case major == majorNint:
		return -1 - int64(arg), nil
	}
	return int64(arg), nil
}

// Bool takes false or true.
func (r *Reader) Bool() (bool, error) {
	if r.Kind() != Bool {
		return false, r.fail(errKind)
	}
	r.pos++
	return r.b[r.pos-1] == byteTrue, nil
}

// TakeNull takes a null if it is next and says whether it was.
func (r *Reader) TakeNull() bool {
	if r.pos < len(r.b) && r.b[r.pos] == byteNull {
		r.pos++
		return true
	}
	return false
}

// Link takes a CID and returns its binary form, without the leading zero that
// tag 42 has.
func (r *Reader) Link() ([]byte, error) {
	tag, err := r.want(majorTag)
	if err != nil {
		return nil, err
	}
	return r.linkBody(tag)
}

func (r *Reader) linkBody(tag uint64) ([]byte, error) {
	if tag != 42 {
		return nil, r.fail(errTag)
	}
	b, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	if len(b) < 1 || b[0] != 0 || !validCID(b[1:]) {
		return nil, r.fail(errLink)
	}
	return b[1:], nil
}

// Float takes a finite float of 64 bits.
func (r *Reader) Float() (float64, error) {
	if r.Kind() != Float {
		return 0, r.fail(errFloat)
	}
	if len(r.b)-r.pos < 9 {
		return 0, r.fail(errShort)
	}
	f := math.Float64frombits(binary.BigEndian.Uint64(r.b[r.pos+1:]))
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, r.fail(errFloat)
	}
	r.pos += 9
	return f, nil
}

// Item takes one whole value like Value, but does not ask for an order of map
// keys: for envelopes, which nothing is computed from.
func (r *Reader) Item() ([]byte, error) {
	r.anyOrder = true
	b, err := r.Value()
	r.anyOrder = false
	return b, err
}

// Value takes one whole value, checks it as Validate does, and returns its
// bytes.
func (r *Reader) Value() ([]byte, error) {
	start := r.pos
	if err := r.skip(0); err != nil {
		return nil, err
	}
	return r.b[start:r.pos:r.pos], nil
}
