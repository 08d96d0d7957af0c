package lexicon

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mr-tron/base58"
)

// format returns the check of a string format by its name.
func format(name string) (func([]byte) bool, bool) {
	switch name {
	case "at-identifier":
		return validAtIdentifier, true
	case "at-uri":
		return validAtURI, true
	case "cid":
		return validCID, true
	case "datetime":
		return validDatetime, true
	case "did":
		return validDID, true
	case "handle":
		return validHandle, true
	case "language":
		return languageCheck(), true
	case "nsid":
		return validNSID, true
	case "record-key":
		return validRecordKey, true
	case "tid":
		return validTID, true
	case "uri":
		return validURI, true
	}
	return nil, false
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isAlpha(c byte) bool { return isLower(c|0x20) && c < 0x80 }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlnum(c byte) bool { return isAlpha(c) || isDigit(c) }

// span is the length of the prefix of s that ok holds for.
func span(s []byte, ok func(byte) bool) int {
	for i, c := range s {
		if !ok(c) {
			return i
		}
	}
	return len(s)
}

func validAtIdentifier(s []byte) bool {
	if bytes.HasPrefix(s, []byte("did:")) {
		return validDID(s)
	}
	return validHandle(s)
}

func validDID(s []byte) bool {
	rest, ok := bytes.CutPrefix(s, []byte("did:"))
	if !ok || len(s) > 2048 {
		return false
	}
	m := span(rest, isLower)
	if m == 0 || m == len(rest) || rest[m] != ':' {
		return false
	}
	id := rest[m+1:]
	if len(id) == 0 || span(id, func(c byte) bool { return isAlnum(c) || strings.IndexByte("._:%-", c) >= 0 }) != len(id) {
		return false
	}
	last := id[len(id)-1]
	return last != ':' && last != '%'
}

// validHandle checks a domain name of at least two labels, the last of which
// begins with a letter.
func validHandle(s []byte) bool {
	if len(s) > 253 {
		return false
	}
	labels, start := 0, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			continue
		}
		label := s[start:i]
		if !validLabel(label) || (i == len(s) && !isAlpha(label[0])) {
			return false
		}
		labels++
		start = i + 1
	}
	return labels >= 2
}

func validLabel(s []byte) bool {
	return len(s) >= 1 && len(s) <= 63 && isAlnum(s[0]) && isAlnum(s[len(s)-1]) &&
		span(s, func(c byte) bool { return isAlnum(c) || c == '-' }) == len(s)
}

// validNSID checks three segments or more: a reversed domain and a name of
// letters and digits.
func validNSID(s []byte) bool {
	if len(s) < 5 || len(s) > 317 || !isAlpha(s[0]) {
		return false
	}
	segments, start := 0, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			continue
		}
		seg := s[start:i]
		if !validLabel(seg) {
			return false
		}
		if i == len(s) && (!isAlpha(seg[0]) || bytes.IndexByte(seg, '-') >= 0) {
			return false
		}
		segments++
		start = i + 1
	}
	return segments >= 3
}

func validRecordKey(s []byte) bool {
	return len(s) >= 1 && len(s) <= 512 && string(s) != "." && string(s) != ".." &&
		span(s, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_~.:-", c) >= 0 }) == len(s)
}

func validTID(s []byte) bool {
	return len(s) == 13 && strings.IndexByte("234567abcdefghij", s[0]) >= 0 &&
		span(s, func(c byte) bool { return isLower(c) || (c >= '2' && c <= '7') }) == len(s)
}

// validURI checks a scheme, a colon, and something without white space behind.
func validURI(s []byte) bool {
	m := span(s, func(c byte) bool { return isAlnum(c) || c == '_' })
	if m == 0 || m == len(s) || s[m] != ':' {
		return false
	}
	rest := s[m+1:]
	if after, ok := bytes.CutPrefix(rest, []byte("//")); ok {
		rest = after
	}
	if len(rest) == 0 || rest[0] == '/' {
		return false
	}
	for len(rest) > 0 {
		r, size := utf8.DecodeRune(rest)
		if unicode.Is(unicode.White_Space, r) && r != 0x85 || r == 0xFEFF {
			return false
		}
		rest = rest[size:]
	}
	return true
}

// validAtURI checks at://authority[/collection[/rkey]][#/pointer].
func validAtURI(s []byte) bool {
	rest, ok := bytes.CutPrefix(s, []byte("at://"))
	if !ok || len(s) > 8192 || span(s, atURIByte) != len(s) {
		return false
	}
	rest, fragment, hasFragment := bytes.Cut(rest, []byte("#"))
	if hasFragment && !validPointer(fragment) {
		return false
	}
	authority, tail, hasPath := bytes.Cut(rest, []byte("/"))
	if !validAtIdentifier(authority) {
		return false
	}
	if !hasPath {
		return true
	}
	collection, rkey, hasKey := bytes.Cut(tail, []byte("/"))
	return validNSID(collection) && (!hasKey || validRecordKey(rkey))
}

func atURIByte(c byte) bool {
	return isAlnum(c) || strings.IndexByte("._~:@!$&'()*+,;=%/\\[]#?-", c) >= 0
}

// validPointer checks the fragment of an at-uri: a JSON pointer whose percent
// signs encode UTF-8.
func validPointer(s []byte) bool {
	if len(s) == 0 || s[0] != '/' ||
		span(s, func(c byte) bool { return isAlnum(c) || strings.IndexByte("._~:@!$&')(*+,;=%[]/-", c) >= 0 }) != len(s) {
		return false
	}
	plain := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			plain = append(plain, s[i])
			continue
		}
		if i+2 >= len(s) {
			return false
		}
		high, ok1 := unhex(s[i+1])
		low, ok2 := unhex(s[i+2])
		if !ok1 || !ok2 {
			return false
		}
		plain = append(plain, high<<4|low)
		i += 2
	}
	return utf8.Valid(plain)
}

func unhex(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// maxCID is the longest text of a CID.
const maxCID = 128

// validCID checks a CID in its canonical text: base32 for version 1, base58
// for version 0.
func validCID(s []byte) bool {
	if len(s) < 2 || len(s) > maxCID {
		return false
	}
	if s[0] == 'Q' {
		b, err := base58.Decode(string(s))
		return err == nil && len(b) == 34 && b[0] == 0x12 && b[1] == 0x20
	}
	_, ok := decodeCID(s)
	return ok
}

// rawCID says whether s, a valid CID, names raw bytes, as blobs are.
func rawCID(s []byte) bool {
	if s[0] == 'Q' {
		return false
	}
	codec, ok := decodeCID(s)
	return ok && codec == 0x55
}

// decodeCID reads the base32 text of a version 1 CID.
func decodeCID(s []byte) (codec uint64, ok bool) {
	if s[0] != 'b' {
		return 0, false
	}
	var buf [maxCID]byte
	b, ok := decodeBase32(buf[:0], s[1:])
	if !ok {
		return 0, false
	}
	version, b, ok := varint(b)
	if !ok || version != 1 {
		return 0, false
	}
	codec, b, ok = varint(b)
	if !ok {
		return 0, false
	}
	_, b, ok = varint(b)
	if !ok {
		return 0, false
	}
	size, b, ok := varint(b)
	return codec, ok && size == uint64(len(b))
}

// decodeBase32 reads lower-case base32; padding is passed over, and the bits
// that are left over must be zero.
func decodeBase32(out, s []byte) ([]byte, bool) {
	s = bytes.TrimRight(s, "=")
	var bits, have uint32
	for _, c := range s {
		v := strings.IndexByte(base32Alphabet, c)
		if v < 0 {
			return nil, false
		}
		bits = bits<<5 | uint32(v)
		if have += 5; have >= 8 {
			have -= 8
			out = append(out, byte(bits>>have))
			bits &= 1<<have - 1
		}
	}
	return out, have < 5 && bits == 0
}

const base32Alphabet = "abcdefghijklmnopqrstuvwxyz234567"

func varint(b []byte) (uint64, []byte, bool) {
	var v uint64
	for i, c := range b {
		if i > 7 {
			return 0, nil, false
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, b[i+1:], true
		}
	}
	return 0, nil, false
}

// validDatetime checks RFC 3339 with seconds and a zone, at most 64 bytes, no
// leap second, no -00:00, the year in UTC from 0 to 9999. A day beyond the end
// of its month is taken: it stands for one in the next month.
func validDatetime(s []byte) bool {
	if len(s) < 20 || len(s) > 64 || !datetimeShape(s) {
		return false
	}
	month, day := number(s[5:7]), number(s[8:10])
	hour, minute, second := number(s[11:13]), number(s[14:16]), number(s[17:19])
	if month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59 {
		return false
	}
	zone := s[19:]
	if zone[0] == '.' {
		n := span(zone[1:], isDigit)
		if n == 0 || n == len(zone)-1 {
			return false
		}
		zone = zone[1+n:]
	}
	offset, ok := zoneMinutes(zone)
	if !ok {
		return false
	}
	utc := hour*60 + minute - offset
	first := string(s[:10]) == "0000-01-01" && utc < 0
	last := string(s[:10]) == "9999-12-31" && utc >= 24*60
	return !first && !last
}

// datetimeShape checks the fixed part, dddd-dd-ddTdd:dd:dd.
func datetimeShape(s []byte) bool {
	const shape = "dddd-dd-ddTdd:dd:dd"
	for i := range len(shape) {
		if shape[i] == 'd' && !isDigit(s[i]) || shape[i] != 'd' && shape[i] != s[i] {
			return false
		}
	}
	return true
}

// zoneMinutes reads Z or an offset.
func zoneMinutes(s []byte) (int, bool) {
	if len(s) == 1 && s[0] == 'Z' {
		return 0, true
	}
	if len(s) != 6 || (s[0] != '+' && s[0] != '-') || s[3] != ':' || string(s) == "-00:00" ||
		!isDigit(s[1]) || !isDigit(s[2]) || !isDigit(s[4]) || !isDigit(s[5]) {
		return 0, false
	}
	hours, minutes := number(s[1:3]), number(s[4:6])
	if hours > 23 || minutes > 59 {
		return 0, false
	}
	if s[0] == '-' {
		return -(hours*60 + minutes), true
	}
	return hours*60 + minutes, true
}

// number reads two digits.
func number(s []byte) int { return int(s[0]-'0')*10 + int(s[1]-'0') }

// languageCheck returns the check of a BCP 47 tag whose first subtag, if it is
// a language, has two or three lower-case letters.
func languageCheck() func([]byte) bool {
	tag := regexp.MustCompile(languagePattern)
	language := tag.SubexpIndex("language")
	return func(s []byte) bool {
		if (len(s) == 2 || len(s) == 3) && span(s, isLower) == len(s) {
			return true
		}
		if len(s) > 1024 {
			return false
		}
		m := tag.FindSubmatch(s)
		if m == nil {
			return false
		}
		if m[language] == nil {
			return true
		}
		primary, _, _ := bytes.Cut(m[language], []byte("-"))
		if len(primary) < 2 || len(primary) > 3 || span(primary, isLower) != len(primary) {
			return false
		}
		return !repeatedSubtag(s)
	}
}

const languagePattern = `^(?:(?:en-GB-oed|i-ami|i-bnn|i-default|i-enochian|i-hak|i-klingon|i-lux|i-mingo|i-navajo|i-pwn|i-tao|i-tay|i-tsu` +
	`|sgn-BE-FR|sgn-BE-NL|sgn-CH-DE|art-lojban|cel-gaulish|no-bok|no-nyn|zh-guoyu|zh-hakka|zh-min|zh-min-nan|zh-xiang)` +
	`|(?P<language>[A-Za-z]{2,3}(?:-[A-Za-z]{3}(?:-[A-Za-z]{3}){0,2})?|[A-Za-z]{4}|[A-Za-z]{5,8})` +
	`(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*` +
	`(?:-[0-9A-WY-Za-wy-z](?:-[A-Za-z0-9]{2,8})+)*(?:-[xX](?:-[A-Za-z0-9]{1,8})+)?` +
	`|[xX](?:-[A-Za-z0-9]{1,8})+)$`

// repeatedSubtag finds a variant or the singleton of an extension that occurs
// twice in a well-formed tag.
func repeatedSubtag(s []byte) bool {
	seen := map[string]bool{}
	extension := false
	for i, tag := range bytes.Split(bytes.ToLower(s), []byte("-")) {
		single := len(tag) == 1
		if i == 0 {
			continue
		}
		if single && tag[0] == 'x' {
			return false
		}
		extension = extension || single
		variant := !extension && (len(tag) >= 5 || len(tag) == 4 && isDigit(tag[0]))
		if !single && !variant {
			continue
		}
		if seen[string(tag)] {
			return true
		}
		seen[string(tag)] = true
	}
	return false
}
