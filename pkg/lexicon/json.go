package lexicon

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a record, and with it the recursion here.
const maxDepth = 512

// poolNodes bounds the trees that are kept for reuse.
const poolNodes = 1 << 14

var (
	errSyntax  = errors.New("not a JSON value")
	errDepth   = errors.New("nested too deeply")
	errUTF8    = errors.New("not valid UTF-8")
	errTooLong = errors.New("too large")
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt
	kindFloat // a number that is not a safe integer
	kindString
	kindArray
	kindObject
	kindLink  // {"$link": cid}
	kindBytes // {"$bytes": base64}
)

// maxSafe is the largest integer that every JSON reader keeps exact.
const maxSafe = 1<<53 - 1

// node is one value. The members of an array or object are a list through next.
type node struct {
	kind  kind
	next  int32 // sibling, -1 at the end
	first int32 // first member, -1 if there is none
	count int32 // members
	num   int64
	key   []byte
	text  []byte // of a string; of the string in a link or bytes
}

// tree is a record as a flat list of nodes over its text.
type tree struct {
	nodes []node
	src   []byte
	pos   int
}

func takeTree(pool *sync.Pool) *tree {
	t, ok := pool.Get().(*tree)
	if !ok {
		t = new(tree)
	}
	return t
}

// release gives the tree back; nothing of it may be used afterwards.
func (t *tree) release(pool *sync.Pool) {
	t.src = nil
	if cap(t.nodes) > poolNodes {
		return
	}
	clear(t.nodes)
	t.nodes = t.nodes[:0]
	pool.Put(t)
}

// parse reads one JSON value that fills src and returns its node.
func (t *tree) parse(src []byte) (int32, error) {
	t.src, t.pos, t.nodes = src, 0, t.nodes[:0]
	if len(src) > 1<<28 {
		return 0, errTooLong
	}
	if !utf8.Valid(src) {
		return 0, errUTF8
	}
	root, err := t.value(nil, 0)
	if err != nil {
		return 0, err
	}
	t.space()
	if t.pos != len(src) {
		return 0, errSyntax
	}
	return root, nil
}

func (t *tree) space() {
	for t.pos < len(t.src) {
		switch t.src[t.pos] {
		case ' ', '\t', '\n', '\r':
			t.pos++
		default:
			return
		}
	}
}

func (t *tree) add(k kind, key []byte) int32 {
	t.nodes = append(t.nodes, node{kind: k, next: -1, first: -1, key: key})
	return int32(len(t.nodes) - 1)
}

func (t *tree) value(key []byte, depth int) (int32, error) {
	if depth > maxDepth {
		return 0, errDepth
	}
	t.space()
	if t.pos >= len(t.src) {
		return 0, errSyntax
	}
	switch c := t.src[t.pos]; c {
	case '{':
		return t.object(key, depth)
	case '[':
		return t.array(key, depth)
	case '"':
		text, err := t.str()
		n := t.add(kindString, key)
		t.nodes[n].text = text
		return n, err
	case 't':
		return t.word("true", kindBool, 1, key)
	case 'f':
		return t.word("false", kindBool, 0, key)
	case 'n':
		return t.word("null", kindNull, 0, key)
	default:
		return t.number(key)
	}
}

func (t *tree) word(w string, k kind, num int64, key []byte) (int32, error) {
	if len(t.src)-t.pos < len(w) || string(t.src[t.pos:t.pos+len(w)]) != w {
		return 0, errSyntax
	}
	t.pos += len(w)
	n := t.add(k, key)
	t.nodes[n].num = num
	return n, nil
}

func (t *tree) object(key []byte, depth int) (int32, error) {
	self := t.add(kindObject, key)
	t.pos++
	last := int32(-1)
	for {
		t.space()
		if t.take('}') {
			break
		}
		if last >= 0 && !t.comma() {
			return 0, errSyntax
		}
		if t.pos >= len(t.src) || t.src[t.pos] != '"' {
			return 0, errSyntax
		}
		name, err := t.str()
		if err != nil {
			return 0, err
		}
		t.space()
		if !t.take(':') {
			return 0, errSyntax
		}
		member, err := t.value(name, depth+1)
		if err != nil {
			return 0, err
		}
		last = t.link(self, last, member)
	}
	t.special(self)
	return self, nil
}

func (t *tree) array(key []byte, depth int) (int32, error) {
	self := t.add(kindArray, key)
	t.pos++
	last := int32(-1)
	for {
		t.space()
		if t.take(']') {
			return self, nil
		}
		if last >= 0 && !t.comma() {
			return 0, errSyntax
		}
		member, err := t.value(nil, depth+1)
		if err != nil {
			return 0, err
		}
		last = t.link(self, last, member)
	}
}

// comma takes the comma between two members and the space behind it. A closing
// bracket after it is refused by whoever reads the next member.
func (t *tree) comma() bool {
	ok := t.take(',')
	t.space()
	return ok
}

func (t *tree) take(c byte) bool {
	if t.pos < len(t.src) && t.src[t.pos] == c {
		t.pos++
		return true
	}
	return false
}

// link appends member to the list of parent and returns it as the new last.
func (t *tree) link(parent, last, member int32) int32 {
	if last < 0 {
		t.nodes[parent].first = member
	} else {
		t.nodes[last].next = member
	}
	t.nodes[parent].count++
	return member
}

// special turns the JSON forms of a link and of bytes into their kinds.
func (t *tree) special(n int32) {
	o := &t.nodes[n]
	if o.count != 1 {
		return
	}
	m := &t.nodes[o.first]
	if m.kind != kindString {
		return
	}
	switch string(m.key) {
	case "$link":
		if validCID(m.text) {
			o.kind, o.text = kindLink, m.text
		}
	case "$bytes":
		if size, ok := base64Size(m.text); ok {
			o.kind, o.text, o.num = kindBytes, m.text, int64(size)
		}
	}
}

// base64Size is the number of bytes that the text stands for.
func base64Size(text []byte) (int, bool) {
	n := len(text)
	for n > 0 && len(text)-n < 2 && text[n-1] == '=' {
		n--
	}
	if n%4 == 1 || (n != len(text) && len(text)%4 != 0) {
		return 0, false
	}
	for _, c := range text[:n] {
		if !isAlnum(c) && bytes.IndexByte([]byte("+/-_"), c) < 0 {
			return 0, false
		}
	}
	return n * 3 / 4, true
}

func (t *tree) number(key []byte) (int32, error) {
	start := t.pos
	integral := true
	for t.pos < len(t.src) {
		c := t.src[t.pos]
		if c == '.' || c == 'e' || c == 'E' {
			integral = false
		} else if (c < '0' || c > '9') && c != '-' && c != '+' {
			break
		}
		t.pos++
	}
	text := t.src[start:t.pos]
	if !numberSyntax(text) {
		return 0, errSyntax
	}
	n := t.add(kindFloat, key)
	o := &t.nodes[n]
	o.text = text
	if integral {
		v, err := strconv.ParseInt(string(text), 10, 64)
		if err == nil && v >= -maxSafe && v <= maxSafe {
			o.kind, o.num = kindInt, v
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err == nil && f >= -maxSafe && f <= maxSafe && f == float64(int64(f)) {
		o.kind, o.num = kindInt, int64(f)
	}
	return n, nil
}

// numberSyntax checks the grammar of a JSON number.
func numberSyntax(s []byte) bool {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	from := i
	i = digits(s, i)
	if i == from || (s[from] == '0' && i-from > 1) {
		return false
	}
	if i < len(s) && s[i] == '.' {
		from = i + 1
		if i = digits(s, from); i == from {
			return false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		from = i
		if i = digits(s, from); i == from {
			return false
		}
	}
	return i == len(s)
}

func digits(s []byte, i int) int {
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return i
}

// str reads a string; without escapes it is a slice of the source.
func (t *tree) str() ([]byte, error) {
	t.pos++
	start := t.pos
	for i := start; i < len(t.src); i++ {
		switch c := t.src[i]; {
		case c == '"':
			t.pos = i + 1
			return t.src[start:i], nil
		case c == '\\':
			t.pos = i
			return t.escaped(append([]byte(nil), t.src[start:i]...))
		case c < 0x20:
			return nil, errSyntax
		}
	}
	return nil, errSyntax
}

func (t *tree) escaped(out []byte) ([]byte, error) {
	for t.pos < len(t.src) {
		c := t.src[t.pos]
		t.pos++
		switch {
		case c == '"':
			return out, nil
		case c < 0x20:
			return nil, errSyntax
		case c != '\\':
			out = append(out, c)
		default:
			var ok bool
			if out, ok = t.escape(out); !ok {
				return nil, errSyntax
			}
		}
	}
	return nil, errSyntax
}

func (t *tree) escape(out []byte) ([]byte, bool) {
	if t.pos >= len(t.src) {
		return nil, false
	}
	c := t.src[t.pos]
	t.pos++
	switch c {
	case '"', '\\', '/':
		return append(out, c), true
	case 'b':
		return append(out, '\b'), true
	case 'f':
		return append(out, '\f'), true
	case 'n':
		return append(out, '\n'), true
	case 'r':
		return append(out, '\r'), true
	case 't':
		return append(out, '\t'), true
	case 'u':
		r, ok := t.hex4()
		if !ok {
			return nil, false
		}
		return utf8.AppendRune(out, t.surrogate(r)), true
	}
	return nil, false
}

// surrogate joins a high surrogate with the low one that follows. A lone one
// becomes the replacement character, as in every UTF-8 text.
func (t *tree) surrogate(r rune) rune {
	if !utf16.IsSurrogate(r) {
		return r
	}
	back := t.pos
	if t.pos+1 < len(t.src) && t.src[t.pos] == '\\' && t.src[t.pos+1] == 'u' {
		t.pos += 2
		if low, ok := t.hex4(); ok {
			if joined := utf16.DecodeRune(r, low); joined != utf8.RuneError {
				return joined
			}
		}
	}
	t.pos = back
	return utf8.RuneError
}

func (t *tree) hex4() (rune, bool) {
	if len(t.src)-t.pos < 4 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(t.src[t.pos:t.pos+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	t.pos += 4
	return rune(v), true
}

// find returns the member of an object with the given name, -1 if there is
// none. Of several the last counts.
func (t *tree) find(object int32, name string) int32 {
	found := int32(-1)
	for m := t.nodes[object].first; m >= 0; m = t.nodes[m].next {
		if string(t.nodes[m].key) == name {
			found = m
		}
	}
	return found
}
