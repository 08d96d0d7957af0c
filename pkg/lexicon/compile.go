package lexicon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Document is one lexicon document.
type Document struct {
	ID   string                `json:"id"`
	Defs map[string]definition `json:"defs"`
}

// definition is the union of all the fields that a definition may have.
type definition struct {
	Type       string                 `json:"type"`
	Record     *definition            `json:"record"`
	Required   []string               `json:"required"`
	Nullable   []string               `json:"nullable"`
	Properties map[string]*definition `json:"properties"`
	Items      *definition            `json:"items"`
	Ref        string                 `json:"ref"`
	Refs       []string               `json:"refs"`
	Closed     bool                   `json:"closed"`
	Format     string                 `json:"format"`
	Accept     []string               `json:"accept"`
	MaxSize    *int64                 `json:"maxSize"`
	MinLength  *int64                 `json:"minLength"`
	MaxLength  *int64                 `json:"maxLength"`
	MinGraph   *int64                 `json:"minGraphemes"`
	MaxGraph   *int64                 `json:"maxGraphemes"`
	Minimum    *int64                 `json:"minimum"`
	Maximum    *int64                 `json:"maximum"`
	Enum       json.RawMessage        `json:"enum"`
	Const      json.RawMessage        `json:"const"`
}

// ReadDocuments reads every *.json below dir that is a lexicon document, by id.
func ReadDocuments(dir fs.FS) (map[string]*Document, error) {
	docs := map[string]*Document{}
	err := fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".json" {
			return err
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		var d Document
		if err := json.Unmarshal(text, &d); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if d.ID != "" {
			docs[d.ID] = &d
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read lexicons: %w", err)
	}
	return docs, nil
}

// Closure lists the ids of the documents that the collections need, sorted:
// their own and those that they refer to.
func Closure(docs map[string]*Document, collections []string) ([]string, error) {
	c := &compiler{docs: docs, defs: map[string]*refSchema{}}
	for _, id := range collections {
		if _, err := c.record(id); err != nil {
			return nil, fmt.Errorf("compile %s: %w", id, err)
		}
	}
	ids := slices.Clone(collections)
	for ref := range c.defs {
		id, _, _ := strings.Cut(ref, "#")
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

type compiler struct {
	docs map[string]*Document
	opts Options
	defs map[string]*refSchema // by full reference, id or id#name
}

func (c *compiler) record(id string) (schema, error) {
	doc, ok := c.docs[id]
	if !ok {
		return nil, errors.New("there is no such document")
	}
	main, ok := doc.Defs["main"]
	if !ok || main.Type != "record" || main.Record == nil {
		return nil, errors.New("its main definition is not a record")
	}
	return c.compile(id, "", main.Record)
}

// ref resolves a reference from the document id. The result stands for the
// definition before it is compiled, so definitions may refer to themselves.
func (c *compiler) ref(id, ref string) (*refSchema, string, error) {
	ref = strings.TrimSuffix(strings.TrimPrefix(ref, "lex:"), "#main")
	if strings.HasPrefix(ref, "#") {
		ref = id + ref
	}
	if s, ok := c.defs[ref]; ok {
		return s, ref, nil
	}
	target, name, found := strings.Cut(ref, "#")
	if !found {
		name = "main"
	}
	doc, ok := c.docs[target]
	if !ok {
		return nil, ref, fmt.Errorf("there is no document for %q", ref)
	}
	def, ok := doc.Defs[name]
	if !ok {
		return nil, ref, fmt.Errorf("there is no definition for %q", ref)
	}
	s := &refSchema{}
	c.defs[ref] = s
	if def.Type == "record" && def.Record != nil {
		def = *def.Record
	}
	compiled, err := c.compile(target, ref, &def)
	s.target = compiled
	return s, ref, err
}

// compile makes the schema of one definition. name is its full reference if it
// stands on its own, empty inside another one.
func (c *compiler) compile(id, name string, d *definition) (schema, error) {
	switch d.Type {
	case "object":
		return c.object(id, name, d)
	case "array":
		items, err := c.compile(id, "", d.Items)
		return &arraySchema{items: items, length: bound(d.MinLength, d.MaxLength)}, err
	case "ref":
		s, _, err := c.ref(id, d.Ref)
		return s, err
	case "union":
		return c.union(id, d)
	case "string":
		return compileString(d)
	case "integer":
		return compileInteger(d)
	case "boolean":
		return compileBoolean(d)
	case "blob":
		return &blobSchema{accept: d.Accept, size: bound(nil, d.MaxSize), legacy: c.opts.LegacyBlobs}, nil
	case "bytes":
		return &bytesSchema{length: bound(d.MinLength, d.MaxLength)}, nil
	case "cid-link":
		return linkSchema{}, nil
	case "unknown":
		return anySchema{}, nil
	case "token":
		return tokenSchema{name: name}, nil
	}
	return nil, fmt.Errorf("definition type %q is not supported", d.Type)
}

func (c *compiler) object(id, name string, d *definition) (schema, error) {
	s := &objectSchema{typ: name}
	names := make([]string, 0, len(d.Properties))
	for p := range d.Properties {
		names = append(names, p)
	}
	slices.Sort(names)
	for _, p := range names {
		sub, err := c.compile(id, "", d.Properties[p])
		if err != nil {
			return nil, fmt.Errorf("property %s: %w", p, err)
		}
		s.properties = append(s.properties, property{
			name: p, schema: sub,
			required: slices.Contains(d.Required, p), nullable: slices.Contains(d.Nullable, p),
		})
	}
	return s, nil
}

func (c *compiler) union(id string, d *definition) (schema, error) {
	s := &unionSchema{closed: d.Closed, members: make(map[string]schema, len(d.Refs))}
	for _, r := range d.Refs {
		member, ref, err := c.ref(id, r)
		if err != nil {
			return nil, err
		}
		s.members[ref] = member
	}
	return s, nil
}

func compileString(d *definition) (schema, error) {
	s := &stringSchema{bytes: bound(d.MinLength, d.MaxLength), graphemes: bound(d.MinGraph, d.MaxGraph)}
	if d.Format != "" {
		check, ok := format(d.Format)
		if !ok {
			return nil, fmt.Errorf("string format %q is not supported", d.Format)
		}
		s.format, s.what = check, d.Format
	}
	values, err := allowed[string](d)
	s.allowed = values
	return s, err
}

func compileInteger(d *definition) (schema, error) {
	values, err := allowed[int64](d)
	return &integerSchema{value: bound(d.Minimum, d.Maximum), allowed: values}, err
}

func compileBoolean(d *definition) (schema, error) {
	values, err := allowed[bool](d)
	s := &booleanSchema{fixed: len(values) == 1}
	if _, ok := values[true]; ok {
		s.constant = 1
	}
	return s, err
}

// allowed reads enum and const; nil means that every value is allowed.
func allowed[T comparable](d *definition) (map[T]struct{}, error) {
	var values []T
	if d.Enum != nil {
		if err := json.Unmarshal(d.Enum, &values); err != nil {
			return nil, fmt.Errorf("read enum: %w", err)
		}
	}
	if d.Const != nil {
		var v T
		if err := json.Unmarshal(d.Const, &v); err != nil {
			return nil, fmt.Errorf("read const: %w", err)
		}
		values = []T{v}
	}
	if values == nil {
		return nil, nil //nolint:nilnil // nil is the set of all values
	}
	set := make(map[T]struct{}, len(values))
	for _, v := range values {
		set[v] = struct{}{}
	}
	return set, nil
}

func bound(low, high *int64) bounds {
	var b bounds
	if low != nil {
		b.min, b.hasMin = *low, true
	}
	if high != nil {
		b.max, b.hasMax = *high, true
	}
	return b
}
