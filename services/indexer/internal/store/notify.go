package store

import (
	"slices"

	"sluice/services/indexer/internal/derive"
)

// known are the notifications of a record. One that nothing has been written
// about before has none.
func (s *sim) known(uri string) []notifRow {
	if n, ok := s.notifs[uri]; ok {
		return n
	}
	stored, _ := s.c.notifs.get(uri)
	return stored
}

// virgin says that a record was never here before, so nothing about it is
// stored.
func (s *sim) virgin(uri string) bool {
	stored, _ := s.c.recs.get(uri)
	tomb, _ := s.c.tombs.get(uri)
	return stored == nil && tomb.Rev == "" && derive.ParseURI(uri).RKey != "self"
}

// add stores a notification unless the recipient's account has been deleted
// since, or it is there already.
func (s *sim) add(n notifRow, at string) {
	if n.DID == "" || s.account(n.DID).DeletedRev > at {
		return
	}
	var have []notifRow
	if cur, ok := s.notifs[n.RecordURI]; ok || !s.virgin(n.RecordURI) {
		have = cur
		if !ok {
			have = s.known(n.RecordURI)
		}
	}
	for _, h := range have {
		if h.same(n) {
			return
		}
	}
	n.Thread = s.threadOf(n.Subject)
	s.notifs[n.RecordURI] = append(slices.Clone(have), n)
}

// threadOf is the thread that a subject is in at the moment, which at the end of
// the batch may not be so any more: nil where these changes have not touched it.
func (s *sim) threadOf(subject string) *string {
	p, touched := s.posts[subject]
	switch {
	case !touched:
		return nil
	case p == nil || p.ReplyRoot == "":
		return &subject
	default:
		return &p.ReplyRoot
	}
}

// arrivedSince says that a post was not there yet when something was said of it.
func (s *sim) arrivedSince(n notifRow) bool {
	return n.Thread == nil && s.posts[n.Subject] != nil && s.c.posts.have[n.Subject] == nil
}

// retract takes back every notification of a record.
func (s *sim) retract(uri string) {
	if _, ok := s.notifs[uri]; !ok && s.virgin(uri) {
		return
	}
	s.known(uri)
	s.notifs[uri] = nil
}

// notifyEdge tells the owner of the subject, and of the repost that led there.
func (s *sim) notifyEdge(e *edgeRow) {
	n := notifRow{RecordURI: e.URI, RecordCID: e.CID, Author: e.Creator, SortAt: e.sortAt()}
	switch e.Kind {
	case derive.Like, derive.Repost:
		reason := "like"
		if e.Kind == derive.Repost {
			reason = "repost"
		}
		owner := derive.HostOf(e.Row.Subject)
		if owner == e.Creator {
			return
		}
		n.DID, n.Reason, n.Subject = owner, reason, e.Row.Subject
		s.add(n, e.stamp())
		if e.Row.Via == nil {
			return
		}
		if n.DID = derive.HostOf(*e.Row.Via); n.DID != e.Creator {
			n.Reason, n.Subject = reason+"-via-repost", *e.Row.Via
			s.add(n, e.stamp())
		}
	case derive.Follow:
		n.DID, n.Reason = e.Row.Subject, "follow"
		s.add(n, e.stamp())
	case derive.Verification:
		n.DID, n.Reason = e.Row.Subject, "verified"
		s.add(n, e.stamp())
	default:
	}
}

// told says that the subject of a row has a notification of it, be it of an
// older version.
func (s *sim) told(e *edgeRow) bool {
	return slices.ContainsFunc(s.known(e.URI), func(n notifRow) bool {
		return n.Reason != "unverified" && (n.DID == e.Row.Subject || n.Subject == e.Row.Subject)
	})
}

// renew meets the deletion, at a time, of a version that another one at the same
// uri has replaced before: that one was made anew, and notifies for itself.
func (s *sim) renew(kind derive.Kind, cur *recRow, at string) {
	e := s.edge(kind, cur.URI)
	if e == nil || kind == derive.Verification {
		return
	}
	have := s.known(cur.URI)
	if len(have) > 0 && !slices.ContainsFunc(have, func(n notifRow) bool { return n.RecordCID != cur.CID && n.SortAt <= at }) {
		return
	}
	s.retract(cur.URI)
	if !quiet(cur.Rev) {
		s.notifyEdge(e)
	}
}

// unverified tells the subject that a verification is no more.
func (s *sim) unverified(e *edgeRow, at string) {
	s.add(notifRow{
		DID: e.Row.Subject, RecordURI: e.URI, RecordCID: e.CID, Author: e.Creator, Reason: "unverified", SortAt: at,
	}, tidAfter(at))
}

// joined tells the owner of a starter pack once who joined with it; of several
// profiles the first one counts, and it stays when the profile goes.
func (s *sim) joined(r *derive.Record) {
	if r.Profile.JoinedViaStarterPack == nil {
		return
	}
	pack := *r.Profile.JoinedViaStarterPack
	n := notifRow{
		DID: derive.HostOf(pack), RecordURI: r.URI, RecordCID: r.CID, Author: r.DID,
		Reason: "starterpack-joined", Subject: pack, SortAt: r.IndexedAt,
	}
	have := s.known(r.URI)
	for i, h := range have {
		if h.DID != n.DID || h.Reason != n.Reason || h.Subject != n.Subject {
			continue
		}
		if h.SortAt > n.SortAt {
			next := slices.Clone(have)
			next[i] = n
			s.notifs[r.URI] = next
		}
		return
	}
	s.add(n, tidAfter(r.IndexedAt))
}

// notJoined takes back what updates of a profile said before its creation came:
// only the first version says with whom an account joined. What was said after
// a deletion is of another profile.
func (s *sim) notJoined(it *item) {
	tomb, have := s.tombOf(it.uri), s.known(it.uri)
	alive := tomb.Rev < revBase(it.rev)
	keep := slices.DeleteFunc(slices.Clone(have), func(n notifRow) bool {
		return n.RecordCID != it.rec.CID && n.SortAt >= it.rec.IndexedAt && (alive || n.SortAt <= tomb.At)
	})
	if len(keep) != len(have) {
		s.notifs[it.uri] = keep
	}
}

// notifyPost writes the notifications of a post.
func (s *sim) notifyPost(p *postRow) {
	want, _ := s.postNotifs(p)
	for _, n := range want {
		s.add(n, p.Stamp)
	}
}

// postNotifs lists whom a post tells, each account once, the first reason
// counts: mention, quote, then reply to the ancestors, nearest first. open says
// that there may have been more ancestors than are known now.
func (s *sim) postNotifs(p *postRow) (want []notifRow, open bool) {
	told := map[string]bool{p.Creator: true}
	tell := func(did, reason, subject string) {
		if told[did] {
			return
		}
		told[did] = true
		want = append(want, notifRow{
			DID: did, RecordURI: p.URI, RecordCID: p.CID, Author: p.Creator, Reason: reason, Subject: subject, SortAt: p.SortAt,
		})
	}
	for _, did := range p.Full.Post.Mentions {
		tell(did, "mention", "")
	}
	if subject, _, ok := p.Full.Post.Quotes(); ok && p.ViolatesEmbedding == nil {
		tell(derive.HostOf(subject), "quote", subject)
	}
	if p.ReplyParent == "" || p.violates() {
		return want, false
	}
	gate, _ := s.gateFor(p.ReplyRoot, derive.ThreadGate, p.Stamp)
	uri, below := p.ReplyParent, p.URI
	for range chainDepth {
		up, known, missing := s.up(uri, p)
		open = open || missing
		if !known {
			return want, open
		}
		tell(derive.HostOf(uri), "reply", uri)
		if slices.Contains(gate.Hidden, uri) {
			return want, open
		}
		if s.changedSince(s.ancestor(uri), p, below) {
			return want, true // the way up that the post saw is gone
		}
		if up == "" {
			return want, open
		}
		uri, below = up, uri
	}
	return want, open
}

// up is the parent of an ancestor, also of one that was deleted after the reply
// at a stamp was written. missing says that the ancestor may still arrive, or
// may have been there with a version that is gone.
func (s *sim) up(uri string, p *postRow) (parent string, known, missing bool) {
	at := p.Stamp
	if a := s.ancestor(uri); a != nil {
		gone := s.madeAgain(a, at)
		return a.ReplyParent, !gone, gone
	}
	t := s.goneOf(uri)
	if t.Was && t.Rev > at {
		return t.Parent, true, s.again && t.Born > max(at, p.Latest)
	}
	return "", false, t.Rev == "" || t.Rev > at
}

// notifyAgain writes the notifications of a record that was known from fetches
// only.
func (s *sim) notifyAgain(it *item, cur *recRow) {
	switch {
	case it.kind == derive.Post:
		if p := s.post(it.uri); p != nil {
			full := *p
			full.Full = it.rec
			full.SortAt = min(it.rec.CreatedAt, cur.IndexedAt)
			s.notifyPost(&full)
		}
	case it.kind.Edge():
		// A version that came live before has told them already.
		if e := s.edge(it.kind, it.uri); e != nil && !s.told(e) {
			s.notifyEdge(e)
		}
	case it.kind == derive.Profile && it.rec.Profile != nil:
		s.joined(it.rec)
	}
}
