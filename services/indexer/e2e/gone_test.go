package e2e_test

import (
	"maps"
	"slices"
	"strings"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// gone is what may depend on the order of arrival, computed from a history
// alone. docs/judged-by-what-is-gone.md names each part.
type gone struct {
	rivals   map[string]bool // records with a rival for the same key, one of them deleted or changed
	revoked  map[string]bool // verifications that were changed or deleted
	repeated map[string]bool // records written again with the same content
	edited   map[string]bool // posts that were changed, or made again
	threads  map[string]bool // roots whose gate was changed or deleted, or that were edited
	quoted   map[string]bool // posts whose post gate was changed or deleted
	muted    map[string]bool // roots that somebody has muted
	judges   bool            // a follow or a list item that gates may ask for was deleted or changed
	posts    map[string]*derive.PostRow
}

func goneOf(events []event.Event, mutes []row) *gone {
	g := &gone{
		rivals: map[string]bool{}, revoked: map[string]bool{}, repeated: map[string]bool{}, edited: map[string]bool{},
		threads: map[string]bool{}, quoted: map[string]bool{}, muted: map[string]bool{}, posts: map[string]*derive.PostRow{},
	}
	for _, r := range mutes {
		g.muted[text(r, "rootUri")] = true
	}
	cids, changed, keys := map[string]string{}, map[string]bool{}, map[string]map[string]bool{}
	for i := range events {
		e := &events[i]
		if e.Collection == "" {
			continue
		}
		uri := e.URI()
		before, again := cids[uri]
		if e.Type == event.Delete {
			changed[uri] = true
			continue
		}
		changed[uri] = changed[uri] || again
		g.repeated[uri] = g.repeated[uri] || before == e.CID
		g.edited[uri] = g.edited[uri] || again
		cids[uri] = e.CID
		g.note(e, keys)
	}
	g.judge(changed, keys)
	return g
}

// note takes in one version of a record.
func (g *gone) note(e *event.Event, keys map[string]map[string]bool) {
	record, err := e.RecordJSON()
	if err != nil {
		return
	}
	r, err := derive.Parse(derive.Source{DID: e.DID, Collection: e.Collection, RKey: e.RKey, CID: e.CID, Time: e.Time, JSON: record})
	switch {
	case err != nil:
	case r.Post != nil:
		g.posts[r.URI] = r.Post
	case r.Edge != nil:
		key := e.Collection + " " + r.EdgeKey()
		if keys[key] == nil {
			keys[key] = map[string]bool{}
		}
		keys[key][r.URI] = true
	}
}

// judge finds what the records that are gone have judged.
func (g *gone) judge(changed map[string]bool, keys map[string]map[string]bool) {
	for key, uris := range keys {
		lost := slices.ContainsFunc(slices.Collect(maps.Keys(uris)), func(uri string) bool { return changed[uri] })
		for uri := range uris {
			g.rivals[uri] = g.rivals[uri] || lost && len(uris) > 1
		}
		if strings.HasPrefix(key, "app.bsky.graph.follow ") || strings.HasPrefix(key, "app.bsky.graph.listitem ") {
			g.judges = g.judges || lost
		}
	}
	for uri := range changed {
		if !changed[uri] {
			continue
		}
		u := derive.ParseURI(uri)
		post := "at://" + u.Host + "/app.bsky.feed.post/" + u.RKey
		switch u.Collection {
		case "app.bsky.graph.verification":
			g.revoked[uri] = true
		case "app.bsky.feed.threadgate":
			g.threads[post] = true
		case "app.bsky.feed.postgate":
			g.quoted[post] = true
		case "app.bsky.feed.post":
			g.threads[uri] = g.threads[uri] || g.edited[uri]
		}
	}
}

// root is the thread of a post, "" if it starts one.
func (g *gone) root(uri string) string {
	if p := g.posts[uri]; p != nil && p.ReplyRoot != nil {
		return p.ReplyRoot.URI
	}
	return ""
}

// doubtful says whether the place of a reply was judged by something gone.
func (g *gone) doubtful(uri string, gates map[string]bool) bool {
	root := g.root(uri)
	if root == "" {
		return false
	}
	if g.threads[root] || g.judges && gates[root] {
		return true
	}
	for range 6 {
		p := g.posts[uri]
		if p == nil || p.ReplyParent == nil {
			return false
		}
		if uri = p.ReplyParent.URI; g.edited[uri] {
			return true
		}
	}
	return false
}

// why names the part of the page that a difference is of, "" if none.
func (g *gone) why(x *explainer, d difference) string {
	uri := keyOf(d.row)
	gates := map[string]bool{}
	for at := range x.gates {
		gates[strings.TrimPrefix(at, "thread_gate")] = true
	}
	switch {
	case g.repeated[uri] && (d.table == "notification" || x.onlyDiffers(d, "indexedAt", "sortAt", "sortedAt")):
		return "written twice"
	case d.table == "actor" && x.onlyDiffers(d, "handle", "indexedAt"):
		return "handle looked up"
	case d.table == "notification":
		return g.whyNotified(d, gates)
	case d.table == "post" && g.doubtful(uri, gates) && x.onlyDiffers(d, "violatesThreadGate", "invalidReplyRoot"):
		return "thread gate gone"
	case d.table == "post" && g.quotesDoubtful(uri) && x.onlyDiffers(d, "violatesEmbeddingRules"):
		return "post gate gone"
	case d.table == "post_agg" && x.onlyDiffers(d, "replyCount") && (g.threads[uri] || g.judges && gates[uri] || g.doubtful(uri, gates)):
		return "thread gate gone"
	default:
		return ""
	}
}

// quotesDoubtful says whether a post quotes one whose gate is gone.
func (g *gone) quotesDoubtful(uri string) bool {
	p := g.posts[uri]
	if p == nil {
		return false
	}
	quoted, _, ok := p.Quotes()
	return ok && g.quoted[quoted]
}

func (g *gone) whyNotified(d difference, gates map[string]bool) string {
	uri, reason := text(d.row, "recordUri"), text(d.row, "reason")
	switch {
	case g.rivals[uri]:
		return "rival gone"
	case g.revoked[uri]:
		return "verification gone"
	case reason == "reply" && (g.doubtful(uri, gates) || g.edited[uri]):
		return "thread gate gone"
	case reason == "quote" && (g.quotesDoubtful(uri) || g.edited[uri]):
		return "post gate gone"
	case g.muted[g.root(text(d.row, "reasonSubject"))]:
		return "muted later"
	default:
		return ""
	}
}
