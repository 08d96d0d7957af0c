// Package lexicon checks records against the lexicons of the collections that
// the AppView indexes.
//
// The check is as strict as the one of the TypeScript data plane: required
// keys, types, string formats, lengths in bytes and graphemes, closed and open
// unions, blob types and sizes, and the $type of the record. Properties that a
// lexicon does not name, and members of open unions that it does not know, are
// allowed. The lexicon documents are data, embedded in the package; schemas are
// compiled once, and a record is checked on its JSON text without being decoded
// into maps.
package lexicon

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

//go:embed lexicons/*.json
var documents embed.FS

// ErrUnknown is returned for a collection without a lexicon here.
var ErrUnknown = errors.New("unknown collection")

// Error says where and why a record does not agree with its lexicon.
type Error struct {
	// Path of the value in the record, "$" for the record itself.
	Path   string
	Reason string
}

// Error names the reason and the path.
func (e *Error) Error() string { return e.Reason + " at " + e.Path }

// Options of a Catalog.
type Options struct {
	// LegacyBlobs accepts blobs in the old form {cid, mimeType}. The AppView's
	// own indexer refuses a record that holds one.
	LegacyBlobs bool
}

// Catalog is a compiled set of lexicons. It is safe for concurrent use.
type Catalog struct {
	opts    Options
	records map[string]*record
	trees   sync.Pool
}

// record is one compiled collection; a nil schema accepts any object.
type record struct {
	id     string
	schema schema
}

// New compiles the embedded lexicons.
func New(opts Options) (*Catalog, error) {
	sub, err := fs.Sub(documents, "lexicons")
	if err != nil {
		return nil, fmt.Errorf("open embedded lexicons: %w", err)
	}
	return Load(sub, Collections(), opts)
}

// Load compiles the given collections from the lexicon documents (*.json) in
// the root of dir. Every document that they refer to must be there.
func Load(dir fs.FS, collections []string, opts Options) (*Catalog, error) {
	docs, err := ReadDocuments(dir)
	if err != nil {
		return nil, err
	}
	c := &compiler{docs: docs, opts: opts, defs: map[string]*refSchema{}}
	out := &Catalog{opts: opts, records: map[string]*record{}}
	for _, id := range collections {
		s, err := c.record(id)
		if err != nil {
			return nil, fmt.Errorf("compile %s: %w", id, err)
		}
		if slices.Contains(unchecked(), id) {
			s = nil
		}
		out.records[id] = &record{id: id, schema: s}
	}
	return out, nil
}

// Collections lists the record kinds that the AppView indexes.
func Collections() []string {
	return []string{
		"app.bsky.actor.profile",
		"app.bsky.actor.status",
		"app.bsky.feed.generator",
		"app.bsky.feed.like",
		"app.bsky.feed.post",
		"app.bsky.feed.postgate",
		"app.bsky.feed.repost",
		"app.bsky.feed.threadgate",
		"app.bsky.graph.block",
		"app.bsky.graph.follow",
		"app.bsky.graph.list",
		"app.bsky.graph.listblock",
		"app.bsky.graph.listitem",
		"app.bsky.graph.starterpack",
		"app.bsky.graph.verification",
		"app.bsky.labeler.service",
		"app.bsky.notification.declaration",
		"chat.bsky.actor.declaration",
		"com.germnetwork.declaration",
	}
}

// unchecked lists the collections whose records are taken as they are.
func unchecked() []string { return []string{"chat.bsky.actor.declaration"} }

// Has says whether records of the collection can be checked.
func (c *Catalog) Has(collection string) bool {
	_, ok := c.records[collection]
	return ok
}

// Validate checks one record given in the JSON form of the data model. It
// returns nil, an *Error, or ErrUnknown.
func (c *Catalog) Validate(collection string, recordJSON []byte) error {
	r, ok := c.records[collection]
	if !ok {
		return ErrUnknown
	}
	t := takeTree(&c.trees)
	defer t.release(&c.trees)
	root, err := t.parse(recordJSON)
	if err != nil {
		return &Error{Path: "$", Reason: err.Error()}
	}
	return r.check(t, root)
}

// ValidateValue checks a record that is already decoded: maps, slices, strings,
// booleans, nil, and numbers as integers, float64 or json.Number.
func (c *Catalog) ValidateValue(collection string, v map[string]any) error {
	if !c.Has(collection) {
		return ErrUnknown
	}
	text, err := json.Marshal(v)
	if err != nil {
		return &Error{Path: "$", Reason: "not a JSON value: " + err.Error()}
	}
	return c.Validate(collection, text)
}

func (r *record) check(t *tree, root int32) error {
	if r.schema == nil {
		if t.nodes[root].kind != kindObject {
			return &Error{Path: "$", Reason: expected("object", &t.nodes[root])}
		}
		return nil
	}
	if f := r.schema.check(t, root); f != nil {
		return f.asError()
	}
	typ := t.find(root, "$type")
	if typ < 0 || t.nodes[typ].kind != kindString || string(t.nodes[typ].text) != r.id {
		return &Error{Path: "$.$type", Reason: `expected "` + r.id + `"`}
	}
	return nil
}

// failure is an Error whose path is still being collected, innermost segment
// first.
type failure struct {
	reason string
	path   []string
}

func fail(reason string) *failure { return &failure{reason: reason} }

// under puts the failure below a property or an index.
func (f *failure) under(segment string) *failure {
	f.path = append(f.path, segment)
	return f
}

func (f *failure) asError() error {
	slices.Reverse(f.path)
	return &Error{Path: "$" + strings.Join(f.path, ""), Reason: f.reason}
}
