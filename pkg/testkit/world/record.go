package world

import (
	"encoding/json"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
)

// The collections that the AppView indexes.
const (
	Post              = "app.bsky.feed.post"
	Threadgate        = "app.bsky.feed.threadgate"
	Postgate          = "app.bsky.feed.postgate"
	Like              = "app.bsky.feed.like"
	Repost            = "app.bsky.feed.repost"
	Follow            = "app.bsky.graph.follow"
	Profile           = "app.bsky.actor.profile"
	List              = "app.bsky.graph.list"
	Listitem          = "app.bsky.graph.listitem"
	Listblock         = "app.bsky.graph.listblock"
	Block             = "app.bsky.graph.block"
	Generator         = "app.bsky.feed.generator"
	Starterpack       = "app.bsky.graph.starterpack"
	Labeler           = "app.bsky.labeler.service"
	NotifDeclaration  = "app.bsky.notification.declaration"
	ChatDeclaration   = "chat.bsky.actor.declaration"
	GermDeclaration   = "com.germnetwork.declaration"
	Verification      = "app.bsky.graph.verification"
	ActorStatus       = "app.bsky.actor.status"
	foreignCollection = "com.example.garden.plot"
)

// Collections returns every collection that the AppView indexes.
func Collections() []string {
	return []string{
		Post, Threadgate, Postgate, Like, Repost, Follow, Profile, List, Listitem, Listblock, Block, Generator,
		Starterpack, Labeler, NotifDeclaration, ChatDeclaration, GermDeclaration, Verification, ActorStatus,
	}
}

var indexedCollections = func() map[string]bool {
	m := map[string]bool{}
	for _, c := range Collections() {
		m[c] = true
	}
	return m
}()

// Record is one version of a record.
type Record struct {
	Account    *Account
	Collection string
	RKey       string
	URI        string
	CID        cid.Cid
	// Rev is the commit that wrote it; Seq is 0 for history.
	Rev string
	Seq int64
	// Time is the event's time, which becomes indexedAt.
	Time string
	CBOR []byte
	// Invalid says that the record's lexicon rejects it.
	Invalid bool

	facts facts
	blobs []cid.Cid
}

// Indexed says whether the record belongs into the AppView's tables.
func (r *Record) Indexed() bool { return !r.Invalid && indexedCollections[r.Collection] }

// Path is collection/rkey.
func (r *Record) Path() string { return r.Collection + "/" + r.RKey }

// JSON returns the record in the JSON form of the data model.
func (r *Record) JSON() (json.RawMessage, error) {
	value, err := atdata.UnmarshalCBOR(r.CBOR)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", r.URI, err)
	}
	return json.Marshal(value)
}

func (r *Record) ref() repo.Map { return repo.Map{"uri": r.URI, "cid": r.CID.String()} }

// facts are what the tables derive from a record.
type facts struct {
	subject string // what a like, repost, follow, block, list block or verification is about
	list    string // of a list item
	root    string // of a reply
	parent  string
	embed   string // uri of an embedded record
	images  int
	gallery int
	video   bool
	link    bool
	mention []string // DIDs
	gated   string   // the post of a gate
	gate    *gateFacts
	noEmbed bool // a post gate with the disable rule
}

// gateFacts are the rules of a thread gate that has some.
type gateFacts struct {
	mention, follower, following bool
	lists                        []string
}
