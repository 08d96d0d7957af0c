package world

import (
	"fmt"

	"sluice/pkg/testkit/repo"
)

// putSelf writes a record that there is one of in a repository.
func (g *generator) putSelf(collection string, value repo.Map) {
	if old := g.current.account.plan.self[collection]; old != nil {
		g.update(old, value, facts{})
		return
	}
	g.create(collection, "self", value, facts{})
}

func (g *generator) self(a *Account, collection string) {
	g.begin(a)
	g.writeSelf(collection)
	g.commit()
}

func (g *generator) writeSelf(collection string) {
	switch collection {
	case Profile:
		g.putSelf(Profile, g.profileValue())
	case Labeler:
		g.putSelf(Labeler, g.labelerValue())
	case NotifDeclaration:
		g.putSelf(NotifDeclaration, repo.Map{"allowSubscriptions": []string{"followers", "mutuals", "none"}[g.rng.IntN(3)]})
	case ChatDeclaration:
		g.putSelf(ChatDeclaration, repo.Map{"allowIncoming": []string{"all", "none", "following"}[g.rng.IntN(3)]})
	case GermDeclaration:
		g.putSelf(GermDeclaration, repo.Map{
			"version": fmt.Sprintf("1.0.%d", g.rng.IntN(9)), "currentKey": fmt.Appendf(nil, "key%d", g.rng.IntN(1_000_000)),
		})
	case ActorStatus:
		g.putSelf(ActorStatus, repo.Map{
			"status": "app.bsky.actor.status#live", "durationMinutes": 5 + g.rng.IntN(100), "createdAt": g.created(),
			"embed": g.externalEmbed(&facts{}),
		})
	}
}

func (g *generator) profileValue() repo.Map {
	value := repo.Map{"displayName": sentence(g.rng, 2), "description": sentence(g.rng, 12)}
	if g.rng.IntN(8) > 0 {
		value["createdAt"] = g.created()
	}
	if g.rng.IntN(3) > 0 {
		value["avatar"] = g.blob("image/jpeg", 40_000)
	}
	if g.rng.IntN(3) == 0 {
		value["banner"] = g.blob("image/png", 90_000)
	}
	if posts := g.current.account.plan.posts; len(posts) > 0 && g.rng.IntN(3) == 0 {
		value["pinnedPost"] = posts[0].ref()
	}
	if g.rng.IntN(3) == 0 {
		if t := g.thing(); t != nil && t.Collection == Starterpack {
			value["joinedViaStarterPack"] = t.ref()
		}
	}
	return value
}

func (g *generator) labelerValue() repo.Map {
	return repo.Map{
		"createdAt": g.created(),
		"policies": repo.Map{
			"labelValues": []any{"spam", "!hide", "rude"},
			"labelValueDefinitions": []any{repo.Map{
				"identifier": "spam", "severity": "inform", "blurs": "content", "defaultSetting": "hide", "adultOnly": false,
				"locales": []any{repo.Map{"lang": "en", "name": "Spam", "description": sentence(g.rng, 6)}},
			}},
		},
	}
}

// found sets up the account of the open commit: its profile and declarations.
func (g *generator) found() {
	a := g.current.account
	g.writeSelf(Profile)
	if g.rng.IntN(2) == 0 {
		g.writeSelf(ChatDeclaration)
	}
	if g.rng.IntN(8) == 0 {
		g.writeSelf(NotifDeclaration)
	}
	if g.rng.IntN(10) == 0 {
		g.writeSelf(GermDeclaration)
	}
	if a.isLabeler() {
		g.writeSelf(Labeler)
	}
}

// foreign writes a record of a collection that no AppView knows.
func (g *generator) foreign(a *Account) {
	g.begin(a)
	g.create(foreignCollection, g.tid(), repo.Map{
		"name": sentence(g.rng, 2), "size": g.rng.IntN(100), "createdAt": g.created(),
		"nested": repo.Map{"a": []any{nil, true, int64(1) << 40, -7}},
	}, facts{})
	g.commit()
}

// invalid writes a record that its lexicon rejects.
func (g *generator) invalid(a *Account) {
	g.begin(a)
	var r *Record
	switch g.rng.IntN(5) {
	case 0:
		r = g.create(Post, g.tid(), repo.Map{"text": 7, "createdAt": g.created()}, facts{})
	case 1:
		r = g.create(Post, g.tid(), repo.Map{"text": "no date"}, facts{})
	case 2:
		r = g.create(Like, g.tid(), repo.Map{"subject": "not a ref", "createdAt": g.created()}, facts{})
	case 3:
		r = g.create(Follow, g.tid(), repo.Map{"subject": "not-a-did", "createdAt": g.created()}, facts{})
	default:
		r = g.create(Post, g.tid(), repo.Map{"text": "zone missing", "createdAt": "2025-01-01T00:00:00"}, facts{})
	}
	r.Invalid = true
	g.commit()
}
