package store_test

import (
	"encoding/json"
	"strings"
	"testing"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// gone is the closed set of what may depend on the order of arrival, computed
// from the histories alone. docs/judged-by-what-is-gone.md names each part.
type gone struct {
	counts   map[string]int  // how often each part occurred
	rivals   map[string]bool // records of a kind that is unique by a key, with a deleted or changed rival
	revoked  map[string]bool // verifications that were changed or deleted
	threads  map[string]bool // roots whose gate, or a fact that it asks for, was changed or deleted
	quoted   map[string]bool // posts whose post gate was changed or deleted
	edited   map[string]bool // posts that were changed, or made again
	repeated map[string]bool // records written again with the same content
	closed   map[string]bool // accounts that were deleted
	moved    map[string]bool // records of a kind that is unique by a key that were changed and have a rival, or were made again
	parents  map[string]bool // posts with replies in such threads
	before   map[string]bool // posts that were deleted before their account was
	muted    map[string]bool // replies in threads that somebody has muted
	anew     map[string]bool // records that were made again after a deletion
	posts    map[string]postRefs
}

type postRefs struct{ root, parent, quote string }

// goneOf takes the counts that explained differences go into.
func goneOf(t *testing.T, all []*scenario, counts map[string]int) *gone {
	t.Helper()
	g := &gone{
		counts: counts,
		rivals: map[string]bool{}, revoked: map[string]bool{}, threads: map[string]bool{}, quoted: map[string]bool{},
		edited: map[string]bool{}, repeated: map[string]bool{}, muted: map[string]bool{}, closed: map[string]bool{}, moved: map[string]bool{}, parents: map[string]bool{}, before: map[string]bool{}, anew: map[string]bool{}, posts: map[string]postRefs{},
	}
	writes, changes := map[string]int{}, map[string]int{}
	keys := map[string]map[string]bool{}
	cids := map[string]string{}
	for _, s := range all {
		for _, e := range s.events {
			if deletes(t, s, e) {
				g.closed[e.DID] = true
				for uri := range writes {
					if derive.HostOf(uri) == e.DID {
						changes[uri]++
					}
				}
			}
			if e.Collection == "" {
				continue
			}
			uri := e.URI()
			if e.Type == event.Delete {
				changes[uri]++
				continue
			}
			g.anew[uri] = g.anew[uri] || changes[uri] > 0 && changes[uri] >= writes[uri]
			if writes[uri]++; writes[uri] > 1 {
				changes[uri]++
			}
			if cids[uri] == e.CID {
				g.repeated[uri] = true
			}
			cids[uri] = e.CID
			if r, err := derive.Parse(derive.Source{DID: e.DID, Collection: e.Collection, RKey: e.RKey, CID: e.CID, Time: e.Time, JSON: e.Record}); err == nil {
				g.note(r, keys)
			}
		}
	}
	g.close(all, writes, changes, keys)
	return g
}

func (g *gone) note(r *derive.Record, keys map[string]map[string]bool) {
	switch {
	case r.Post != nil:
		refs := postRefs{}
		if r.Post.ReplyRoot != nil {
			refs.root, refs.parent = r.Post.ReplyRoot.URI, r.Post.ReplyParent.URI
		}
		refs.quote, _, _ = r.Post.Quotes()
		g.posts[r.URI] = refs
	case r.Edge != nil:
		key := derive.ParseURI(r.URI).Collection + " " + r.EdgeKey()
		if keys[key] == nil {
			keys[key] = map[string]bool{}
		}
		keys[key][r.URI] = true
	}
}

func (g *gone) close(all []*scenario, writes, changes map[string]int, keys map[string]map[string]bool) {
	lost := map[string]bool{} // follows and list items that were changed or deleted, by their parts
	for key, uris := range keys {
		changed, moved := false, false
		for uri := range uris {
			changed = changed || changes[uri] > 0
			moved = moved || writes[uri] > 1
		}
		if !changed {
			continue
		}
		lost[key] = true
		for uri := range uris {
			g.rivals[uri] = g.rivals[uri] || len(uris) > 1
			deleted := changes[uri] >= writes[uri]
			g.moved[uri] = g.moved[uri] || moved && (len(uris) > 1 || deleted)
			g.revoked[uri] = g.revoked[uri] || (strings.Contains(uri, ".graph.verification/") && changes[uri] > 0)
		}
	}
	for uri, refs := range g.posts {
		if changes[uri] > 0 && writes[uri] > 1 {
			g.edited[uri] = true
		}
		g.before[uri] = changes[uri] > 1 && g.closed[derive.HostOf(uri)]
		if refs.root != "" && (changes[derive.GateURI(refs.root, derive.ThreadGate)] > 0 || changes[refs.root] > 0 && writes[refs.root] > 1) {
			g.threads[refs.root] = true
		}
		owner, replier := derive.HostOf(refs.root), derive.HostOf(uri)
		if lost["app.bsky.graph.follow "+owner+" "+replier] || lost["app.bsky.graph.follow "+replier+" "+owner] {
			g.threads[refs.root] = true
		}
		if refs.quote != "" && changes[derive.GateURI(refs.quote, derive.PostGate)] > 0 {
			g.quoted[refs.quote] = true
		}
	}
	for key := range lost {
		if rest, ok := strings.CutPrefix(key, "app.bsky.graph.listitem "); ok {
			_, member, _ := strings.Cut(rest, " ")
			for uri, refs := range g.posts {
				if derive.HostOf(uri) == member && refs.root != "" {
					g.threads[refs.root] = true
				}
			}
		}
	}
	for uri, refs := range g.posts {
		g.parents[refs.parent] = g.parents[refs.parent] || g.threads[refs.root] || g.below(uri, g.edited)
	}
	for _, s := range all {
		for _, mute := range s.setup["thread_mute"] {
			for uri, refs := range g.posts {
				g.muted[uri] = g.muted[uri] || refs.root == mute["rootUri"]
			}
		}
	}
}

// keyed are the tables in which a record that is unique by a key shows.
var keyed = map[string]bool{
	"like": true, "repost": true, "follow": true, "actor_block": true, "list_item": true, "list_block": true, "verification": true,
	"thread_gate": true, "post_gate": true, "duplicate_record": true, "feed_item": true, "notification": true,
}

// below says whether a reply hangs below a post of the set.
func (g *gone) below(uri string, set map[string]bool) bool {
	for range 6 {
		refs, ok := g.posts[uri]
		if !ok || refs.parent == "" {
			return false
		}
		if set[refs.parent] || set[refs.root] {
			return true
		}
		uri = refs.parent
	}
	return false
}

// why names the part of the set that explains a column of a row, or nothing.
func (g *gone) why(table, column string, row map[string]any) string {
	str := func(k string) string { s, _ := row[k].(string); return s }
	uri := str("uri")
	reason := str("reason")
	if table == "notification" {
		uri = str("recordUri")
	}
	switch {
	case (column == "indexedAt" || column == "sortAt" || column == "sortedAt") && g.repeated[uri]:
		return "time of a record written twice"
	case table == "notification" && column == "" && g.repeated[uri]:
		return "time of a record written twice"
	case table == "notification" && g.muted[str("reasonSubject")]:
		return "notification about a reply in a muted thread"
	case table == "notification" && g.rivals[uri]:
		return "notification of a record with a rival that is gone"
	case table == "notification" && g.revoked[uri]:
		return "notification of a verification that is gone"
	case table == "notification" && reason == "starterpack-joined" && g.anew[uri]:
		return "notification of a profile that was made anew"
	case table == "notification" && reason == "reply" && g.below(uri, g.before):
		return "reply notification below a post that was deleted before its account"
	case table == "notification" && reason == "reply" && (g.threads[g.posts[uri].root] || g.below(uri, g.edited) || g.edited[uri]):
		return "reply notification in a thread whose gate is gone"
	case table == "notification" && reason == "quote" && (g.quoted[g.posts[uri].quote] || g.edited[uri]):
		return "quote notification of a post whose gate is gone"
	case table == "post" && (column == "violatesThreadGate" || column == "invalidReplyRoot") && (g.threads[g.posts[uri].root] || g.below(uri, g.edited)):
		return "post." + column + " in a thread whose gate is gone"
	case table == "post" && (column == "violatesThreadGate" || column == "invalidReplyRoot") && g.below(uri, g.before):
		return "post." + column + " below a post that was deleted before its account"
	case table == "post" && (column == "hasThreadGate" || column == "hasPostGate") && g.repeated[uri]:
		return "post." + column + " of a post that was written again with the same content"
	case table == "post" && column == "violatesEmbeddingRules" && g.quoted[g.posts[uri].quote]:
		return "post.violatesEmbeddingRules of a quote whose gate is gone"
	case table == "post_agg" && column == "replyCount" && g.parents[uri]:
		return "post_agg.replyCount in a thread whose gate is gone"
	case table == "op_thread_reply" && column == "deletedAt" && (g.edited[uri] || g.closed[derive.HostOf(uri)]),
		table == "op_thread_reply" && column == "parentUri" && g.edited[uri] && g.closed[derive.HostOf(uri)]:
		return "op_thread_reply." + column + " of a post that was changed, or whose account was deleted"
	case (table == "quote" && g.before[str("subject")]) || (table == "feed_item" && g.before[str("postUri")]) || (table == "post_agg" && column == "quoteCount" && g.before[uri]):
		return table + " about a post that was deleted before its account"
	case keyed[table] && g.moved[uri]:
		return "record with a key that was changed, or its rival"
	default:
		return ""
	}
}

// logCounts logs at the end of a test how often each part of the set occurred.
func logCounts(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	t.Cleanup(func() {
		for why, n := range counts {
			t.Logf("%6d × %s", n, why)
		}
	})
	return counts
}

// compare compares a table with the rows of stream order.
func (g *gone) compare(t *testing.T, seed uint64, table string, want, have []map[string]any) {
	t.Helper()
	missing, extra := diff(want, have)
	if bad := g.explain(table, missing, extra); len(bad) > 0 {
		t.Errorf("seed %d: %s: %d differences that nothing explains\n%s", seed, table, len(bad), strings.Join(head(bad), "\n"))
	}
}

// explain pairs rows that differ by their key and says what is not in the set.
func (g *gone) explain(table string, missing, extra []string) (unexplained []string) {
	byKey := map[string][2]map[string]any{}
	add := func(side int, text string) {
		var row map[string]any
		_ = json.Unmarshal([]byte(text), &row)
		key := text
		if table != "notification" {
			key = keyOf(row)
		}
		pair := byKey[key]
		pair[side] = row
		byKey[key] = pair
	}
	for _, m := range missing {
		add(0, m)
	}
	for _, e := range extra {
		add(1, e)
	}
	for key, pair := range byKey {
		for _, d := range differing(pair) {
			row := pair[0]
			if row == nil {
				row = pair[1]
			}
			if why := g.why(table, d, row); why != "" {
				g.counts[why]++
			} else {
				unexplained = append(unexplained, table+"."+d+" "+key)
			}
		}
	}
	return unexplained
}

// differing lists the columns in which two rows differ; "" for a whole row.
func differing(pair [2]map[string]any) []string {
	if pair[0] == nil || pair[1] == nil {
		return []string{""}
	}
	var out []string
	for k, v := range pair[0] {
		if canonical(map[string]any{"v": v}) != canonical(map[string]any{"v": pair[1][k]}) {
			out = append(out, k)
		}
	}
	return out
}

func keyOf(row map[string]any) string {
	for _, k := range []string{"uri", "postUri", "did"} {
		if s, ok := row[k].(string); ok {
			return s
		}
	}
	return ""
}
