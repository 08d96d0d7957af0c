package world

import "sluice/pkg/testkit/repo"

func (g *generator) follow(a *Account) {
	g.begin(a)
	for n := 0; n == 0 || (n < 8 && g.rng.IntN(5) == 0); n++ {
		if to := g.celebrity(a); g.mayFollow(a, to) {
			var via *Record
			if len(to.plan.packs) > 0 && g.rng.IntN(3) == 0 {
				via = to.plan.packs[0]
			}
			g.writeFollow(to.DID, via)
			a.plan.following[to.DID] = nil // once in a commit
		}
	}
	if g.commit() == nil {
		g.post(a)
	}
}

func (g *generator) mayFollow(a, to *Account) bool {
	_, already := a.plan.following[to.DID]
	return a != to && !already && !g.tables.pinnedPairs[a.DID+to.DID]
}

func (g *generator) writeFollow(did string, via *Record) {
	value := repo.Map{"subject": did, "createdAt": g.created()}
	if via != nil {
		value["via"] = via.ref()
	}
	g.create(Follow, g.tid(), value, facts{subject: did})
}

func (g *generator) block(a *Account) {
	to := g.celebrity(a)
	if to == a || a.plan.blocked[Block+to.DID] > 0 {
		g.post(a)
		return
	}
	g.begin(a)
	g.create(Block, g.tid(), repo.Map{"subject": to.DID, "createdAt": g.created()}, facts{subject: to.DID})
	g.commit()
}

func (g *generator) list(a *Account) {
	g.begin(a)
	r := g.writeList([]string{"curatelist", "modlist"}[g.rng.IntN(2)])
	for range g.rng.IntN(4) {
		g.writeItem(r, g.celebrity(nil))
	}
	g.commit()
}

func (g *generator) writeList(purpose string) *Record {
	text, facets := richText(g.rng, nil)
	value := repo.Map{
		"name": sentence(g.rng, 2), "purpose": "app.bsky.graph.defs#" + purpose, "description": text,
		"createdAt": g.created(),
	}
	if len(facets) > 0 {
		value["descriptionFacets"] = facets
	}
	if g.rng.IntN(3) == 0 {
		value["avatar"] = g.blob("image/jpeg", 44_000)
	}
	return g.create(List, g.tid(), value, facts{})
}

func (g *generator) writeItem(list *Record, who *Account) {
	key := list.URI + " " + who.DID
	if list.Account.plan.member[key] || g.tables.pinnedLists[list.URI] {
		return
	}
	list.Account.plan.member[key] = true
	value := repo.Map{"list": list.URI, "subject": who.DID, "createdAt": g.created()}
	g.create(Listitem, g.tid(), value, facts{list: list.URI, subject: who.DID})
}

func (g *generator) listitem(a *Account) {
	if len(a.plan.lists) == 0 {
		g.list(a)
		return
	}
	g.begin(a)
	g.writeItem(a.plan.lists[g.rng.IntN(len(a.plan.lists))], g.celebrity(nil))
	if g.commit() == nil {
		g.list(a)
	}
}

func (g *generator) listblock(a *Account) {
	for range 16 {
		lists := g.fame[g.rng.IntN(len(g.fame))].plan.lists
		if len(lists) == 0 {
			continue
		}
		l := lists[g.rng.IntN(len(lists))]
		if l.Account == a || a.plan.blocked[Listblock+l.URI] > 0 {
			continue
		}
		g.begin(a)
		g.create(Listblock, g.tid(), repo.Map{"subject": l.URI, "createdAt": g.created()}, facts{subject: l.URI})
		g.commit()
		return
	}
	g.list(a)
}

// starterpack makes a reference list, its members and the pack at once.
func (g *generator) starterpack(a *Account) {
	g.begin(a)
	l := g.writeList("referencelist")
	for range 2 + g.rng.IntN(6) {
		g.writeItem(l, g.celebrity(nil))
	}
	value := repo.Map{"name": sentence(g.rng, 2), "list": l.URI, "createdAt": g.created(), "description": sentence(g.rng, 8)}
	if f := g.thing(); f != nil && f.Collection == Generator {
		value["feeds"] = []any{repo.Map{"uri": f.URI}}
	}
	g.create(Starterpack, g.tid(), value, facts{})
	g.commit()
}

func (g *generator) verification(a *Account) {
	to := g.celebrity(a)
	if a.plan.blocked[Verification+to.DID] > 0 {
		g.post(a)
		return
	}
	g.begin(a)
	g.create(Verification, g.tid(), repo.Map{
		"subject": to.DID, "handle": to.state.Handle, "displayName": "Name " + to.state.Handle, "createdAt": g.created(),
	}, facts{subject: to.DID})
	g.commit()
}
