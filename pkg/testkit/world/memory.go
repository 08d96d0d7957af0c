package world

// planState is what the generator remembers of an account to act sensibly.
type planState struct {
	alive     bool // has a repository and is not deleted
	posts     []*Record
	likes     []*Record
	reposts   []*Record
	follows   []*Record
	lists     []*Record
	others    []*Record // whatever else may be deleted
	liked     map[string]int
	reposted  map[string]int
	following map[string]*Record
	blocked   map[string]int
	member    map[string]bool // list uri + did
	self      map[string]*Record
	packs     []*Record
	feeds     []*Record
	pinned    bool
	place     map[*Record]int
}

func newPlanState() planState {
	return planState{
		liked: map[string]int{}, reposted: map[string]int{}, following: map[string]*Record{},
		blocked: map[string]int{}, member: map[string]bool{}, self: map[string]*Record{}, place: map[*Record]int{},
	}
}

// shelf is the slice that a record of this collection is kept in.
func (p *planState) shelf(collection string) *[]*Record {
	switch collection {
	case Post:
		return &p.posts
	case Like:
		return &p.likes
	case Repost:
		return &p.reposts
	case Follow:
		return &p.follows
	case List:
		return &p.lists
	case Starterpack:
		return &p.packs
	case Generator:
		return &p.feeds
	}
	return &p.others
}

func (g *generator) remember(r *Record) {
	if r.Invalid {
		return // nothing refers to it
	}
	p := &r.Account.plan
	if r.RKey == "self" {
		p.self[r.Collection] = r
		return
	}
	shelf := p.shelf(r.Collection)
	p.place[r] = len(*shelf)
	*shelf = append(*shelf, r)
	switch r.Collection {
	case Post:
		g.posts = append(g.posts, r)
		if len(g.posts) > 4096 {
			g.posts = append(g.posts[:0], g.posts[2048:]...)
		}
	case Like:
		p.liked[r.facts.subject]++
	case Repost:
		p.reposted[r.facts.subject]++
		g.lastRepost[r.facts.subject] = r
	case Follow:
		p.following[r.facts.subject] = r
	case Block, Listblock, Verification:
		p.blocked[r.Collection+r.facts.subject]++
	case Listitem:
		p.member[r.facts.list+" "+r.facts.subject] = true
	}
}

func (g *generator) forget(r *Record) {
	p := &r.Account.plan
	if r.RKey == "self" {
		delete(p.self, r.Collection)
		return
	}
	shelf := p.shelf(r.Collection)
	at, last := p.place[r], len(*shelf)-1
	moved := (*shelf)[last]
	(*shelf)[at] = moved
	p.place[moved] = at
	*shelf = (*shelf)[:last]
	delete(p.place, r)
	switch r.Collection {
	case Like:
		p.liked[r.facts.subject]--
	case Repost:
		p.reposted[r.facts.subject]--
	case Follow:
		delete(p.following, r.facts.subject)
	case Block, Listblock, Verification:
		p.blocked[r.Collection+r.facts.subject]--
	case Listitem:
		delete(p.member, r.facts.list+" "+r.facts.subject)
	}
}
