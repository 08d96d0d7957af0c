package dagcbor

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the JSON form of one DAG-CBOR value to dst: links as
// {"$link": cid}, bytes as {"$bytes": base64 without padding}, keys in the
// order of the input. What Validate refuses is an error here too; dst is then
// returned as it was given.
//
// Every field survives and integers are exact, so FromJSON gives the same bytes
// again, unless the input has a map that only looks like a link or bytes.
func AppendJSON(dst, cbor []byte) ([]byte, error) {
	r := Reader{b: cbor}
	out, err := r.appendJSON(dst, 0)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

func (r *Reader) appendJSON(dst []byte, depth int) ([]byte, error) {
	switch r.Kind() {
	case Int:
		v, err := r.Int()
		return strconv.AppendInt(dst, v, 10), err
	case Text:
		b, err := r.Text()
		return appendText(dst, b), err
	case Bytes:
		b, err := r.Bytes()
		dst = append(dst, `{"$bytes":"`...)
		dst = base64.RawStdEncoding.AppendEncode(dst, b)
		return append(dst, `"}`...), err
	case Link:
		c, err := r.Link()
		if err != nil {
			return dst, err
		}
		dst = append(dst, `{"$link":"`...)
		return append(AppendCID(dst, c), `"}`...), nil
	case Map:
		return r.appendObject(dst, depth+1)
	case Array:
		return r.appendList(dst, depth+1)
	case Bool:
		v, err := r.Bool()
		return strconv.AppendBool(dst, v), err
	case Null:
		r.pos++
		return append(dst, "null"...), nil
	case Float:
		f, err := r.Float()
		return appendJSONFloat(dst, f), err
	case End:
		return dst, r.fail(errShort)
	default:
		return dst, r.fail(r.simpleError())
	}
}

func (r *Reader) appendList(dst []byte, depth int) ([]byte, error) {
	n, err := r.Array()
	if err != nil {
		return dst, err
	}
	if depth > MaxDepth {
		return dst, r.fail(errDepth)
	}
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = r.appendJSON(dst, depth); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func (r *Reader) appendObject(dst []byte, depth int) ([]byte, error) {
	n, err := r.Map()
	if err != nil {
		return dst, err
	}
	if depth > MaxDepth {
		return dst, r.fail(errDepth)
	}
	dst = append(dst, '{')
	var prev []byte
	for i := range n {
		key, err := r.key(prev, i == 0)
		if err != nil {
			return dst, err
		}
		prev = key
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, key), ':')
		if dst, err = r.appendJSON(dst, depth); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// appendJSONFloat writes f so that it reads as a float again: with a fraction
// or an exponent.
func appendJSONFloat(dst []byte, f float64) []byte {
	start := len(dst)
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	for _, c := range dst[start:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, '.', '0')
}

const hexDigits = "0123456789abcdef"

// plain says of each byte whether it stands in a JSON string as it is.
var plain = func() (t [256]bool) {
	for i := range t {
		t[i] = i >= 0x20 && i != '"' && i != '\\'
	}
	return t
}()

// appendText appends valid UTF-8 as a JSON string.
func appendText(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i, c := range s {
		if plain[c] {
			continue
		}
		dst = appendEscape(append(dst, s[start:i]...), c)
		start = i + 1
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// AppendString appends s as a JSON string, escaped as JSON.stringify does it.
// The result is valid JSON whatever s holds: bytes that are not UTF-8 become
// U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if !plain[c] {
				dst = appendEscape(append(dst, s[start:i]...), c)
				start = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(append(dst, s[start:i]...), "\ufffd"...)
			start = i + 1
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
