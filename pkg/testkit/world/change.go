package world

// undo deletes something of a that may go.
func (g *generator) undo(a *Account) {
	p := &a.plan
	for range 8 {
		var shelf []*Record
		switch n := g.rng.IntN(10); {
		case n < 4:
			shelf = p.likes
		case n < 5:
			shelf = p.reposts
		case n < 7:
			shelf = p.follows
		case n < 8:
			shelf = p.posts
		default:
			shelf = p.others
		}
		if len(shelf) == 0 {
			continue
		}
		r := shelf[g.rng.IntN(len(shelf))]
		if !g.mayDelete(r) {
			continue
		}
		g.begin(a)
		g.remove(r)
		g.commit()
		return
	}
	g.post(a)
}

func (g *generator) mayDelete(r *Record) bool {
	switch r.Collection {
	case Follow:
		return !g.tables.pinnedPairs[r.Account.DID+r.facts.subject]
	case Repost:
		// The next repost of the same would get a feed item of a post that is gone.
		return len(g.tables.unique[uniqueKey(r)].others) == 0 || g.tables.records[r.facts.subject] != nil
	case Listitem:
		return !g.tables.pinnedLists[r.facts.list]
	case Threadgate, Postgate:
		return !g.tables.answered(r.facts.gated) && g.tables.anyQuote(r.facts.gated) == ""
	case Post:
		return g.mayDeletePost(r)
	}
	return true
}

// mayDeletePost: what is in the history of a repository must not leave behind
// what only those who saw it live can know.
func (g *generator) mayDeletePost(r *Record) bool {
	if g.tables.pinnedPosts[r.URI] {
		return false
	}
	if r.Seq > 0 {
		return true
	}
	own := r.facts.root != "" && hostOf(r.facts.root) == r.Account.DID
	return !own && !g.tables.answered(r.URI) && g.tables.anyQuote(r.URI) == "" && len(g.tables.repostsOf[r.URI]) == 0
}

// edit changes a post or replaces a list, feed generator or pack.
func (g *generator) edit(a *Account) {
	p := &a.plan
	switch n := g.rng.IntN(4); {
	case n == 0 && len(p.lists) > 0:
		r := p.lists[g.rng.IntN(len(p.lists))]
		g.begin(a)
		value, f := g.copyValue(r)
		value["name"] = "edited " + words[g.rng.IntN(len(words))]
		g.update(r, value, f)
		g.commit()
	case n == 1 && len(p.feeds) > 0:
		r := p.feeds[g.rng.IntN(len(p.feeds))]
		g.begin(a)
		value, f := g.copyValue(r)
		value["displayName"] = "edited " + words[g.rng.IntN(len(words))]
		g.update(r, value, f)
		g.commit()
	case len(p.posts) > 0:
		g.editPost(a, p.posts[g.rng.IntN(len(p.posts))])
	default:
		g.self(a, Profile)
	}
}

func (g *generator) editPost(a *Account, r *Record) {
	judged := r.facts.root != "" && g.tables.gateOf(r.facts.root) != nil
	gone := isPost(r.facts.embed) && g.tables.records[r.facts.embed] == nil
	if judged || gone || g.tables.pinnedPosts[r.URI] || g.tables.anyQuote(r.URI) != "" {
		g.post(a)
		return
	}
	g.begin(a)
	value, f := g.copyValue(r)
	value["text"] = "edited: " + sentence(g.rng, 6)
	delete(value, "facets")
	f.mention = nil
	if f.embed == "" {
		delete(value, "embed")
		f.images, f.gallery, f.video, f.link = 0, 0, false, false
		if g.rng.IntN(2) == 0 {
			value["embed"] = g.imagesEmbed(&f)
		}
	}
	g.update(r, value, f)
	g.commit()
}

// revive creates a record anew under the key of one just deleted: the profile,
// whose key never changes.
func (g *generator) revive(a *Account) {
	r := a.plan.self[Profile]
	if r == nil {
		g.self(a, Profile)
		return
	}
	g.begin(a)
	g.remove(r)
	g.commit()
	if g.rng.IntN(3) > 0 {
		g.self(a, Profile)
	}
}
