package store

import (
	"slices"

	"sluice/services/indexer/internal/derive"
)

// judge decides what other records say about a post when it is written, and
// leaves word where one of them is missing.
func (s *sim) judge(p *postRow) {
	if p.ReplyParent != "" {
		invalid, _ := s.judgeParent(p)
		violates := s.judgeGate(p)
		p.setReply(invalid, violates == gateRefuses)
		if invalid {
			s.recheck(p.URI, recheckParent, "")
			s.waitGate(p)
		}
		if violates == gateRefuses {
			s.recheck(p.URI, recheckGate, "")
		}
	}
	if s.judgeEmbed(p) == gateRefuses {
		yes := true
		p.ViolatesEmbedding = &yes
	}
}

// waitGate leaves word for a late gate of the root: it finds the replies that
// hang together with the root by their parents, and no others.
func (s *sim) waitGate(p *postRow) {
	if p.ReplyRoot != p.ReplyParent {
		s.wait("g:"+p.ReplyRoot, p.URI)
	}
}

// waitQuoted leaves word for a late gate of a quoted post that has been deleted
// since: no row of quote tells of it any more.
func (s *sim) waitQuoted(p *postRow) {
	subject, _, ok := p.Full.Post.Quotes()
	if ok && p.ViolatesEmbedding == nil && s.tomb(subject).Rev > p.Stamp {
		s.waitPostGate(subject, p.URI)
	}
}

// waitPostGate: a gate does not bind the author of the post.
func (s *sim) waitPostGate(subject, uri string) {
	if derive.HostOf(subject) != derive.HostOf(uri) {
		s.wait("q:"+subject, uri)
	}
}

// setReply stores the two flags: both are absent where both are false.
func (p *postRow) setReply(invalid, violates bool) {
	p.InvalidReplyRoot, p.ViolatesThreadGate = nil, nil
	if invalid || violates {
		p.InvalidReplyRoot, p.ViolatesThreadGate = &invalid, &violates
	}
}

// judgeParent says whether the parent of a reply does not belong to the thread,
// and whether that is so because a post is missing that may still come. A parent
// that was deleted after the reply was written counts as it was.
func (s *sim) judgeParent(p *postRow) (invalid, missing bool) {
	return s.judgeUp(p, p, 0)
}

// madeAgain says whether a post was gone at a time, and has been made again since.
func (s *sim) madeAgain(p *postRow, at string) bool {
	if p == nil || p.Stamp <= at {
		return false
	}
	t := s.tombOf(p.URI)
	return t.Rev != "" && t.Rev <= at
}

// changedSince says whether a post that is judged again was judged before by
// another version of one above it, which is the parent of below. A reply names
// the versions of its parent and root, so clocks that differ are not taken for
// a change.
func (s *sim) changedSince(above, p *postRow, below string) bool {
	if !s.again || above == nil || above.Stamp <= max(p.Stamp, p.Latest) {
		return false
	}
	named := ""
	switch {
	case p.Full == nil:
	case above.URI == p.ReplyParent:
		named = p.Full.Post.ReplyParent.CID
	case above.URI == p.ReplyRoot:
		named = p.Full.Post.ReplyRoot.CID
	default:
		if ref := s.ref(below); ref != nil {
			named = s.c.reference(ref.JSON).ParentCID
		}
	}
	return named != above.CID
}

// maxGone bounds how many deleted posts one after the other are looked through.
const maxGone = maxRounds / 2

// judgeUp judges a post on the way up from a reply.
func (s *sim) judgeUp(reply, p *postRow, depth int) (invalid, missing bool) {
	parent := s.ref(p.ReplyParent)
	if parent != nil {
		row := s.ancestor(p.ReplyParent)
		if s.madeAgain(row, p.Stamp) {
			return !s.again || reply.invalid(), false // it may have been there before, too
		}
		if s.changedSince(row, reply, p.URI) {
			return reply.invalid(), true // it was judged by the version before
		}
		if row != nil && row.invalid() {
			if depth > 0 {
				s.wait("p:"+p.ReplyParent, reply.URI)
			}
			return true, false
		}
		ref := s.c.reference(parent.JSON)
		return astray(p, ref.IsReply, ref.Root), false
	}
	t := s.goneOf(p.ReplyParent)
	if !t.Was || t.Rev <= p.Stamp {
		if depth > 0 {
			s.wait("p:"+p.ReplyParent, reply.URI)
		}
		goneBefore := t.Rev != "" && t.Rev <= p.Stamp
		return true, !goneBefore
	}
	if s.again && !reply.invalid() && t.Born > max(reply.Stamp, reply.Latest) {
		return false, true // it was judged by the version before
	}
	if t.Parent != "" && depth < maxGone {
		up := &postRow{URI: p.ReplyParent, ReplyRoot: t.Root, ReplyParent: t.Parent, Stamp: t.Born}
		if invalid, missing = s.judgeUp(reply, up, depth+1); invalid || missing {
			return invalid, missing
		}
	}
	return astray(p, t.Parent != "", t.Root), false
}

// astray says that a parent belongs to another thread than the reply says.
func astray(p *postRow, parentReplies bool, parentRoot string) bool {
	if p.ReplyParent == p.ReplyRoot {
		return parentReplies
	}
	return !parentReplies || parentRoot != p.ReplyRoot
}

// verdict of a gate.
type verdict uint8

const (
	gateAbsent verdict = iota // no gate that precedes
	gateAllows
	gateRefuses
)

// gateFor is the gate of a post as far as it precedes a stamp.
func (s *sim) gateFor(post string, kind derive.Kind, at string) (derive.Gate, bool) {
	if !derive.IsPost(post) {
		return derive.Gate{}, false
	}
	ref := s.ref(derive.GateURI(post, kind))
	if ref == nil {
		return derive.Gate{}, false
	}
	g := derive.ParseGate(ref.JSON)
	if stamp(ref.Rev, min(g.CreatedAt, ref.IndexedAt)) > at {
		return derive.Gate{}, false
	}
	return g, true
}

// judgeGate asks the thread gate of the root about a reply. A refused reply
// waits for the facts that would allow it.
func (s *sim) judgeGate(p *postRow) verdict {
	owner := derive.HostOf(p.ReplyRoot)
	if owner == p.Creator {
		return gateAllows
	}
	gate, ok := s.gateFor(p.ReplyRoot, derive.ThreadGate, p.Stamp)
	if !ok {
		return gateAbsent
	}
	if gate.Allow == nil {
		return gateAllows
	}
	var waits []string
	for _, rule := range *gate.Allow {
		allowed, wait := s.judgeRule(rule, p, owner)
		if allowed {
			return gateAllows
		}
		if wait != "" {
			waits = append(waits, wait)
		}
	}
	for _, key := range waits {
		s.wait(key, p.URI)
	}
	return gateRefuses
}

// judgeRule says whether one rule allows a reply, and what would.
func (s *sim) judgeRule(rule derive.GateRule, p *postRow, owner string) (allowed bool, wait string) {
	switch rule.Type {
	case derive.MentionRule:
		root := s.ref(p.ReplyRoot)
		if root == nil {
			return false, "p:" + p.ReplyRoot
		}
		return slices.Contains(s.c.reference(root.JSON).Mentions, p.Creator), ""
	case derive.FollowerRule:
		return s.fact(derive.Follow, derive.Key(derive.Follow, p.Creator, owner), p.Stamp, "f:")
	case derive.FollowingRule:
		return s.fact(derive.Follow, derive.Key(derive.Follow, owner, p.Creator), p.Stamp, "f:")
	case derive.ListRule:
		return s.fact(derive.ListItem, derive.Key(derive.ListItem, rule.List, p.Creator), p.Stamp, "l:")
	default:
		return false, ""
	}
}

func (s *sim) fact(kind derive.Kind, key, at, prefix string) (ok bool, wait string) {
	if e := s.holder(kind, key); e != nil && e.stamp() <= at {
		return true, ""
	}
	return false, prefix + key
}

// judgeEmbed asks the post gate of the quoted post about a quote.
func (s *sim) judgeEmbed(p *postRow) verdict {
	subject, _, ok := p.Full.Post.Quotes()
	if !ok {
		return gateAbsent
	}
	if derive.HostOf(subject) == p.Creator {
		return gateAllows
	}
	gate, ok := s.gateFor(subject, derive.PostGate, p.Stamp)
	switch {
	case !ok:
		return gateAbsent
	case gate.NoQuotes:
		return gateRefuses
	default:
		return gateAllows
	}
}
