package world

import (
	"fmt"

	"sluice/pkg/testkit/repo"
)

// post writes a post of a, with whatever posts have: media, quotes, mentions,
// gates. It opens and closes the commit.
func (g *generator) post(a *Account) {
	g.begin(a)
	r := g.writePost(nil)
	if g.rng.IntN(14) == 0 {
		g.writeThreadgate(r)
	}
	if g.rng.IntN(25) == 0 {
		g.writePostgate(r)
	}
	g.commit()
}

// reply answers a living post, sometimes one of the author's own thread.
func (g *generator) reply(a *Account) {
	parent := g.subject()
	if own := a.plan.posts; len(own) > 0 && g.rng.IntN(4) == 0 {
		parent = own[g.rng.IntN(len(own))]
	}
	if parent == nil || !g.mayReply(a, parent) {
		g.post(a)
		return
	}
	root := parent
	if parent.facts.root != "" {
		if root = g.tables.records[parent.facts.root]; root == nil {
			g.post(a)
			return
		}
	}
	g.begin(a)
	r := g.writePost(&replyTo{root.URI, root.CID.String(), parent.URI, parent.CID.String()})
	g.commit()
	g.pinJudgement(r)
}

// oddReply answers what is not there, or names the wrong root.
func (g *generator) oddReply(a *Account) {
	parent := g.subject()
	if parent == nil || parent.facts.root != "" || g.tables.gateOf(parent.URI) != nil {
		g.post(a)
		return
	}
	to := &replyTo{parent.URI, parent.CID.String(), parent.URI, parent.CID.String()}
	g.begin(a)
	if g.rng.IntN(2) == 0 {
		to.parent = "at://" + parent.Account.DID + "/" + Post + "/3zzzzzzzzzz2z"
	} else {
		to.root = "at://" + a.DID + "/" + Post + "/3zzzzzzzzzz3z"
	}
	g.writePost(to)
	g.commit()
}

type replyTo struct{ root, rootCID, parent, parentCID string }

func (g *generator) writePost(to *replyTo) *Record {
	value, f := g.postValue(to)
	return g.create(Post, g.tid(), value, f)
}

func (g *generator) postValue(to *replyTo) (repo.Map, facts) {
	var f facts
	var mentions []*Account
	for g.rng.IntN(8) == 0 && len(mentions) < 3 {
		m := g.celebrity(g.current.account)
		mentions, f.mention = append(mentions, m), append(f.mention, m.DID)
	}
	text, facets := richText(g.rng, mentions)
	value := repo.Map{"text": text, "createdAt": g.created()}
	if len(facets) > 0 {
		value["facets"] = facets
	}
	switch g.rng.IntN(4) {
	case 0, 1:
		value["langs"] = []any{"en"}
	case 2:
		value["langs"] = []any{"ja", "en-US"}
	}
	if g.rng.IntN(20) == 0 {
		value["tags"] = []any{"one", "two words"}
	}
	if g.rng.IntN(30) == 0 {
		value["labels"] = repo.Map{
			"$type": "com.atproto.label.defs#selfLabels", "values": []any{repo.Map{"val": "graphic-media"}},
		}
	}
	if to != nil {
		value["reply"] = repo.Map{
			"root":   repo.Map{"uri": to.root, "cid": to.rootCID},
			"parent": repo.Map{"uri": to.parent, "cid": to.parentCID},
		}
		f.root, f.parent = to.root, to.parent
	}
	if embed := g.embed(&f); embed != nil {
		value["embed"] = embed
	}
	return value, f
}

// embed makes one of the embeds, or nil.
func (g *generator) embed(f *facts) any {
	switch n := g.rng.IntN(100); {
	case n < 14, n == 98:
		return g.imagesEmbed(f)
	case n < 18:
		return g.videoEmbed(f)
	case n < 20:
		return g.galleryEmbed(f)
	case n < 30:
		return g.externalEmbed(f)
	case n < 40:
		return g.recordEmbed(f)
	case n < 44:
		record := g.recordEmbed(f)
		if record == nil {
			return nil
		}
		media := []func(*facts) any{g.imagesEmbed, g.videoEmbed, g.externalEmbed, g.galleryEmbed}[g.rng.IntN(4)](f)
		return repo.Map{"$type": "app.bsky.embed.recordWithMedia", "record": record, "media": media}
	}
	return nil
}

func (g *generator) imagesEmbed(f *facts) any {
	n := 1 + g.rng.IntN(4)
	var images []any
	for i := range n {
		image := repo.Map{"alt": fmt.Sprintf("image %d %s", i, sentence(g.rng, 2)), "image": g.blob("image/jpeg", 1000+g.rng.IntN(900_000))}
		if i%2 == 0 {
			image["aspectRatio"] = repo.Map{"width": 4, "height": 3}
		}
		images = append(images, image)
	}
	f.images = n
	return repo.Map{"$type": "app.bsky.embed.images", "images": images}
}

func (g *generator) galleryEmbed(f *facts) any {
	n := 1 + g.rng.IntN(8)
	var items []any
	for i := range n {
		items = append(items, repo.Map{
			"$type": "app.bsky.embed.gallery#image", "alt": fmt.Sprintf("item %d", i),
			"image": g.blob("image/png", 1000+g.rng.IntN(900_000)), "aspectRatio": repo.Map{"width": 16, "height": 9},
		})
	}
	f.gallery = n
	return repo.Map{"$type": "app.bsky.embed.gallery", "items": items}
}

func (g *generator) videoEmbed(f *facts) any {
	f.video = true
	video := repo.Map{"$type": "app.bsky.embed.video", "video": g.blob("video/mp4", 100_000+g.rng.IntN(9_000_000))}
	if g.rng.IntN(2) == 0 {
		video["alt"] = sentence(g.rng, 5)
		video["captions"] = []any{repo.Map{"lang": "en", "file": g.blob("text/vtt", 900)}}
	}
	return video
}

func (g *generator) externalEmbed(f *facts) any {
	f.link = true
	external := repo.Map{
		"uri":   fmt.Sprintf("https://example.org/%s/%d", words[g.rng.IntN(len(words))], g.rng.IntN(10_000)),
		"title": sentence(g.rng, 4), "description": sentence(g.rng, 12),
	}
	if g.rng.IntN(2) == 0 {
		external["thumb"] = g.blob("image/jpeg", 20_000)
	}
	return repo.Map{"$type": "app.bsky.embed.external", "external": external}
}

// recordEmbed quotes a post, or embeds a list, feed, pack or labeler.
func (g *generator) recordEmbed(f *facts) any {
	r := g.subject()
	if g.rng.IntN(6) == 0 {
		if other := g.thing(); other != nil {
			r = other
		}
	}
	if r == nil {
		return nil
	}
	f.embed = r.URI
	return repo.Map{"$type": "app.bsky.embed.record", "record": r.ref()}
}

// thing picks a feed generator, a list, a starter pack or a labeler.
func (g *generator) thing() *Record {
	for range 16 {
		a := g.fame[g.rng.IntN(len(g.fame))]
		p := &a.plan
		if !p.alive || a.state.Status != "" {
			continue
		}
		for _, shelf := range [][]*Record{p.feeds, p.packs, p.lists} {
			if len(shelf) > 0 && g.rng.IntN(2) == 0 {
				return shelf[g.rng.IntN(len(shelf))]
			}
		}
		if r := p.self[Labeler]; r != nil {
			return r
		}
	}
	return nil
}

// engage likes or reposts a post or, rarely and only by a like, a feed or a
// labeler.
func (g *generator) engage(a *Account, collection string) {
	r := g.subject()
	if collection == Like && g.rng.IntN(30) == 0 {
		if t := g.thing(); t != nil && (t.Collection == Generator || t.Collection == Labeler) {
			r = t
		}
	}
	if r == nil {
		g.post(a)
		return
	}
	seen := a.plan.liked
	if collection == Repost {
		seen = a.plan.reposted
	}
	if seen[r.URI] > 0 {
		g.post(a)
		return
	}
	g.begin(a)
	g.writeEngagement(collection, r)
	g.commit()
}

func (g *generator) writeEngagement(collection string, r *Record) {
	value := repo.Map{"subject": r.ref(), "createdAt": g.created()}
	if g.rng.IntN(6) == 0 {
		if via := g.repostOf(r); via != nil {
			value["via"] = via.ref()
		}
	}
	g.create(collection, g.tid(), value, facts{subject: r.URI})
}

// repostOf finds a living repost of a post, if the popular have one.
func (g *generator) repostOf(r *Record) *Record {
	if via := g.lastRepost[r.URI]; via != nil && g.tables.records[via.URI] == via {
		return via
	}
	return nil
}

// repeat likes, reposts, follows or blocks once more what already is: a
// duplicate, as clients make them.
func (g *generator) repeat(a *Account) {
	p := &a.plan
	g.begin(a)
	switch n := g.rng.IntN(4); {
	case n == 0 && len(p.reposts) > 0:
		if r := g.tables.records[p.reposts[0].facts.subject]; r != nil {
			g.writeEngagement(Repost, r)
		}
	case n == 1 && len(p.follows) > 0:
		g.writeFollow(p.follows[g.rng.IntN(len(p.follows))].facts.subject, nil)
	case len(p.likes) > 0:
		if r := g.tables.records[p.likes[g.rng.IntN(len(p.likes))].facts.subject]; r != nil {
			g.writeEngagement(Like, r)
		}
	}
	g.commit()
}

// relike takes a like back and gives it again in one commit.
func (g *generator) relike(a *Account) {
	if len(a.plan.likes) == 0 {
		g.engage(a, Like)
		return
	}
	old := a.plan.likes[g.rng.IntN(len(a.plan.likes))]
	subject := g.tables.records[old.facts.subject]
	if subject == nil || a.plan.liked[old.facts.subject] != 1 {
		return
	}
	g.begin(a)
	g.remove(old)
	g.writeEngagement(Like, subject)
	g.commit()
}

func (g *generator) generatorRecord(a *Account) {
	g.begin(a)
	text, facets := richText(g.rng, []*Account{g.celebrity(a)})
	value := repo.Map{
		"did": "did:web:feeds.example.com", "displayName": words[g.rng.IntN(len(words))] + " feed",
		"description": text, "descriptionFacets": facets, "createdAt": g.created(),
	}
	if g.rng.IntN(2) == 0 {
		value["avatar"] = g.blob("image/png", 30_000)
	}
	g.create(Generator, fmt.Sprintf("feed%d", len(a.plan.feeds)+g.rng.IntN(1000)*100), value, facts{})
	g.commit()
}
