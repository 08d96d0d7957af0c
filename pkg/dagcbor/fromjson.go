package dagcbor

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// FromJSON turns a value in the JSON form of the data model into DAG-CBOR, with
// sorted keys. An object that has "$link" or "$bytes" as its only key, with a
// text, is a link or bytes; base64 may be padded or not. A number without
// fraction and exponent is an integer and must fit int64; any other is a float.
func FromJSON(j []byte) ([]byte, error) {
	p := jsonParser{b: j}
	out, err := p.value(make([]byte, 0, len(j)), 0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.pos != len(j) {
		return nil, p.fail(errTrailing)
	}
	return out, nil
}

type jsonParser struct {
	b   []byte
	pos int
	// scratch is where the pairs of an object are put in order.
	scratch []byte
	text    []byte
}

func (p *jsonParser) fail(msg string) error { return &Error{Offset: p.pos, Msg: msg} }

func (p *jsonParser) space() {
	for p.pos < len(p.b) {
		switch p.b[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// next skips space and looks at the byte after it; 0 at the end.
func (p *jsonParser) next() byte {
	p.space()
	if p.pos >= len(p.b) {
		return 0
	}
	return p.b[p.pos]
}

func (p *jsonParser) take(c byte) bool {
	if p.next() != c {
		return false
	}
	p.pos++
	return true
}

func (p *jsonParser) literal(word string) bool {
	if len(p.b)-p.pos < len(word) || string(p.b[p.pos:p.pos+len(word)]) != word {
		return false
	}
	p.pos += len(word)
	return true
}

func (p *jsonParser) value(dst []byte, depth int) ([]byte, error) {
	switch c := p.next(); {
	case c == '"':
		s, err := p.str()
		return append(appendHead(dst, majorText, uint64(len(s))), s...), err
	case c == '{':
		return p.object(dst, depth+1)
	case c == '[':
		return p.array(dst, depth+1)
	case c == 't' && p.literal("true"):
		return AppendBool(dst, true), nil
	case c == 'f' && p.literal("false"):
		return AppendBool(dst, false), nil
	case c == 'n' && p.literal("null"):
		return AppendNull(dst), nil
	case c == '-' || c >= '0' && c <= '9':
		return p.number(dst)
	case c == 0 && p.pos >= len(p.b):
		return dst, p.fail(errShort)
	}
	return dst, p.fail(errSyntax)
}

func (p *jsonParser) array(dst []byte, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return dst, p.fail(errDepth)
	}
	p.pos++
	start, n := len(dst), 0
	if p.take(']') {
		return AppendArray(dst, 0), nil
	}
	for {
		var err error
		if dst, err = p.value(dst, depth); err != nil {
			return dst, err
		}
		n++
		if p.take(']') {
			return insertHead(dst, start, majorArray, n), nil
		}
		if !p.take(',') {
			return dst, p.fail(errSyntax)
		}
	}
}

// pair is where one field stands: the key from start to keyEnd, with its head,
// and the value from there to end.
type pair struct{ start, keyEnd, end int }

func (p *jsonParser) object(dst []byte, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return dst, p.fail(errDepth)
	}
	p.pos++
	if p.take('}') {
		return AppendMap(dst, 0), nil
	}
	var buf [16]pair
	pairs, start := buf[:0], len(dst)
	for {
		if p.next() != '"' {
			return dst, p.fail(errSyntax)
		}
		key, err := p.str()
		if err != nil {
			return dst, err
		}
		at := pair{start: len(dst)}
		dst = append(appendHead(dst, majorText, uint64(len(key))), key...)
		at.keyEnd = len(dst)
		if !p.take(':') {
			return dst, p.fail(errSyntax)
		}
		if dst, err = p.value(dst, depth); err != nil {
			return dst, err
		}
		at.end = len(dst)
		pairs = append(pairs, at)
		if p.take('}') {
			break
		}
		if !p.take(',') {
			return dst, p.fail(errSyntax)
		}
	}
	return p.finishObject(dst, start, pairs)
}

// keyOf returns the text of the key of a pair.
func keyOf(b []byte, at pair) []byte {
	r := Reader{b: b[at.start:at.keyEnd]}
	_, n, err := r.head()
	if err != nil {
		return nil
	}
	return b[at.keyEnd-int(n) : at.keyEnd]
}

func (p *jsonParser) finishObject(dst []byte, start int, pairs []pair) ([]byte, error) {
	if len(pairs) == 1 {
		if out, ok, err := p.special(dst, start, pairs[0]); ok || err != nil {
			return out, err
		}
	}
	less := func(a, b pair) int {
		x, y := keyOf(dst, a), keyOf(dst, b)
		switch {
		case keyLess(x, y):
			return -1
		case keyLess(y, x):
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(pairs, less) {
		slices.SortFunc(pairs, less)
		p.scratch = p.scratch[:0]
		for _, at := range pairs {
			p.scratch = append(p.scratch, dst[at.start:at.end]...)
		}
		dst = append(dst[:start], p.scratch...)
		pairs = relocate(pairs, start)
	}
	for i := 1; i < len(pairs); i++ {
		if less(pairs[i-1], pairs[i]) == 0 {
			return dst, p.fail(errDuplicate)
		}
	}
	return insertHead(dst, start, majorMap, len(pairs)), nil
}

// relocate gives the pairs the places they have after sorting.
func relocate(pairs []pair, at int) []pair {
	for i, q := range pairs {
		pairs[i] = pair{start: at, keyEnd: at + q.keyEnd - q.start, end: at + q.end - q.start}
		at = pairs[i].end
	}
	return pairs
}

// special turns the only pair of an object into a link or bytes, if it is one.
func (p *jsonParser) special(dst []byte, start int, at pair) ([]byte, bool, error) {
	key := string(keyOf(dst, at))
	if key != "$link" && key != "$bytes" {
		return dst, false, nil
	}
	r := Reader{b: dst[at.keyEnd:at.end]}
	if r.Kind() != Text {
		return dst, false, nil
	}
	s, err := r.Str()
	if err != nil {
		return dst, false, err
	}
	if key == "$link" {
		c, err := ParseCID(s)
		if err != nil {
			return dst, false, p.fail(errLink)
		}
		return AppendLink(dst[:start], c), true, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return dst, false, p.fail(errBase64)
	}
	return AppendBytes(dst[:start], b), true, nil
}

// insertHead puts the head of a container before what was appended since start.
func insertHead(dst []byte, start int, major byte, n int) []byte {
	var buf [9]byte
	return slices.Insert(dst, start, appendHead(buf[:0], major, uint64(n))...)
}

func (p *jsonParser) digits() int {
	n := 0
	for p.pos < len(p.b) && p.b[p.pos] >= '0' && p.b[p.pos] <= '9' {
		p.pos++
		n++
	}
	return n
}

func (p *jsonParser) number(dst []byte) ([]byte, error) {
	start, float := p.pos, false
	if p.b[p.pos] == '-' {
		p.pos++
	}
	lead := p.pos
	if n := p.digits(); n == 0 || n > 1 && p.b[lead] == '0' {
		return dst, p.fail(errSyntax)
	}
	if p.pos < len(p.b) && p.b[p.pos] == '.' {
		p.pos++
		float = true
		if p.digits() == 0 {
			return dst, p.fail(errSyntax)
		}
	}
	if p.pos < len(p.b) && (p.b[p.pos] == 'e' || p.b[p.pos] == 'E') {
		p.pos++
		float = true
		if p.pos < len(p.b) && (p.b[p.pos] == '+' || p.b[p.pos] == '-') {
			p.pos++
		}
		if p.digits() == 0 {
			return dst, p.fail(errSyntax)
		}
	}
	text := string(p.b[start:p.pos])
	if float {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(f, 0) {
			return dst, p.fail(errFloat)
		}
		return appendFloat(dst, f), nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return dst, p.fail(errRange)
	}
	return AppendInt(dst, v), nil
}

// str takes a string; the result is valid until the next call.
func (p *jsonParser) str() ([]byte, error) {
	p.pos++
	start := p.pos
	for p.pos < len(p.b) && plain[p.b[p.pos]] {
		p.pos++
	}
	if p.pos >= len(p.b) {
		return nil, p.fail(errShort)
	}
	if p.b[p.pos] == '"' {
		s := p.b[start:p.pos]
		p.pos++
		if !utf8.Valid(s) {
			return nil, p.fail(errUTF8)
		}
		return s, nil
	}
	p.text = append(p.text[:0], p.b[start:p.pos]...)
	return p.escaped()
}

func (p *jsonParser) escaped() ([]byte, error) {
	for p.pos < len(p.b) {
		c := p.b[p.pos]
		switch {
		case c == '"':
			p.pos++
			if !utf8.Valid(p.text) {
				return nil, p.fail(errUTF8)
			}
			return p.text, nil
		case c == '\\':
			if err := p.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, p.fail(errSyntax)
		default:
			p.text = append(p.text, c)
			p.pos++
		}
	}
	return nil, p.fail(errShort)
}

func (p *jsonParser) escape() error {
	if len(p.b)-p.pos < 2 {
		return p.fail(errShort)
	}
	c := p.b[p.pos+1]
	p.pos += 2
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return p.unicode()
	default:
		return p.fail(errSyntax)
	}
	p.text = append(p.text, c)
	return nil
}

func (p *jsonParser) unicode() error {
	r, err := p.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		if !p.literal(`\u`) {
			return p.fail(errSurrogate)
		}
		low, err := p.hex4()
		if err != nil {
			return err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return p.fail(errSurrogate)
		}
	}
	p.text = utf8.AppendRune(p.text, r)
	return nil
}

func (p *jsonParser) hex4() (rune, error) {
	if len(p.b)-p.pos < 4 {
		return 0, p.fail(errShort)
	}
	v, err := strconv.ParseUint(string(p.b[p.pos:p.pos+4]), 16, 32)
	if err != nil {
		return 0, p.fail(errSyntax)
	}
	p.pos += 4
	return rune(v), nil
}
