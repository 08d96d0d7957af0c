package event

import (
	"encoding/json"
	"unicode/utf8"
)

// scanner walks the fields of a JSON object that is known to be valid.
type scanner struct {
	b   []byte
	pos int
}

// scanObject checks that b is a JSON object in valid UTF-8.
func scanObject(b []byte) (scanner, bool) {
	s := scanner{b: b}
	if !json.Valid(b) || !utf8.Valid(b) || s.peek() != '{' {
		return s, false
	}
	s.pos++
	return s, true
}

// peek skips what may stand between tokens and looks at the next byte.
func (s *scanner) peek() byte {
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// next takes one field; ok is false at the end of the object. Key and value are
// as written, the quotes of the key taken off.
func (s *scanner) next() (key, value []byte, ok bool) {
	if s.peek() != '"' {
		return nil, nil, false
	}
	start := s.pos
	s.skipString()
	key = s.b[start+1 : s.pos-1]
	s.peek()
	start = s.pos
	s.skipValue()
	return key, s.b[start:s.pos:s.pos], true
}

func (s *scanner) skipString() {
	for s.pos++; s.b[s.pos] != '"'; s.pos++ {
		if s.b[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
}

func (s *scanner) skipValue() {
	depth := 0
	for s.pos < len(s.b) {
		switch s.b[s.pos] {
		case '"':
			s.skipString()
			if depth == 0 {
				return
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of a number or a literal
				return
			}
			depth--
			if depth == 0 {
				s.pos++
				return
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return
			}
		}
		s.pos++
	}
}
