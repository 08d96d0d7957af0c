package store

import (
	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// item is one change, checked and derived.
type item struct {
	ev   *event.Event
	kind derive.Kind
	uri  string
	// rec of a create or update that was not refused.
	rec *derive.Record
	// rev with its mark, at the normalised time of the event.
	rev, at string
	// notify: the change writes notifications.
	notify bool
	result Result
	err    error
}

func (it *item) create() bool { return it.ev.Type == event.Create }

// sim works out the effect of changes, one after the other, on what the cache
// has of the database. Its maps hold what differs from there; nil stands for a
// row that is gone.
type sim struct {
	c *cache
	// queueHandles writes the handle look-ups into their queue.
	queueHandles bool

	recs     map[string]*recRow
	tombs    map[string]tombRow
	posts    map[string]*postRow
	edges    map[string]*edgeRow
	keys     map[derive.Kind]map[string]*edgeRow
	dups     map[string]*dupRow
	rows     map[derive.Kind]map[string]*derive.Record
	feeds    map[string]*feedRow
	quotes   map[string]*quoteRow
	opThread map[string]*opThreadRow
	notifs   map[string][]notifRow
	deltas   map[countKey]int
	rechecks map[recheckRow]struct{}
	waits    map[[2]string]struct{}
	waiters  map[string]struct{} // the uris of waits
	again    bool                // posts are judged again, not written
	actors   map[string]*actorRow
	checks   map[[2]string]Seen
	syncs    map[string]syncRow
	accounts map[string]accountRow
	// parents are what posts in posts and tombs reply to, or replied to before.
	parents map[string]struct{}
	// settled are the posts that wait for nothing any more.
	settled map[string]struct{}
}

// newSim makes one with room for the changes of some records.
func newSim(c *cache, size int) *sim {
	return &sim{
		c: c, recs: make(map[string]*recRow, size), tombs: map[string]tombRow{}, posts: map[string]*postRow{},
		edges: make(map[string]*edgeRow, size), keys: map[derive.Kind]map[string]*edgeRow{}, dups: map[string]*dupRow{},
		rows: map[derive.Kind]map[string]*derive.Record{}, feeds: make(map[string]*feedRow, size), quotes: map[string]*quoteRow{},
		opThread: map[string]*opThreadRow{}, notifs: make(map[string][]notifRow, size), deltas: make(map[countKey]int, 2*size),
		rechecks: map[recheckRow]struct{}{}, waits: map[[2]string]struct{}{}, waiters: map[string]struct{}{},
		actors: map[string]*actorRow{}, checks: map[[2]string]Seen{}, syncs: make(map[string]syncRow, size), accounts: map[string]accountRow{}, settled: map[string]struct{}{},
		parents: map[string]struct{}{},
	}
}

// reset forgets the changes and keeps the room of the maps for the next run.
func (s *sim) reset() {
	for _, m := range s.keys {
		clear(m)
	}
	for _, m := range s.rows {
		clear(m)
	}
	s.again = false
	clear(s.recs)
	clear(s.tombs)
	clear(s.posts)
	clear(s.edges)
	clear(s.dups)
	clear(s.feeds)
	clear(s.quotes)
	clear(s.opThread)
	clear(s.notifs)
	clear(s.deltas)
	clear(s.rechecks)
	clear(s.waits)
	clear(s.waiters)
	clear(s.actors)
	clear(s.checks)
	clear(s.syncs)
	clear(s.accounts)
	clear(s.parents)
	clear(s.settled)
}

// expect asks for what the changes will need once the first reads are there, so
// that it comes with them.
func (s *sim) expect(items []*item) {
	for _, it := range items {
		switch {
		case it.err != nil:
		case it.rec != nil && it.rec.Post != nil && it.rec.Post.ReplyParent != nil:
			s.ancestor(it.rec.Post.ReplyParent.URI)
		case it.ev.Type != event.Delete:
		case it.kind == derive.Post:
			s.c.posts.get(it.uri)
			s.c.quotes.get(it.uri)
			s.c.notifs.get(it.uri)
		case it.kind.Edge():
			s.c.edges[it.kind].byURI.get(it.uri)
			s.c.dups.get(it.uri)
			s.c.dupsOf.get(it.uri)
			s.c.notifs.get(it.uri)
		}
	}
}

// run applies the changes in order.
func (s *sim) run(items []*item) {
	for _, it := range items {
		it.result = s.apply(it)
	}
}

func (s *sim) apply(it *item) Result {
	s.see(it)
	switch {
	case it.err != nil:
		return Rejected
	case it.ev.Type == event.Account:
		return s.accountStatus(it)
	case it.ev.Type == event.Repo || it.ev.Type == event.Identity:
		return Applied
	case it.kind == derive.Unknown:
		return Ignored
	case it.ev.Type == event.Delete:
		return s.remove(it)
	default:
		return s.put(it)
	}
}

// put applies a create or an update.
func (s *sim) put(it *item) Result {
	tomb := s.tombOf(it.uri)
	cur := s.rec(it.uri)
	if buried(it.rev, tomb) {
		s.putDead(it, tomb)
		return Stale
	}
	if cur == nil {
		s.write(it, nil, it.rev, it.at)
		return Applied
	}
	rewritten := it.ev.Type == event.Update && it.rev > cur.Rev && !marked(it.rev)
	if cur.CID == it.rec.CID && !rewritten {
		return s.putSame(it, cur)
	}
	if it.rev < cur.Rev || (it.rev == cur.Rev && cur.CID == it.rec.CID) {
		s.putOlder(it, cur)
		return Stale
	}
	s.write(it, cur, it.rev, it.at)
	return Applied
}

// putSame meets a record that is there with the same content: the revision
// moves on, the time is that of the first sighting, and the first sighting on
// the live stream notifies.
func (s *sim) putSame(it *item, cur *recRow) Result {
	rev := mergeRev(cur.Rev, it.rev)
	if cur.Rev != "" && marked(cur.Rev) && it.create() && it.at < cur.IndexedAt {
		s.writeEarlier(it, cur, rev)
		return Applied
	}
	if it.notify && quiet(cur.Rev) {
		s.notifyAgain(it, cur)
	}
	if it.kind == derive.Profile && it.rev < cur.Rev {
		s.putOlder(it, cur)
	}
	if rev == cur.Rev {
		return Stale
	}
	next := *cur
	next.Rev = rev
	s.recs[it.uri] = &next
	return Applied
}

// writeEarlier moves a record that is there to an earlier time.
func (s *sim) writeEarlier(it *item, cur *recRow, rev string) {
	silent := *it
	silent.notify = it.notify && it.kind == derive.Post
	s.write(&silent, cur, rev, it.at)
	if it.notify && quiet(cur.Rev) {
		s.notifyAgain(it, s.rec(it.uri))
	}
}

// write stores a version of a record; cur is the one that it replaces.
func (s *sim) write(it *item, cur *recRow, rev, at string) {
	r := it.rec
	if r.IndexedAt != at {
		moved := *r
		moved.IndexedAt = at
		r = &moved
	}
	s.recs[it.uri] = &recRow{URI: it.uri, CID: r.CID, DID: r.DID, JSON: r.JSON, IndexedAt: at, Rev: rev}
	switch {
	case r.Kind == derive.Post:
		s.putPost(r, rev, cur != nil, it.notify)
	case r.Kind.Edge():
		s.putEdge(r, rev, cur != nil, it.notify, it.at)
	default:
		s.putRow(r, cur == nil, it.notify)
	}
}

// putRow stores a record of a kind without a key, or without a table.
func (s *sim) putRow(r *derive.Record, made, notify bool) {
	if !inTable(r) {
		return
	}
	s.setRow(r.Kind, r.URI, r)
	if r.Kind == derive.Profile && made && notify {
		s.joined(r)
	}
}

func (s *sim) setRow(kind derive.Kind, uri string, r *derive.Record) {
	if s.rows[kind] == nil {
		s.rows[kind] = map[string]*derive.Record{}
	}
	s.rows[kind][uri] = r
}

// remove applies a delete.
func (s *sim) remove(it *item) Result {
	tomb := s.tombOf(it.uri)
	cur := s.rec(it.uri)
	if it.rev <= tomb.Rev && cur == nil {
		return Stale
	}
	own := s.tomb(it.uri)
	if cur != nil && cur.Rev == it.rev && own.Rev == it.rev {
		return Stale // it is what the same commit made after that
	}
	stale := cur != nil && cur.Rev > it.rev
	if it.rev > own.Rev {
		own.Rev, own.At = it.rev, it.at
		own.Replaced = cur != nil && revBase(cur.Rev) < it.rev
		s.tombs[it.uri] = own
		if it.kind == derive.Post {
			s.recheck(it.uri, recheckGone, it.rev)
		}
	}
	if stale && it.kind.Edge() {
		s.renew(it.kind, cur, it.at)
	}
	if stale || cur == nil {
		return Stale
	}
	s.erase(cur, it.kind, it.at, it.notify)
	return Applied
}

// erase takes a record out of every table.
func (s *sim) erase(cur *recRow, kind derive.Kind, at string, notify bool) {
	s.recs[cur.URI] = nil
	switch {
	case kind == derive.Post:
		s.removePost(cur.URI, at)
	case kind.Edge():
		s.removeEdge(kind, cur.URI, at, notify)
	case rowTables[kind].name != "":
		s.setRow(kind, cur.URI, nil)
	}
}

func (s *sim) recheck(uri string, what int16, rev string) {
	s.rechecks[recheckRow{URI: uri, What: what, Rev: rev}] = struct{}{}
}

func (s *sim) count(kind countKind, key string, n int) {
	if key != "" && len(key) <= derive.MaxKey {
		s.deltas[countKey{kind, key}] += n
	}
}

// The views: what differs, else what was read.

func (s *sim) rec(uri string) *recRow {
	if r, ok := s.recs[uri]; ok {
		return r
	}
	r, _ := s.c.recs.get(uri)
	return r
}

func (s *sim) ref(uri string) *refRow {
	if r, ok := s.recs[uri]; ok {
		if r == nil {
			return nil
		}
		if r.JSON != "" {
			return &refRow{JSON: r.JSON, IndexedAt: r.IndexedAt, Rev: r.Rev}
		}
	}
	r, _ := s.c.refs.get(uri)
	return r
}

func (s *sim) tomb(uri string) tombRow {
	if t, ok := s.tombs[uri]; ok {
		return t
	}
	t, _ := s.c.tombs.get(uri)
	return t
}

func (s *sim) account(did string) accountRow {
	if a, ok := s.accounts[did]; ok {
		return a
	}
	a, _ := s.c.accounts.get(did)
	return a
}

// tombOf is the newest deletion of a record or of its account.
func (s *sim) tombOf(uri string) tombRow {
	t := s.tomb(uri)
	if a := s.account(derive.HostOf(uri)); a.DeletedRev > t.Rev {
		t.Rev, t.At, t.Replaced = a.DeletedRev, a.DeletedAt, false
	}
	return t
}

// goneOf is the deletion that took out a post which is not there: its account may
// have been deleted after that.
func (s *sim) goneOf(uri string) tombRow {
	if t := s.tomb(uri); t.Was {
		return t
	}
	return s.tombOf(uri)
}

func (s *sim) post(uri string) *postRow {
	if p, ok := s.posts[uri]; ok {
		return p
	}
	p, _ := s.c.posts.get(uri)
	return p
}

// ancestor is a post on the way up from a reply; the whole way is read at once.
func (s *sim) ancestor(uri string) *postRow {
	if p, ok := s.posts[uri]; ok {
		return p
	}
	if p, ok := s.c.posts.have[uri]; ok {
		return p
	}
	if _, known := s.c.posts.loaded[uri]; !known {
		s.c.chains.get(uri)
	}
	return nil
}
