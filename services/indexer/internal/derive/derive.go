// Package derive turns one record into the rows that the AppView has of it. It
// reads nothing but the record: what depends on other records is decided where
// those are at hand.
package derive

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Kind is one of the record kinds that the AppView indexes.
type Kind uint8

// The kinds. Those after Verification live in the record table alone.
const (
	Unknown Kind = iota
	Post
	Like
	Repost
	Follow
	Block
	ListItem
	ListBlock
	ThreadGate
	PostGate
	Verification
	Profile
	List
	FeedGenerator
	StarterPack
	Labeler
	Placeholder
)

var kinds = map[string]Kind{
	"app.bsky.feed.post":                Post,
	"app.bsky.feed.like":                Like,
	"app.bsky.feed.repost":              Repost,
	"app.bsky.graph.follow":             Follow,
	"app.bsky.graph.block":              Block,
	"app.bsky.graph.listitem":           ListItem,
	"app.bsky.graph.listblock":          ListBlock,
	"app.bsky.feed.threadgate":          ThreadGate,
	"app.bsky.feed.postgate":            PostGate,
	"app.bsky.graph.verification":       Verification,
	"app.bsky.actor.profile":            Profile,
	"app.bsky.graph.list":               List,
	"app.bsky.feed.generator":           FeedGenerator,
	"app.bsky.graph.starterpack":        StarterPack,
	"app.bsky.labeler.service":          Labeler,
	"app.bsky.actor.status":             Placeholder,
	"app.bsky.notification.declaration": Placeholder,
	"chat.bsky.actor.declaration":       Placeholder,
	"com.germnetwork.declaration":       Placeholder,
}

// KindOf names the kind of a collection; Unknown when it is not indexed.
func KindOf(collection string) Kind { return kinds[collection] }

// Edge says whether rows of the kind are unique by a key besides their uri, so
// that a second record with the same key is kept aside as a duplicate.
func (k Kind) Edge() bool { return k >= Like && k <= Verification }

// Reason says why a record is refused. The set is closed.
type Reason string

// The reasons.
const (
	BadRecord  Reason = "bad_record"   // the lexicon refuses it, or it is no JSON object
	BadSubject Reason = "bad_subject"  // it speaks for a record that is not its author's
	BadText    Reason = "bad_text"     // NUL in a text that would be stored in a column
	BadValue   Reason = "bad_value"    // the database refuses a value of it
	KeyTooLong Reason = "key_too_long" // a uri or a DID of it does not fit into an index
)

// RejectError says that a record leaves no rows.
type RejectError struct {
	Reason Reason
	Err    error
}

// Error names the reason and its cause.
func (e *RejectError) Error() string { return string(e.Reason) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *RejectError) Unwrap() error { return e.Err }

// Source is a record as it came, with the event that brought it.
type Source struct {
	DID, Collection, RKey string
	CID                   string
	// Time of the event; it becomes indexedAt.
	Time string
	// JSON is the record in the JSON form of the data model.
	JSON []byte
}

// Record is what the tables have of one record. At most one of the pointers is
// set; none for a kind without a table of its own, or a record whose key keeps
// it out of the table.
type Record struct {
	Kind          Kind
	URI, CID, DID string
	RKey          string
	JSON          string
	CreatedAt     string
	IndexedAt     string
	Post          *PostRow
	Edge          *EdgeRow
	Profile       *ProfileRow
	List          *ListRow
	FeedGenerator *FeedGeneratorRow
	StarterPack   *StarterPackRow
	Labeler       bool
}

// SortAt is the earlier one of creation and indexing.
func (r *Record) SortAt() string { return min(r.CreatedAt, r.IndexedAt) }

// Deriver checks records and derives their rows. It is safe for concurrent use.
type Deriver struct {
	// Validate checks a record against the lexicon of its collection.
	Validate func(collection string, recordJSON []byte) error
}

// Derive returns the rows of one record, a *RejectError, or nil for a
// collection that is not indexed.
func (d *Deriver) Derive(src Source) (*Record, error) {
	kind := KindOf(src.Collection)
	if kind == Unknown {
		return nil, nil //nolint:nilnil // a collection that is not indexed is no error and has no rows
	}
	if err := d.Validate(src.Collection, src.JSON); err != nil {
		return nil, &RejectError{Reason: BadRecord, Err: err}
	}
	r, err := Parse(src)
	if err == nil && r.longestKey() > MaxKey {
		return nil, &RejectError{Reason: KeyTooLong, Err: fmt.Errorf("index key of %d bytes", r.longestKey())}
	}
	return r, err
}

// Parse derives the rows of a record that has been checked before.
func Parse(src Source) (*Record, error) {
	r := &Record{
		Kind: KindOf(src.Collection),
		URI:  "at://" + src.DID + "/" + src.Collection + "/" + src.RKey,
		CID:  src.CID, DID: src.DID, RKey: src.RKey, JSON: string(src.JSON),
		IndexedAt: Datetime(src.Time),
	}
	if err := r.parse(exact(src.JSON)); err != nil {
		return nil, err
	}
	if r.hasNUL() {
		return nil, &RejectError{Reason: BadText, Err: errors.New("NUL in a text column")}
	}
	return r, nil
}

func (r *Record) parse(text []byte) error {
	switch r.Kind {
	case Post:
		return r.parsePost(text)
	case Like, Repost:
		return r.parseLike(text)
	case Follow, Block:
		return r.parseFollow(text)
	case ListItem:
		return r.parseListItem(text)
	case ListBlock:
		return r.parseListBlock(text)
	case ThreadGate, PostGate:
		return r.parseGate(text)
	case Verification:
		return r.parseVerification(text)
	case Profile:
		return r.parseProfile(text)
	case List:
		return r.parseList(text)
	case FeedGenerator:
		return r.parseFeedGenerator(text)
	case StarterPack:
		return r.parseStarterPack(text)
	case Labeler:
		return r.parseLabeler(text)
	default:
		return decode(text, &struct{}{})
	}
}

func decode(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return &RejectError{Reason: BadRecord, Err: fmt.Errorf("read record: %w", err)}
	}
	return nil
}

// hasNUL looks at every text that goes into a column. The JSON text of the
// record is stored too, but there NUL is an escape; without one, no text in it
// has NUL.
func (r *Record) hasNUL() bool {
	if !nulIn(r.URI) && !nulIn(r.CID) && !nulIn(r.JSON) && !strings.Contains(r.JSON, `\u0000`) {
		return false
	}
	texts := []string{r.URI, r.CID, r.JSON}
	for _, part := range []interface{ texts() []string }{r.Post, r.Edge, r.Profile, r.List, r.FeedGenerator, r.StarterPack} {
		texts = append(texts, part.texts()...)
	}
	for _, s := range texts {
		if strings.IndexByte(s, 0) >= 0 {
			return true
		}
	}
	return false
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
