package store

import (
	"strings"

	"sluice/services/indexer/internal/derive"
)

// cache is what has been read from the database for one transaction.
type cache struct {
	recs     lookup[*recRow]    // by uri, without JSON
	refs     lookup[*refRow]    // by uri, with JSON
	tombs    lookup[tombRow]    // by uri
	accounts lookup[accountRow] // by DID
	posts    lookup[*postRow]   // by uri
	chains   lookup[struct{}]   // by the uri of the first post
	children lookup[struct{}]   // by the uri of the parent: there are replies
	edges    map[derive.Kind]*edgeCache
	dups     lookup[*dupRow]   // by uri
	dupsOf   lookup[[]*dupRow] // by the uri that holds the key
	notifs   lookup[[]notifRow]
	waits    lookup[[]string]  // by key: uris that wait for it
	lateReps lookup[[]lateRow] // by root
	lateQuos lookup[[]lateRow] // by quoted post
	opThread lookup[[]opThreadRow]
	quotes   lookup[*quoteRow] // by uri
	actors   lookup[*actorRow] // by DID
	// references are the texts of records that have been read as references.
	references map[string]derive.Reference
}

type edgeCache struct {
	byURI lookup[*edgeRow]
	byKey lookup[*edgeRow]
}

// newCache makes one with room for what some records ask for.
func newCache(size int) *cache {
	c := &cache{
		recs: newLookup[*recRow](size), refs: newLookup[*refRow](0), tombs: newLookup[tombRow](size), accounts: newLookup[accountRow](size),
		posts: newLookup[*postRow](0), chains: newLookup[struct{}](0), children: newLookup[struct{}](0),
		dups: newLookup[*dupRow](0), dupsOf: newLookup[[]*dupRow](0), notifs: newLookup[[]notifRow](0),
		waits: newLookup[[]string](0), lateReps: newLookup[[]lateRow](0), lateQuos: newLookup[[]lateRow](0),
		opThread: newLookup[[]opThreadRow](0), quotes: newLookup[*quoteRow](0), actors: newLookup[*actorRow](size),
		edges: map[derive.Kind]*edgeCache{}, references: map[string]derive.Reference{},
	}
	for k := range edgeTables {
		c.edges[k] = &edgeCache{byURI: newLookup[*edgeRow](0), byKey: newLookup[*edgeRow](0)}
	}
	return c
}

// missing counts the keys that the last run asked for in vain.
func (c *cache) missing() int {
	n := c.recs.missing() + c.refs.missing() + c.tombs.missing() + c.accounts.missing() + c.posts.missing() +
		c.chains.missing() + c.children.missing() + c.dups.missing() + c.dupsOf.missing() + c.notifs.missing() +
		c.waits.missing() + c.lateReps.missing() + c.lateQuos.missing() + c.opThread.missing() + c.quotes.missing() + c.actors.missing()
	for _, e := range c.edges {
		n += e.byURI.missing() + e.byKey.missing()
	}
	return n
}

// reference reads the text of a record, once for all that refer to it.
func (c *cache) reference(text string) derive.Reference {
	ref, known := c.references[text]
	if !known {
		ref = derive.ParseReference(text)
		c.references[text] = ref
	}
	return ref
}

// chainDepth is how far up a reply looks for ancestors to notify.
const chainDepth = 4

// endChains marks what a loaded chain ran into as known to be absent.
func (c *cache) endChains(firsts []string) {
	for _, uri := range firsts {
		for range chainDepth {
			p, ok := c.posts.have[uri]
			if !ok {
				c.posts.loaded[uri] = struct{}{}
				delete(c.posts.miss, uri)
				break
			}
			if uri = p.ReplyParent; uri == "" {
				break
			}
		}
	}
}

// splitKeys parts joined keys for a two-column unnest.
func splitKeys(keys []string) (first, second []string) {
	first, second = make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		first[i], second[i], _ = strings.Cut(k, " ")
	}
	return first, second
}
