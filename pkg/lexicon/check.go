package lexicon

import (
	"bytes"
	"strconv"

	"github.com/clipperhouse/uax29/v2/graphemes"
)

// schema checks one value. nil means that it agrees.
type schema interface {
	check(t *tree, n int32) *failure
}

func expected(what string, o *node) string { return "expected " + what + ", got " + o.kind.String() }

// String names the kind as lexicons do.
func (k kind) String() string {
	switch k {
	case kindNull:
		return "null"
	case kindBool:
		return "boolean"
	case kindInt:
		return "integer"
	case kindFloat:
		return "number"
	case kindString:
		return "string"
	case kindArray:
		return "array"
	case kindLink:
		return "cid-link"
	case kindBytes:
		return "bytes"
	default:
		return "object"
	}
}

// bounds is a minimum and a maximum, each of them optional.
type bounds struct {
	min, max       int64
	hasMin, hasMax bool
}

func (b bounds) check(what string, v int64) *failure {
	if b.hasMin && v < b.min {
		return fail(what + " too small (minimum " + strconv.FormatInt(b.min, 10) + ", got " + strconv.FormatInt(v, 10) + ")")
	}
	if b.hasMax && v > b.max {
		return fail(what + " too big (maximum " + strconv.FormatInt(b.max, 10) + ", got " + strconv.FormatInt(v, 10) + ")")
	}
	return nil
}

// property is one named member of an object.
type property struct {
	name     string
	required bool
	nullable bool
	schema   schema
}

// objectSchema checks the named members; others are allowed. typ, if set, is
// what $type must be if it is there.
type objectSchema struct {
	typ        string
	properties []property
}

func (s *objectSchema) check(t *tree, n int32) *failure {
	if t.nodes[n].kind != kindObject {
		return fail(expected("object", &t.nodes[n]))
	}
	if s.typ != "" {
		if m := t.find(n, "$type"); m >= 0 && !t.isString(m, s.typ) {
			return fail(`expected "` + s.typ + `"`).under(".$type")
		}
	}
	for i := range s.properties {
		p := &s.properties[i]
		m := t.find(n, p.name)
		if m < 0 {
			if p.required {
				return fail("missing required key " + strconv.Quote(p.name))
			}
			continue
		}
		if p.nullable && t.nodes[m].kind == kindNull {
			continue
		}
		if f := p.schema.check(t, m); f != nil {
			return f.under("." + p.name)
		}
	}
	return nil
}

func (t *tree) isString(n int32, text string) bool {
	return t.nodes[n].kind == kindString && string(t.nodes[n].text) == text
}

// refSchema stands for a definition that may not be compiled yet.
type refSchema struct{ target schema }

func (s *refSchema) check(t *tree, n int32) *failure { return s.target.check(t, n) }

// unionSchema chooses by $type.
type unionSchema struct {
	members map[string]schema
	closed  bool
}

func (s *unionSchema) check(t *tree, n int32) *failure {
	if t.nodes[n].kind != kindObject {
		return fail(expected(`an object with "$type"`, &t.nodes[n]))
	}
	m := t.find(n, "$type")
	if m < 0 {
		return fail(`expected an object with "$type"`)
	}
	if t.nodes[m].kind != kindString {
		return fail(expected("string", &t.nodes[m])).under(".$type")
	}
	member, known := s.members[string(t.nodes[m].text)]
	switch {
	case known:
		return member.check(t, n)
	case s.closed:
		return fail("not a member of the union").under(".$type")
	default:
		return nil
	}
}

type arraySchema struct {
	items  schema
	length bounds
}

func (s *arraySchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindArray {
		return fail(expected("array", o))
	}
	if f := s.length.check("array", int64(o.count)); f != nil {
		return f
	}
	i := 0
	for m := o.first; m >= 0; m = t.nodes[m].next {
		if f := s.items.check(t, m); f != nil {
			return f.under("[" + strconv.Itoa(i) + "]")
		}
		i++
	}
	return nil
}

type stringSchema struct {
	bytes     bounds
	graphemes bounds
	format    func([]byte) bool
	what      string // name of the format
	allowed   map[string]struct{}
}

func (s *stringSchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindString {
		return fail(expected("string", o))
	}
	if f := s.bytes.check("string", int64(len(o.text))); f != nil {
		return f
	}
	if f := s.checkGraphemes(o.text); f != nil {
		return f
	}
	if s.format != nil && !s.format(o.text) {
		return fail("invalid " + s.what)
	}
	if s.allowed != nil {
		if _, ok := s.allowed[string(o.text)]; !ok {
			return fail("not one of the allowed values")
		}
	}
	return nil
}

// checkGraphemes counts only where the length in bytes does not decide: a
// cluster has at least one byte.
func (s *stringSchema) checkGraphemes(text []byte) *failure {
	b := s.graphemes
	if !b.hasMin && (!b.hasMax || int64(len(text)) <= b.max) {
		return nil
	}
	return b.check("grapheme", graphemeCount(text))
}

func graphemeCount(text []byte) int64 {
	count := int64(0)
	for it := graphemes.FromBytes(text); it.Next(); {
		count++
	}
	return count
}

type integerSchema struct {
	value   bounds
	allowed map[int64]struct{}
}

func (s *integerSchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindInt {
		return fail(expected("integer", o))
	}
	if s.allowed != nil {
		if _, ok := s.allowed[o.num]; !ok {
			return fail("not one of the allowed values")
		}
	}
	return s.value.check("integer", o.num)
}

type booleanSchema struct {
	fixed    bool
	constant int64
}

func (s *booleanSchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindBool {
		return fail(expected("boolean", o))
	}
	if s.fixed && o.num != s.constant {
		return fail("not the allowed value")
	}
	return nil
}

type bytesSchema struct{ length bounds }

func (s *bytesSchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindBytes {
		return fail(expected("bytes", o))
	}
	return s.length.check("bytes", o.num)
}

type linkSchema struct{}

func (linkSchema) check(t *tree, n int32) *failure {
	if o := &t.nodes[n]; o.kind != kindLink {
		return fail(expected("cid-link", o))
	}
	return nil
}

type anySchema struct{}

func (anySchema) check(*tree, int32) *failure { return nil }

// tokenSchema agrees with its own name alone.
type tokenSchema struct{ name string }

func (s tokenSchema) check(t *tree, n int32) *failure {
	if !t.isString(n, s.name) {
		return fail(`expected "` + s.name + `"`)
	}
	return nil
}

type blobSchema struct {
	accept []string
	size   bounds
	legacy bool // take {cid, mimeType} too
}

func (s *blobSchema) check(t *tree, n int32) *failure {
	o := &t.nodes[n]
	if o.kind != kindObject {
		return fail(expected("blob", o))
	}
	var mime []byte
	if t.find(n, "$type") < 0 && s.legacy {
		var ok bool
		if mime, ok = t.legacyBlob(n); !ok {
			return fail(expected("blob", o))
		}
	} else {
		size, m, ok := t.typedBlob(n)
		if !ok {
			return fail(expected("blob", o))
		}
		if f := s.size.check("blob", size); f != nil {
			return f
		}
		mime = m
	}
	if !s.accepts(mime) {
		return fail("mime type is not accepted").under(".mimeType")
	}
	return nil
}

func (s *blobSchema) accepts(mime []byte) bool {
	if s.accept == nil {
		return true
	}
	for _, a := range s.accept {
		if a == "*/*" || a == string(mime) {
			return true
		}
		if group, ok := bytes.CutSuffix([]byte(a), []byte("*")); ok && bytes.HasSuffix(group, []byte("/")) &&
			bytes.HasPrefix(mime, group) {
			return true
		}
	}
	return false
}

// typedBlob reads {$type: blob, ref, mimeType, size}; nothing else may be in it.
func (t *tree) typedBlob(n int32) (size int64, mime []byte, ok bool) {
	var typed, linked, sized bool
	for m := t.nodes[n].first; m >= 0; m = t.nodes[m].next {
		o := &t.nodes[m]
		switch string(o.key) {
		case "$type":
			typed = t.isString(m, "blob")
		case "ref":
			linked = o.kind == kindLink && rawCID(o.text)
		case "mimeType":
			mime = nil
			if o.kind == kindString {
				mime = o.text
			}
		case "size":
			sized = o.kind == kindInt && o.num >= 0
			size = o.num
		default:
			return 0, nil, false
		}
	}
	return size, mime, typed && linked && sized && bytes.IndexByte(mime, '/') >= 0
}

// legacyBlob reads {cid, mimeType}; nothing else may be in it.
func (t *tree) legacyBlob(n int32) (mime []byte, ok bool) {
	cid := false
	for m := t.nodes[n].first; m >= 0; m = t.nodes[m].next {
		o := &t.nodes[m]
		switch string(o.key) {
		case "cid":
			cid = o.kind == kindString && validCID(o.text)
		case "mimeType":
			if o.kind == kindString {
				mime = o.text
			}
		default:
			return nil, false
		}
	}
	return mime, cid && len(mime) > 0
}
