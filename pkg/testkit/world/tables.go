package world

// tables is the model of an indexer that takes every change in order: by rule
// and not by SQL, and only as far as rows can be counted and told apart.
type tables struct {
	records map[string]*Record // live, of every collection

	posts     map[string]*postRow
	quotes    map[string]string          // quoting post -> quoted
	quotesOf  map[string]map[string]bool // quoted -> quoting
	replies   map[string]map[string]bool // parent -> replies
	threads   map[string]int             // root -> living replies
	ownThread map[string]opReply         // own thread replies, deleted ones too
	reposts   map[string]bool            // reposts that have a feed item
	repostsOf map[string]map[string]bool // post -> feed items

	unique map[string]*claim // the rows whose key is what they are about

	// What must stay as it is, see pinJudgement.
	pinnedPosts, pinnedLists, pinnedPairs map[string]bool
}

type postRow struct {
	record                    *Record
	invalidRoot, violatesGate bool
	violatesEmbedding         bool
}

type opReply struct {
	root, did string
	deleted   bool
}

// claim is a row with a unique key: the record that has it, and the others
// that would, oldest first.
type claim struct {
	key    string
	holder *Record
	others []*Record
}

func newTables() *tables {
	return &tables{
		records: map[string]*Record{}, posts: map[string]*postRow{}, quotes: map[string]string{},
		quotesOf: map[string]map[string]bool{}, replies: map[string]map[string]bool{}, threads: map[string]int{},
		ownThread: map[string]opReply{}, reposts: map[string]bool{}, repostsOf: map[string]map[string]bool{},
		unique: map[string]*claim{}, pinnedPosts: map[string]bool{}, pinnedLists: map[string]bool{},
		pinnedPairs: map[string]bool{},
	}
}

// put creates or replaces a record.
func (t *tables) put(r *Record) {
	old := t.records[r.URI]
	if old != nil && old.Indexed() {
		t.withdraw(old, true)
	}
	t.records[r.URI] = r
	if r.Indexed() {
		t.insert(r)
	}
}

func (t *tables) delete(r *Record) {
	delete(t.records, r.URI)
	if r.Indexed() {
		t.withdraw(r, false)
	}
}

// deleteAccount removes every record of a, and what deletion by deletion would
// leave of its own threads.
func (t *tables) deleteAccount(a *Account) {
	var mine []*Record
	for _, r := range t.records {
		if r.Account == a {
			mine = append(mine, r)
		}
	}
	for _, r := range mine {
		t.delete(r)
	}
	for uri, o := range t.ownThread {
		if o.did == a.DID {
			delete(t.ownThread, uri)
		}
	}
}

func (t *tables) insert(r *Record) {
	if r.Collection == Post {
		t.insertPost(r)
		return
	}
	if key := uniqueKey(r); key != "" {
		t.claim(key, r)
	}
}

func (t *tables) withdraw(r *Record, replaced bool) {
	if r.Collection == Post {
		t.withdrawPost(r, replaced)
		return
	}
	if key := uniqueKey(r); key != "" {
		t.release(key, r)
	}
}

// uniqueKey is what no two rows of a table may share, or "".
func uniqueKey(r *Record) string {
	switch r.Collection {
	case Like, Repost, Follow, Block, Listblock, Verification:
		return r.Collection + " " + r.Account.DID + " " + r.facts.subject
	case Listitem:
		return Listitem + " " + r.facts.list + " " + r.facts.subject
	case Threadgate, Postgate:
		return r.Collection + " " + r.facts.gated
	}
	return ""
}

func (t *tables) claim(key string, r *Record) {
	c := t.unique[key]
	if c == nil {
		c = &claim{key: key}
		t.unique[key] = c
	}
	if c.holder != nil {
		c.others = append(c.others, r)
		return
	}
	c.holder = r
	t.hold(r)
}

func (t *tables) release(key string, r *Record) {
	c := t.unique[key]
	if c.holder != r {
		for i, o := range c.others {
			if o == r {
				c.others = append(c.others[:i:i], c.others[i+1:]...)
				break
			}
		}
		return
	}
	t.drop(r)
	c.holder = nil
	if len(c.others) == 0 {
		delete(t.unique, key)
		return
	}
	c.holder, c.others = c.others[0], c.others[1:]
	t.hold(c.holder)
}

// hold and drop are what follows from a row beside the row: the feed item of a
// repost.
func (t *tables) hold(r *Record) {
	if r.Collection == Repost {
		t.reposts[r.URI] = true
		add(t.repostsOf, r.facts.subject, r.URI)
	}
}

func (t *tables) drop(r *Record) {
	if r.Collection == Repost {
		delete(t.reposts, r.URI)
		cut(t.repostsOf, r.facts.subject, r.URI)
	}
}

// holder returns the record whose row has the key.
func (t *tables) holder(key string) *Record {
	if c := t.unique[key]; c != nil {
		return c.holder
	}
	return nil
}

func add(m map[string]map[string]bool, key, member string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][member] = true
}

func cut(m map[string]map[string]bool, key, member string) {
	delete(m[key], member)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}
