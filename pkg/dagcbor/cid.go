package dagcbor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/ipfs/go-cid"
)

// SumSize is the length of the binary CIDs that repositories use: version 1, a
// codec of one byte, sha2-256.
const SumSize = 4 + sha256.Size

// maxCID bounds the CIDs that a record may link to.
const maxCID = 160

// Sum returns the binary CID of a DAG-CBOR block.
func Sum(b []byte) [SumSize]byte {
	var c [SumSize]byte
	c[0], c[1], c[2], c[3] = 0x01, 0x71, 0x12, sha256.Size
	h := sha256.Sum256(b)
	copy(c[4:], h[:])
	return c
}

// CID returns the CID of a DAG-CBOR block as text, "bafyrei…".
func CID(b []byte) string {
	c := Sum(b)
	var buf [1 + (SumSize*8+4)/5]byte
	return string(appendBase32(append(buf[:0], 'b'), c[:]))
}

// AppendCID appends the text form of a binary CID: base32 for version 1,
// base58 for version 0.
func AppendCID(dst, c []byte) []byte {
	if isV0(c) {
		if _, v0, err := cid.CidFromBytes(c); err == nil {
			return append(dst, v0.String()...)
		}
	}
	return appendBase32(append(dst, 'b'), c)
}

// ParseCID turns the text form of a CID into the binary one.
func ParseCID(s string) ([]byte, error) {
	if len(s) > 1 && len(s) <= 2*maxCID && s[0] == 'b' {
		if b, ok := decodeBase32(s[1:]); ok && validCID(b) && !isV0(b) {
			return b, nil
		}
	} else if len(s) <= 2*maxCID {
		c, err := cid.Decode(s)
		if err == nil && validCID(c.Bytes()) {
			return c.Bytes(), nil
		}
	}
	return nil, &Error{Msg: errLink}
}

func isV0(c []byte) bool { return len(c) == 34 && c[0] == 0x12 && c[1] == 0x20 }

// validCID checks the parts of a binary CID and that their lengths add up.
func validCID(c []byte) bool {
	if len(c) == SumSize && c[0] == 1 && c[1] < 0x80 && c[2] == 0x12 && c[3] == sha256.Size {
		return true
	}
	if len(c) > maxCID {
		return false
	}
	if isV0(c) {
		return true
	}
	if len(c) == 0 || c[0] != 1 {
		return false
	}
	rest := c[1:]
	for range 2 { // codec, hash function
		n := uvarintLen(rest)
		if n == 0 {
			return false
		}
		rest = rest[n:]
	}
	size, n := binary.Uvarint(rest)
	return n > 0 && n == uvarintLen(rest) && size == uint64(len(rest)-n)
}

// uvarintLen is the length of the varint that b begins with, or 0 when there
// is none or it is not the shortest.
func uvarintLen(b []byte) int {
	_, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0
	}
	return n
}

const base32Alphabet = "abcdefghijklmnopqrstuvwxyz234567"

// appendBase32 appends RFC 4648 base32 in lower case, without padding.
func appendBase32(dst, src []byte) []byte {
	for len(src) >= 5 {
		v := uint64(src[0])<<32 | uint64(src[1])<<24 | uint64(src[2])<<16 | uint64(src[3])<<8 | uint64(src[4])
		dst = append(dst,
			base32Alphabet[v>>35&31], base32Alphabet[v>>30&31], base32Alphabet[v>>25&31], base32Alphabet[v>>20&31],
			base32Alphabet[v>>15&31], base32Alphabet[v>>10&31], base32Alphabet[v>>5&31], base32Alphabet[v&31])
		src = src[5:]
	}
	var v, bits uint
	for _, c := range src {
		v = v<<8 | uint(c)
		bits += 8
		for bits >= 5 {
			bits -= 5
			dst = append(dst, base32Alphabet[v>>bits&31])
		}
	}
	if bits > 0 {
		dst = append(dst, base32Alphabet[v<<(5-bits)&31])
	}
	return dst
}

// decodeBase32 is the inverse of appendBase32, and takes nothing else.
func decodeBase32(s string) ([]byte, bool) {
	out := make([]byte, 0, len(s)*5/8)
	var v, bits uint
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z':
			v = v<<5 | uint(c-'a')
		case c >= '2' && c <= '7':
			v = v<<5 | uint(c-'2'+26)
		default:
			return nil, false
		}
		if bits += 5; bits >= 8 {
			bits -= 8
			out = append(out, byte(v>>bits))
			v &= 1<<bits - 1
		}
	}
	return out, bits < 5 && v == 0
}

// Equal says whether b is the block that the binary CID c names. Only CIDs with
// sha2-256 can be checked; any other is not equal.
func Equal(c, b []byte) bool {
	if len(c) != SumSize || c[2] != 0x12 {
		return false
	}
	h := sha256.Sum256(b)
	return bytes.Equal(c[4:], h[:])
}
