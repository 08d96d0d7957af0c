package store

import (
	"sort"

	"sluice/services/indexer/internal/derive"
)

func (s *sim) edge(kind derive.Kind, uri string) *edgeRow {
	if e, ok := s.edges[uri]; ok {
		return e
	}
	e, _ := s.c.edges[kind].byURI.get(uri)
	return e
}

// holder is the row that has a key.
func (s *sim) holder(kind derive.Kind, key string) *edgeRow {
	if e, ok := s.keys[kind][key]; ok {
		return e
	}
	e, ok := s.c.edges[kind].byKey.get(key)
	if !ok {
		return nil
	}
	if cur, changed := s.edges[e.URI]; changed {
		return cur // nil, or moved within the key
	}
	return e
}

func (s *sim) setKey(kind derive.Kind, key string, e *edgeRow) {
	if s.keys[kind] == nil {
		s.keys[kind] = map[string]*edgeRow{}
	}
	s.keys[kind][key] = e
}

func (s *sim) dup(uri string) *dupRow {
	if d, ok := s.dups[uri]; ok {
		return d
	}
	d, _ := s.c.dups.get(uri)
	return d
}

// dupsOf are the duplicates of the row that holds a key, oldest first.
func (s *sim) dupsOf(uri string) []*dupRow {
	var out []*dupRow
	stored, _ := s.c.dupsOf.get(uri)
	for _, d := range stored {
		if _, changed := s.dups[d.URI]; !changed {
			out = append(out, d)
		}
	}
	for _, d := range s.dups {
		if d != nil && d.Of == uri {
			out = append(out, d)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if a.IndexedAt != b.IndexedAt {
			return a.IndexedAt < b.IndexedAt
		}
		if a.Rev != b.Rev {
			return a.Rev < b.Rev
		}
		return a.URI < b.URI
	})
	return out
}

// putEdge stores a record that is unique by a key.
func (s *sim) putEdge(r *derive.Record, rev string, replaced, notify bool, at string) {
	e := newEdge(r, rev)
	var old *edgeRow
	if replaced {
		old = s.edge(e.Kind, e.URI)
	}
	switch {
	case old == nil:
		if replaced && s.dup(e.URI) != nil {
			s.dups[e.URI] = nil
		}
		s.insertEdge(e, r.JSON, notify)
	case old.key() == e.key():
		s.setEdge(e)
		s.countEdge(e, 0)
		s.afterReplace(old, at, notify)
	default:
		s.dropEdge(old, true, at, notify)
		if s.holder(e.Kind, e.key()) == nil {
			s.takeKey(e)
		} else {
			s.insertEdge(e, r.JSON, false)
			if e.Kind != derive.Verification {
				s.retract(e.URI)
			}
		}
		s.afterReplace(old, at, notify)
	}
	s.arrived(e)
}

// insertEdge gives the key to a record, or keeps it aside as a duplicate. The
// oldest record has the key; of one commit's, which may be read apart, that with
// the lowest uri.
func (s *sim) insertEdge(e *edgeRow, json string, notify bool) {
	win := s.holder(e.Kind, e.key())
	switch {
	case win == nil:
		s.takeKey(e)
		if notify {
			s.notifyEdge(e)
		}
	case e.before(win):
		s.swap(win, e, notify)
	default:
		s.dups[e.URI] = &dupRow{URI: e.URI, CID: e.CID, Of: win.URI, IndexedAt: e.IndexedAt, JSON: json, Rev: e.Rev}
	}
}

func (s *sim) takeKey(e *edgeRow) {
	s.setEdge(e)
	s.countEdge(e, 1)
}

// swap puts an older record in the place of the one that came first.
func (s *sim) swap(win, e *edgeRow, notify bool) {
	for _, d := range s.dupsOf(win.URI) {
		moved := *d
		moved.Of = e.URI
		s.dups[d.URI] = &moved
	}
	s.unsetEdge(win)
	s.retract(win.URI)
	s.dups[win.URI] = &dupRow{URI: win.URI, CID: win.CID, Of: e.URI, IndexedAt: win.IndexedAt, JSON: s.jsonOf(win.URI), Rev: win.Rev}
	s.setEdge(e)
	s.countEdge(e, 0)
	if notify {
		s.notifyEdge(e)
	}
}

// jsonOf is the text of a record; it is needed when the record is promoted in
// the same batch.
func (s *sim) jsonOf(uri string) string {
	if r := s.ref(uri); r != nil {
		return r.JSON
	}
	return ""
}

// removeEdge takes a deleted record out and promotes its oldest duplicate.
func (s *sim) removeEdge(kind derive.Kind, uri, at string, notify bool) {
	e := s.edge(kind, uri)
	if e == nil {
		if s.dup(uri) != nil {
			s.dups[uri] = nil
			if kind == derive.Repost {
				s.feeds[uri] = nil
			}
		}
		return
	}
	s.dropEdge(e, false, at, notify)
}

// dropEdge frees the key of a row. The oldest duplicate takes it; the
// notification of the old row then stays, as the account did like it.
func (s *sim) dropEdge(e *edgeRow, replaced bool, at string, notify bool) {
	s.unsetEdge(e)
	next := s.promote(e)
	if next == nil {
		s.countEdge(e, -1)
	} else {
		s.countEdge(next, 0)
	}
	if e.Kind == derive.ThreadGate || e.Kind == derive.PostGate {
		s.setGateFlag(e, false)
	}
	if replaced {
		return
	}
	switch e.Kind {
	case derive.Like, derive.Repost, derive.Follow:
		if next == nil {
			s.retract(e.URI)
		}
	case derive.Verification:
		if notify {
			s.unverified(e, at)
		}
	default:
	}
}

// promote gives the key of a row to its oldest duplicate; the others are its
// duplicates from now on.
func (s *sim) promote(e *edgeRow) *edgeRow {
	var next *edgeRow
	for _, d := range s.dupsOf(e.URI) {
		if next != nil {
			moved := *d
			moved.Of = next.URI
			s.dups[d.URI] = &moved
			continue
		}
		u := derive.ParseURI(d.URI)
		r, err := derive.Parse(derive.Source{
			DID: u.Host, Collection: u.Collection, RKey: u.RKey, CID: d.CID, Time: d.IndexedAt, JSON: []byte(d.JSON),
		})
		if err != nil {
			continue
		}
		s.dups[d.URI] = nil
		next = newEdge(r, d.Rev)
		s.setEdge(next)
	}
	return next
}

// setEdge stores a row under its key, with its feed item.
func (s *sim) setEdge(e *edgeRow) {
	s.edges[e.URI] = e
	s.setKey(e.Kind, e.key(), e)
	if e.Kind == derive.Repost {
		s.feeds[e.URI] = nil
		if s.tomb(e.Row.Subject).Rev <= e.stamp() {
			s.feeds[e.URI] = &feedRow{URI: e.URI, CID: e.CID, Type: "repost", PostURI: e.Row.Subject, Originator: e.Creator, SortAt: e.sortAt()}
		}
	}
	if e.Kind == derive.ThreadGate || e.Kind == derive.PostGate {
		s.setGateFlag(e, true)
	}
}

func (s *sim) unsetEdge(e *edgeRow) {
	s.edges[e.URI] = nil
	s.setKey(e.Kind, e.key(), nil)
	if e.Kind == derive.Repost {
		s.feeds[e.URI] = nil
	}
}

// countEdge counts a row; 0 makes sure that the counter has a row.
func (s *sim) countEdge(e *edgeRow, n int) {
	switch e.Kind {
	case derive.Like:
		s.count(countLikes, e.Row.Subject, n)
	case derive.Repost:
		s.count(countReposts, e.Row.Subject, n)
	case derive.Follow:
		s.count(countFollowers, e.Row.Subject, n)
		s.count(countFollows, e.Creator, n)
	default:
	}
}

// arrived tells what waits for the fact that a row states.
func (s *sim) arrived(e *edgeRow) {
	switch e.Kind {
	case derive.Follow:
		s.wake("f:"+e.key(), recheckGate, e.stamp())
	case derive.ListItem:
		s.wake("l:"+e.key(), recheckGate, e.stamp())
	case derive.ThreadGate:
		s.gateArrived(e, &s.c.lateReps, recheckGate)
		s.wake("g:"+e.Row.Subject, recheckGate, e.stamp())
	case derive.PostGate:
		s.gateArrived(e, &s.c.lateQuos, recheckEmbed)
		s.wake("q:"+e.Row.Subject, recheckEmbed, e.stamp())
	default:
	}
}

// gateArrived rechecks what is younger than a gate but came before it.
func (s *sim) gateArrived(e *edgeRow, late *lookup[[]lateRow], what int16) {
	at := e.stamp()
	rows, _ := late.get(e.Row.Subject)
	for _, l := range rows {
		if l.Stamp > at {
			s.recheck(l.URI, what, "")
		}
	}
	for uri, p := range s.posts {
		if p == nil || p.Full == nil || p.Stamp <= at {
			continue
		}
		quoted, _, _ := p.Full.Post.Quotes()
		if (what == recheckGate && p.ReplyRoot == e.Row.Subject) || (what == recheckEmbed && quoted == e.Row.Subject) {
			s.recheck(uri, what, "")
		}
	}
}

// setGateFlag tells the post that it has a gate, or has one no more.
func (s *sim) setGateFlag(e *edgeRow, on bool) {
	p := s.post(e.Row.Subject)
	if p == nil {
		return
	}
	flag := &on
	if t := s.tomb(derive.GateURI(p.URI, e.Kind)); !on && t.Rev != "" && t.Rev <= p.Stamp {
		flag = nil // it was the gate of a version that is gone
	}
	next := *p
	if e.Kind == derive.ThreadGate {
		next.HasThreadGate = flag
	} else {
		next.HasPostGate = flag
	}
	s.setPost(&next)
}

// afterReplace writes what a replaced row leaves behind.
func (s *sim) afterReplace(old *edgeRow, at string, notify bool) {
	if old.Kind == derive.Verification && notify {
		s.unverified(old, at)
	}
}
