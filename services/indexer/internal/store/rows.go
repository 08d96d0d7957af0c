package store

import "sluice/services/indexer/internal/derive"

// recRow is a row of record. JSON is read only where it is needed.
type recRow struct {
	URI, CID, DID, JSON, IndexedAt, Rev string
}

// tombRow is the newest deletion of a uri or an account.
type tombRow struct {
	Rev, At string
	// Replaced: the deletion took out an older version, so the same commit may
	// have made another one in its place.
	Replaced bool
	// Was: the record is known to have existed. Born, Root and Parent are of a
	// post: its stamp, and what it replied to.
	Was                bool
	Born, Root, Parent string
}

// markReplaced stands after the revision of a stored deletion with Replaced.
const markReplaced = "+"

func (t tombRow) stored() string {
	if t.Replaced {
		return t.Rev + markReplaced
	}
	return t.Rev
}

// bury keeps of a post what its replies are judged by.
func (t tombRow) bury(p *postRow) tombRow {
	t.Was, t.Born, t.Root, t.Parent = true, p.Stamp, p.ReplyRoot, p.ReplyParent
	return t
}

// edgeRow is a row of a kind that is unique by a key.
type edgeRow struct {
	Kind                 derive.Kind
	URI, CID, Creator    string
	Row                  derive.EdgeRow
	CreatedAt, IndexedAt string
	Rev                  string

	joined string // of key
}

func (e *edgeRow) sortAt() string { return min(e.CreatedAt, e.IndexedAt) }

func (e *edgeRow) stamp() string { return stamp(e.Rev, e.sortAt()) }

// before says whether the record is the older of two with one key.
func (e *edgeRow) before(o *edgeRow) bool {
	a, b := e.stamp(), o.stamp()
	return a < b || a == b && e.URI < o.URI
}

// key is joined once: every change asks for it many times.
func (e *edgeRow) key() string {
	if e.joined == "" {
		e.joined = e.join()
	}
	return e.joined
}

func (e *edgeRow) join() string {
	if e.Kind == derive.ListItem {
		return derive.Key(e.Kind, e.Row.List, e.Row.Subject)
	}
	return derive.Key(e.Kind, e.Creator, e.Row.Subject)
}

func newEdge(r *derive.Record, rev string) *edgeRow {
	return &edgeRow{
		Kind: r.Kind, URI: r.URI, CID: r.CID, Creator: r.DID, Row: *r.Edge,
		CreatedAt: r.CreatedAt, IndexedAt: r.IndexedAt, Rev: rev,
	}
}

// dupRow is a row of duplicate_record with its record.
type dupRow struct {
	URI, CID, Of, IndexedAt string
	JSON, Rev               string
}

// postRow is a post as the judgement of others, and its own replacement, need
// to know it. Full is set for a post that this batch writes.
type postRow struct {
	URI, CID, Creator                    string
	ReplyRoot, ReplyParent               string
	InvalidReplyRoot, ViolatesThreadGate *bool
	ViolatesEmbedding                    *bool
	HasThreadGate, HasPostGate           *bool
	SortAt                               string
	// Stamp is its place in the order of judgement, Latest the latest revision
	// that it can be of: of a fetched post only bounds are known.
	Stamp, Latest string
	Full          *derive.Record
}

func (p *postRow) violates() bool { return p.ViolatesThreadGate != nil && *p.ViolatesThreadGate }

func (p *postRow) invalid() bool { return p.InvalidReplyRoot != nil && *p.InvalidReplyRoot }

func (p *postRow) opReply() bool {
	return p.ReplyRoot != "" && derive.HostOf(p.ReplyRoot) == p.Creator
}

// refRow is a record that another one refers to.
type refRow struct {
	JSON, IndexedAt, Rev string
}

type feedRow struct{ URI, CID, Type, PostURI, Originator, SortAt string }

type quoteRow struct{ URI, CID, Subject, SubjectCID, CreatedAt, IndexedAt string }

type opThreadRow struct {
	Root, Parent, URI string
	DeletedAt         *string
}

// notifRow is a row of notification; ID is 0 for one that is not stored yet.
type notifRow struct {
	ID                        int64
	DID, RecordURI, RecordCID string
	Author, Reason            string
	Subject                   string
	SortAt                    string
	// Thread is the root of the thread of Subject, for those who have muted it,
	// where these changes have written Subject; else it is looked up.
	Thread *string
}

func (n notifRow) same(o notifRow) bool {
	return n.DID == o.DID && n.Reason == o.Reason && n.Subject == o.Subject && n.RecordCID == o.RecordCID && n.SortAt == o.SortAt
}

// lateRow is a post that a gate may have to judge although it came first.
type lateRow struct{ URI, Stamp string }

// countKind names a counter.
type countKind int16

// The counters; the first four are of post_agg, the others of profile_agg.
const (
	countLikes countKind = iota + 1
	countReplies
	countReposts
	countQuotes
	countFollowers
	countFollows
	countPosts
)

type countKey struct {
	kind countKind
	key  string
}

// The tasks of a recheck row, as bits.
const (
	recheckParent  = 1 << iota // the validity of the reply, and whom it notifies
	recheckGate                // whether the thread gate allows it
	recheckEmbed               // whether the post gate of the quoted post allows it
	recheckGone                // the post was deleted: feed items and quotes of it, replies after it
	recheckDescend             // the post arrived: its replies
	recheckFeed                // a feed item of a deleted post
	recheckQuote               // a quote of a deleted post
)

type recheckRow struct {
	URI  string
	What int16
	Rev  string
}

// aboutOne says that a row is done by writing to the repository of its uri.
func (r recheckRow) aboutOne() bool { return r.What != recheckGone && r.What != recheckDescend }
