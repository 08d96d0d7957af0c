package world

import (
	"encoding/json"
	"sort"
	"strings"
)

// Truth is what is true in the end: what an indexer holds that has taken every
// repository, event and label in order, with the improvements on the reference
// indexer that the tables are meant to have (duplicates promoted every time,
// edits that keep other people's rows, deletion that takes everything along).
//
// Notifications are not in it: which of them exist depends on what was first
// seen live and what by backfill.
type Truth struct {
	Accounts []AccountTruth `json:"accounts"`
	// Records are all living records, also those that the tables do not hold.
	Records []RecordTruth `json:"records"`
	// Counts is the number of rows by table.
	Counts map[string]int64 `json:"counts"`
	// Posts has the aggregates by uri of a living subject; what has none is
	// absent.
	Posts map[string]PostCounts `json:"posts"`
	// Actors has the aggregates by DID.
	Actors map[string]ActorCounts `json:"actors"`
	// Flags has what is derived for posts from other records, where any is set.
	Flags  map[string]PostFlags `json:"flags"`
	Labels []LabelTruth         `json:"labels"`
}

// AccountTruth is one account.
type AccountTruth struct {
	DID string `json:"did"`
	// Handle is the one in the document. HandleValid: it resolves to the
	// account; otherwise the actor row has none.
	Handle      string `json:"handle"`
	HandleValid bool   `json:"handle_valid"`
	// Status is empty, deactivated, suspended, takendown or deleted.
	Status string `json:"status"`
	Rev    string `json:"rev"`
	Commit string `json:"commit"`
	PDS    int    `json:"pds"`
	// History: it has records older than the relay's window; Live: it has
	// frames.
	History bool   `json:"history"`
	Live    bool   `json:"live"`
	Hostile string `json:"hostile,omitempty"`
}

// RecordTruth is one living record.
type RecordTruth struct {
	URI string `json:"uri"`
	CID string `json:"cid"`
	Rev string `json:"rev"`
	// Indexed: the record table has it. Not so for collections that no AppView
	// knows and for what its lexicon rejects.
	Indexed bool `json:"indexed"`
	// Duplicate: another record holds the row whose key this one would have.
	Duplicate bool            `json:"duplicate,omitempty"`
	JSON      json.RawMessage `json:"json"`
}

// PostCounts are aggregates of a post, or of a feed generator or labeler that
// is liked.
type PostCounts struct {
	Likes   int64 `json:"likes"`
	Replies int64 `json:"replies"`
	Reposts int64 `json:"reposts"`
	Quotes  int64 `json:"quotes"`
}

// ActorCounts are aggregates of an account.
type ActorCounts struct {
	Posts     int64 `json:"posts"`
	Follows   int64 `json:"follows"`
	Followers int64 `json:"followers"`
}

// PostFlags are columns of post that other records decide. InvalidReplyRoot is
// told only where parent and root still exist: otherwise it depends on when a
// reader saw what is gone.
type PostFlags struct {
	InvalidReplyRoot      bool `json:"invalid_reply_root,omitempty"`
	ViolatesThreadGate    bool `json:"violates_thread_gate,omitempty"`
	ViolatesEmbeddingRule bool `json:"violates_embedding_rules,omitempty"`
	HasThreadGate         bool `json:"has_thread_gate,omitempty"`
	HasPostGate           bool `json:"has_post_gate,omitempty"`
}

// Truth returns the present truth. Its JSON of records is made on the way, so
// it costs some time in a large world; Counts is cheap.
func (w *World) Truth() *Truth {
	w.mu.RLock()
	defer w.mu.RUnlock()
	t := &Truth{
		Accounts: w.accountTruth(), Counts: w.counts(), Posts: map[string]PostCounts{},
		Actors: map[string]ActorCounts{}, Flags: map[string]PostFlags{},
	}
	for _, r := range w.gen.tables.records {
		text, err := r.JSON()
		if err != nil {
			text = nil
		}
		t.Records = append(t.Records, RecordTruth{
			URI: r.URI, CID: r.CID.String(), Rev: r.Rev, Indexed: r.Indexed(), Duplicate: w.gen.tables.duplicate(r), JSON: text,
		})
	}
	sort.Slice(t.Records, func(i, j int) bool { return t.Records[i].URI < t.Records[j].URI })
	w.gen.tables.aggregate(t)
	for _, key := range w.labelled.order {
		t.Labels = append(t.Labels, w.labelled.rows[key])
	}
	return t
}

// Counts returns the number of rows by table.
func (w *World) Counts() map[string]int64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.counts()
}

func (w *World) accountTruth() []AccountTruth {
	out := make([]AccountTruth, 0, len(w.gen.accounts))
	for _, a := range w.gen.accounts {
		head := a.Repo.Head()
		t := AccountTruth{
			DID: a.DID, Handle: a.state.Handle, HandleValid: a.state.Resolves, Status: a.state.Status, Rev: head.Rev,
			PDS: a.state.PDS, History: !a.state.Born, Live: a.state.Seq > 0, Hostile: a.Hostile,
		}
		if head.CID.Defined() {
			t.Commit = head.CID.String()
		}
		out = append(out, t)
	}
	return out
}

func (t *tables) duplicate(r *Record) bool {
	key := uniqueKey(r)
	return r.Indexed() && key != "" && t.holder(key) != r
}

// tableOf names the table of a collection, where a collection has one.
var tableOf = map[string]string{
	Like: "like", Repost: "repost", Follow: "follow", Block: "actor_block", Listblock: "list_block",
	Listitem: "list_item", Verification: "verification", Threadgate: "thread_gate", Postgate: "post_gate",
	Profile: "profile", List: "list", Generator: "feed_generator", Starterpack: "starter_pack", Labeler: "labeler",
}

func (w *World) counts() map[string]int64 {
	c := map[string]int64{}
	for _, name := range tableOf {
		c[name] = 0
	}
	t := w.gen.tables
	for _, r := range t.records {
		w.countRecord(c, r)
	}
	for _, row := range t.posts {
		countPost(c, row)
	}
	c["post"] = int64(len(t.posts))
	c["quote"] = int64(len(t.quotes))
	c["feed_item"] = int64(len(t.posts) + len(t.reposts))
	c["op_thread_reply"] = int64(len(t.ownThread))
	c["label"] = int64(len(w.labelled.rows))
	for _, a := range w.gen.accounts {
		if a.state.Status != "deleted" && a.Hostile == "" {
			c["actor"]++
		}
	}
	return c
}

func (w *World) countRecord(c map[string]int64, r *Record) {
	if !r.Indexed() {
		return
	}
	c["record"]++
	switch name := tableOf[r.Collection]; {
	case name == "":
	case uniqueKey(r) == "":
		c[name]++
	case w.gen.tables.holder(uniqueKey(r)) == r:
		c[name]++
	default:
		c["duplicate_record"]++
	}
}

func countPost(c map[string]int64, row *postRow) {
	f := &row.record.facts
	c["post_embed_image"] += int64(f.images)
	c["post_embed_gallery_image"] += int64(f.gallery)
	if f.video {
		c["post_embed_video"]++
	}
	if f.link {
		c["post_embed_external"]++
	}
	if f.embed != "" {
		c["post_embed_record"]++
	}
}

// aggregate fills Posts, Actors and Flags.
func (t *tables) aggregate(out *Truth) {
	post := func(uri string, change func(*PostCounts)) {
		if t.indexed(uri) == nil {
			return
		}
		c := out.Posts[uri]
		change(&c)
		out.Posts[uri] = c
	}
	actor := func(did string, change func(*ActorCounts)) {
		c := out.Actors[did]
		change(&c)
		out.Actors[did] = c
	}
	for _, c := range t.unique {
		r := c.holder
		switch r.Collection {
		case Like:
			post(r.facts.subject, func(c *PostCounts) { c.Likes++ })
		case Repost:
			post(r.facts.subject, func(c *PostCounts) { c.Reposts++ })
		case Follow:
			actor(r.Account.DID, func(c *ActorCounts) { c.Follows++ })
			actor(r.facts.subject, func(c *ActorCounts) { c.Followers++ })
		}
	}
	for _, subject := range t.quotes {
		post(subject, func(c *PostCounts) { c.Quotes++ })
	}
	for uri, row := range t.posts {
		actor(row.record.Account.DID, func(c *ActorCounts) { c.Posts++ })
		if parent := row.record.facts.parent; parent != "" && !row.violatesGate {
			post(parent, func(c *PostCounts) { c.Replies++ })
		}
		if f := t.flags(row); f != (PostFlags{}) {
			out.Flags[uri] = f
		}
	}
}

func (t *tables) flags(row *postRow) PostFlags {
	f := &row.record.facts
	told := t.indexed(f.parent) != nil && t.indexed(f.root) != nil
	return PostFlags{
		InvalidReplyRoot: row.invalidRoot && told, ViolatesThreadGate: row.violatesGate,
		ViolatesEmbeddingRule: row.violatesEmbedding,
		HasThreadGate:         t.holder(Threadgate+" "+row.record.URI) != nil,
		HasPostGate:           t.holder(Postgate+" "+row.record.URI) != nil,
	}
}

// Kinds returns the number of living records by collection.
func (t *Truth) Kinds() map[string]int {
	out := map[string]int{}
	for i := range t.Records {
		out[strings.Split(t.Records[i].URI, "/")[3]]++
	}
	return out
}
