package store

import "sluice/services/indexer/internal/derive"

// putPost stores a post; with replaced, in the place of an older version.
func (s *sim) putPost(r *derive.Record, rev string, replaced, notify bool) {
	var old *postRow
	if replaced {
		old = s.post(r.URI)
	}
	p := newPost(r, rev)
	p.HasThreadGate, p.HasPostGate = s.gateFlag(r.URI, derive.ThreadGate, p.Stamp), s.gateFlag(r.URI, derive.PostGate, p.Stamp)
	if old != nil {
		s.clearPost(old)
	}
	s.setPost(p)
	s.judge(p)
	s.feeds[r.URI] = &feedRow{URI: r.URI, CID: r.CID, Type: "post", PostURI: r.URI, Originator: r.DID, SortAt: p.SortAt}
	s.countPost(p, 1)
	s.putQuote(p)
	if p.opReply() {
		s.opThread[p.ReplyRoot+" "+p.URI] = &opThreadRow{Root: p.ReplyRoot, Parent: p.ReplyParent, URI: p.URI}
	}
	if old != nil {
		s.retract(r.URI)
		if old.opReply() && old.ReplyRoot != p.ReplyRoot {
			s.opThread[old.ReplyRoot+" "+p.URI] = &opThreadRow{Root: old.ReplyRoot, Parent: old.ReplyParent, URI: p.URI, DeletedAt: &r.IndexedAt}
		}
	}
	if notify {
		s.notifyPost(p)
	}
	switch {
	case old == nil:
		s.postArrived(p)
	case old.invalid() != p.invalid():
		s.edited(p)
	}
}

func newPost(r *derive.Record, rev string) *postRow {
	p := &postRow{
		URI: r.URI, CID: r.CID, Creator: r.DID, SortAt: r.SortAt(), Stamp: stamp(rev, r.SortAt()), Full: r,
		Latest: revBase(rev),
	}
	if ref := r.Post.ReplyRoot; ref != nil {
		p.ReplyRoot, p.ReplyParent = ref.URI, r.Post.ReplyParent.URI
	}
	return p
}

// gateFlag is true for a post with a gate, false for one whose gate has been
// deleted since the post was made, nil for one without.
func (s *sim) gateFlag(uri string, kind derive.Kind, at string) *bool {
	if s.holder(kind, derive.Key(kind, derive.HostOf(uri), uri)) != nil {
		on := true
		return &on
	}
	if t := s.tomb(derive.GateURI(uri, kind)); t.Rev > at {
		off := false
		return &off
	}
	return nil
}

func (s *sim) setPost(p *postRow) {
	s.posts[p.URI] = p
	if p.ReplyParent != "" {
		s.parents[p.ReplyParent] = struct{}{}
	}
}

// postArrived tells what waits for a post.
func (s *sim) postArrived(p *postRow) {
	_, waiting := s.c.children.get(p.URI)
	if waiting || s.hasReply(p.URI) {
		s.recheck(p.URI, recheckDescend, "")
	}
	s.wake("p:"+p.URI, recheckGate|recheckParent, "")
}

// edited has the posts below judged again that are younger than the new version
// of a post; the others were judged by the one before.
func (s *sim) edited(p *postRow) {
	_, waiting := s.c.children.get(p.URI)
	if waiting || s.hasReply(p.URI) {
		s.recheck(p.URI, recheckDescend, p.Stamp)
	}
}

// turned has the posts below judged again: those that are near, and those that
// wait for this one.
func (s *sim) turned(uri string) {
	s.recheck(uri, recheckDescend, "")
	s.wake("p:"+uri, recheckParent, "")
}

// hasReply says whether a post that these changes write, or delete, is a reply
// to another.
func (s *sim) hasReply(uri string) bool {
	if _, any := s.parents[uri]; !any {
		return false
	}
	for _, other := range s.posts {
		if other != nil && other.ReplyParent == uri {
			return true
		}
	}
	for _, t := range s.tombs {
		if t.Parent == uri {
			return true
		}
	}
	return false
}

// removePost takes a deleted post out.
func (s *sim) removePost(uri, at string) {
	old := s.post(uri)
	s.retract(uri)
	if old == nil {
		return
	}
	s.clearPost(old)
	s.posts[uri] = nil
	s.settled[uri] = struct{}{}
	s.feeds[uri] = nil
	s.tombs[uri] = s.tombOf(uri).bury(old)
	if old.invalid() {
		s.turned(uri)
	}
	if old.opReply() && at != "" {
		s.opThread[old.ReplyRoot+" "+uri] = &opThreadRow{Root: old.ReplyRoot, Parent: old.ReplyParent, URI: uri, DeletedAt: &at}
	}
}

// clearPost undoes what a version of a post has counted and quoted.
func (s *sim) clearPost(old *postRow) {
	s.countPost(old, -1)
	if q := s.quote(old.URI); q != nil {
		s.quotes[old.URI] = nil
		s.count(countQuotes, q.Subject, -1)
	}
}

func (s *sim) quote(uri string) *quoteRow {
	if q, ok := s.quotes[uri]; ok {
		return q
	}
	q, _ := s.c.quotes.get(uri)
	return q
}

// countPost counts a post for its author and, unless the thread gate forbids
// it, for the post that it replies to.
func (s *sim) countPost(p *postRow, n int) {
	s.count(countPosts, p.Creator, n)
	if p.ReplyParent == "" {
		return
	}
	if p.violates() {
		n = 0
	}
	s.count(countReplies, p.ReplyParent, n)
}

func (s *sim) putQuote(p *postRow) {
	subject, cid, ok := p.Full.Post.Quotes()
	if !ok {
		return
	}
	if s.tomb(subject).Rev > p.Stamp {
		s.count(countQuotes, subject, 0)
		s.waitQuoted(p)
		return
	}
	if q := s.quote(p.URI); q != nil {
		s.count(countQuotes, q.Subject, -1)
	}
	s.quotes[p.URI] = &quoteRow{
		URI: p.URI, CID: p.CID, Subject: subject, SubjectCID: cid, CreatedAt: p.Full.CreatedAt, IndexedAt: p.Full.IndexedAt,
	}
	s.count(countQuotes, subject, 1)
}
