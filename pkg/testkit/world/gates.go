package world

import "sluice/pkg/testkit/repo"

// writeThreadgate puts a gate on r, a post of the open commit or an older one
// of the same account.
func (g *generator) writeThreadgate(r *Record) {
	value, f := g.threadgateValue(r.URI)
	g.create(Threadgate, r.RKey, value, f)
}

func (g *generator) threadgateValue(post string) (repo.Map, facts) {
	a := g.current.account
	value := repo.Map{"post": post, "createdAt": g.created()}
	f := facts{gated: post}
	if g.rng.IntN(8) == 0 {
		return value, f // no rules: anyone may reply
	}
	rule := func(name string) repo.Map { return repo.Map{"$type": Threadgate + "#" + name} }
	allow := []any{}
	f.gate = &gateFacts{}
	if g.rng.IntN(3) == 0 {
		f.gate.mention, allow = true, append(allow, rule("mentionRule"))
	}
	if g.rng.IntN(3) == 0 {
		f.gate.follower, allow = true, append(allow, rule("followerRule"))
	}
	if g.rng.IntN(3) == 0 {
		f.gate.following, allow = true, append(allow, rule("followingRule"))
	}
	if len(a.plan.lists) > 0 && g.rng.IntN(3) == 0 {
		l := a.plan.lists[g.rng.IntN(len(a.plan.lists))]
		list := rule("listRule")
		list["list"] = l.URI
		f.gate.lists, allow = append(f.gate.lists, l.URI), append(allow, list)
	}
	value["allow"] = allow
	return value, f
}

func (g *generator) writePostgate(r *Record) {
	value := repo.Map{"post": r.URI, "createdAt": g.created()}
	f := facts{gated: r.URI}
	if g.rng.IntN(2) == 0 {
		f.noEmbed = true
		value["embeddingRules"] = []any{repo.Map{"$type": Postgate + "#disableRule"}}
	}
	if quote := g.tables.anyQuote(r.URI); quote != "" {
		value["detachedEmbeddingUris"] = []any{quote}
	}
	g.create(Postgate, r.RKey, value, f)
}

// lateGate puts a gate on an older post, edits one or takes it away, where no
// answer or quote depends on it: such a change does not touch what was judged
// before, but only who keeps the order of all repositories can tell.
func (g *generator) lateGate(a *Account) {
	for range 8 {
		if len(a.plan.posts) == 0 {
			break
		}
		r := a.plan.posts[g.rng.IntN(len(a.plan.posts))]
		if r.facts.root != "" || g.tables.answered(r.URI) || g.tables.anyQuote(r.URI) != "" {
			continue
		}
		g.begin(a)
		old := g.tables.records[swapCollection(r.URI, Threadgate)]
		switch {
		case old == nil:
			g.writeThreadgate(r)
		case g.rng.IntN(3) == 0:
			g.remove(old)
		default:
			value, f := g.threadgateValue(r.URI)
			g.update(old, value, f)
		}
		if g.tables.records[swapCollection(r.URI, Postgate)] == nil && g.rng.IntN(2) == 0 {
			g.writePostgate(r)
		}
		g.commit()
		return
	}
	g.post(a)
}

// mayReply keeps apart what one commit may not do: a reply is judged by what
// is settled.
func (g *generator) mayReply(a *Account, parent *Record) bool {
	return g.tables.records[parent.URI] == parent && a.plan.alive
}

// pinJudgement keeps what a reply was judged by as it is from now on: the rows
// an indexer ends with are then the same in whatever order it takes the
// repositories.
func (g *generator) pinJudgement(r *Record) {
	owner := hostOf(r.facts.root)
	gate := g.tables.gateOf(r.facts.root)
	if gate == nil || owner == r.Account.DID || gate.facts.gate == nil {
		return
	}
	g.tables.pinnedPosts[r.facts.root] = true
	g.tables.pinnedPairs[owner+r.Account.DID] = true
	g.tables.pinnedPairs[r.Account.DID+owner] = true
	for _, l := range gate.facts.gate.lists {
		g.tables.pinnedLists[l] = true
	}
	r.Account.plan.pinned, gate.Account.plan.pinned = true, true
}
