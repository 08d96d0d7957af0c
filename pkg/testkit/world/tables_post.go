package world

import (
	"slices"
	"strings"
)

func (t *tables) insertPost(r *Record) {
	row := &postRow{record: r}
	t.posts[r.URI] = row
	f := &r.facts
	if f.root != "" {
		row.invalidRoot = t.invalidRoot(r)
		row.violatesGate = t.violatesGate(r)
		add(t.replies, f.parent, r.URI)
		t.threads[f.root]++
		if f.parent != f.root {
			t.threads[f.parent]++
		}
		if hostOf(f.root) == r.Account.DID {
			t.ownThread[f.root+" "+r.URI] = opReply{root: f.root, did: r.Account.DID}
		}
	}
	if isPost(f.embed) {
		t.quotes[r.URI] = f.embed
		add(t.quotesOf, f.embed, r.URI)
		row.violatesEmbedding = t.violatesEmbedding(r)
	}
}

// withdrawPost takes the rows of a post away. A replaced post keeps what others
// made of it.
func (t *tables) withdrawPost(r *Record, replaced bool) {
	delete(t.posts, r.URI)
	f := &r.facts
	if f.root != "" {
		cut(t.replies, f.parent, r.URI)
		t.threads[f.root]--
		if f.parent != f.root {
			t.threads[f.parent]--
		}
		key := f.root + " " + r.URI
		if o, own := t.ownThread[key]; own {
			o.deleted = true
			t.ownThread[key] = o
		}
	}
	if subject, quotes := t.quotes[r.URI]; quotes {
		delete(t.quotes, r.URI)
		cut(t.quotesOf, subject, r.URI)
	}
	if replaced {
		return
	}
	for uri := range t.quotesOf[r.URI] {
		delete(t.quotes, uri)
	}
	delete(t.quotesOf, r.URI)
	for uri := range t.repostsOf[r.URI] {
		delete(t.reposts, uri)
	}
	delete(t.repostsOf, r.URI)
}

func isPost(uri string) bool { return strings.Contains(uri, "/"+Post+"/") }

func (t *tables) indexed(uri string) *Record {
	if r := t.records[uri]; r != nil && r.Indexed() {
		return r
	}
	return nil
}

// invalidRoot: the parent is unknown or itself invalid, or the root is not the
// one of the parent.
func (t *tables) invalidRoot(r *Record) bool {
	parent := t.indexed(r.facts.parent)
	if parent == nil {
		return true
	}
	if row := t.posts[parent.URI]; row != nil && row.invalidRoot {
		return true
	}
	if r.facts.parent == r.facts.root {
		return parent.facts.root != ""
	}
	return parent.facts.root != r.facts.root
}

// gateOf returns the thread gate of a root post.
func (t *tables) gateOf(root string) *Record { return t.indexed(swapCollection(root, Threadgate)) }

func (t *tables) violatesGate(r *Record) bool {
	owner := hostOf(r.facts.root)
	gate := t.gateOf(r.facts.root)
	if gate == nil || gate.facts.gate == nil || owner == r.Account.DID {
		return false
	}
	rules := gate.facts.gate
	if root := t.indexed(r.facts.root); rules.mention && root != nil {
		if slices.Contains(root.facts.mention, r.Account.DID) {
			return false
		}
	}
	if rules.follower && t.holder(Follow+" "+r.Account.DID+" "+owner) != nil {
		return false
	}
	if rules.following && t.holder(Follow+" "+owner+" "+r.Account.DID) != nil {
		return false
	}
	for _, list := range rules.lists {
		if t.holder(Listitem+" "+list+" "+r.Account.DID) != nil {
			return false
		}
	}
	return true
}

func (t *tables) violatesEmbedding(r *Record) bool {
	gate := t.indexed(swapCollection(r.facts.embed, Postgate))
	return gate != nil && gate.facts.noEmbed && hostOf(r.facts.embed) != r.Account.DID
}

// answered says whether a living reply names the post as parent or root.
func (t *tables) answered(uri string) bool { return t.threads[uri] > 0 }

// anyQuote returns the smallest uri of a post that quotes uri, or "".
func (t *tables) anyQuote(uri string) string {
	first := ""
	for q := range t.quotesOf[uri] {
		if first == "" || q < first {
			first = q
		}
	}
	return first
}
