package store

import (
	"slices"

	"sluice/services/indexer/internal/derive"
)

// putOlder meets a version that a newer one has overtaken; cur is nil where that
// one is gone too. It leaves nothing but what would have stayed of it.
func (s *sim) putOlder(it *item, cur *recRow) {
	replaced := cur != nil && cur.CID != it.rec.CID
	switch {
	case it.kind == derive.Profile && it.rec.Profile != nil:
		s.firstProfile(it)
	case replaced && it.kind == derive.Post:
		s.touchPost(it.rec)
		s.buryOpReply(it.rec, &cur.IndexedAt)
	case replaced && it.kind.Edge():
		e := newEdge(it.rec, it.rev)
		s.buryEdge(e)
		if it.create() && it.notify {
			s.firstEdge(e)
		}
	}
}

// firstProfile: the first version of a profile says with whom an account joined.
func (s *sim) firstProfile(it *item) {
	if !it.create() {
		return
	}
	s.notJoined(it)
	if it.notify {
		s.joined(it.rec)
	}
}

// firstEdge: the first version of a like, a repost or a follow tells of it, and
// a change of it does not.
func (s *sim) firstEdge(e *edgeRow) {
	if e.Kind != derive.Like && e.Kind != derive.Repost && e.Kind != derive.Follow {
		return
	}
	have := s.known(e.URI)
	if slices.ContainsFunc(have, func(n notifRow) bool { return n.RecordCID == e.CID }) {
		return
	}
	if len(have) > 0 {
		s.retract(e.URI)
	}
	if win := s.holder(e.Kind, e.key()); win == nil || win.URI == e.URI || e.before(win) {
		s.notifyEdge(e)
	}
}

// putDead meets a version that was deleted before it arrived.
func (s *sim) putDead(it *item, tomb tombRow) {
	r := it.rec
	account := s.account(r.DID).DeletedRev
	switch {
	case r.Kind == derive.Post:
		s.touchPost(r)
		s.putDeadPost(it, tomb)
	case r.Kind.Edge():
		s.buryEdge(newEdge(r, it.rev))
	}
	if account < revBase(it.rev) {
		s.putOlder(it, nil)
	}
}

// putDeadPost: a post that went with its account keeps its place in its thread,
// and others about it go, as they do when it comes in time.
func (s *sim) putDeadPost(it *item, tomb tombRow) {
	own := s.tomb(it.uri)
	alone := own.Rev >= revBase(it.rev) // not only the account was deleted
	if alone {
		tomb = own
	}
	var at *string
	if tomb.Rev != s.account(it.rec.DID).DeletedRev {
		at = &tomb.At
	}
	s.buryOpReply(it.rec, at)
	if alone && own.Was {
		return
	}
	p := newPost(it.rec, it.rev)
	s.tombs[it.uri] = tomb.bury(p)
	s.parents[p.ReplyParent] = struct{}{}
	s.turned(it.uri)
	if !alone {
		s.recheck(it.uri, recheckGone, tomb.Rev)
	}
}

// touchPost leaves the counters that a post which came after its deletion or
// change would have made.
func (s *sim) touchPost(r *derive.Record) {
	s.count(countPosts, r.DID, 0)
	if ref := r.Post.ReplyParent; ref != nil {
		s.count(countReplies, ref.URI, 0)
	}
	if subject, _, ok := r.Post.Quotes(); ok {
		s.count(countQuotes, subject, 0)
	}
}

// buryOpReply keeps the place of a reply in its author's thread although the
// reply came after its deletion, or after it had left the thread.
func (s *sim) buryOpReply(r *derive.Record, at *string) {
	if r.Post.ReplyRoot == nil || derive.HostOf(r.Post.ReplyRoot.URI) != r.DID {
		return
	}
	root := r.Post.ReplyRoot.URI
	key := root + " " + r.URI
	if _, ok := s.opThread[key]; ok {
		return
	}
	if _, ok := s.c.opThread.get(key); ok {
		return
	}
	s.opThread[key] = &opThreadRow{Root: root, Parent: r.Post.ReplyParent.URI, URI: r.URI, DeletedAt: at}
}

// buryEdge leaves what a record that came after its deletion or change leaves.
func (s *sim) buryEdge(e *edgeRow) {
	s.countEdge(e, 0)
	if (e.Kind == derive.ThreadGate || e.Kind == derive.PostGate) && s.holder(e.Kind, e.key()) == nil {
		s.setGateFlag(e, false)
	}
}
