package store_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sluice/pkg/event"
)

// inventor makes up histories that applications do not write: keys of records
// are used again, likes are changed to other posts, gates come and go, accounts
// are deleted and come back.
type inventor struct {
	*maker
	r     *rand.Rand
	alive []*event.Event // the newest version of each record that is there
	past  []*event.Event // versions that are gone
	out   []*event.Event
	left  map[string]bool   // accounts that are deleted
	hosts []json.RawMessage // when they were, and when they were not any more
}

const accounts = 6

// invent makes a history of some steps.
func invent(seed uint64, steps int) *scenario {
	v := &inventor{maker: newMaker(), r: rand.New(rand.NewPCG(seed, 7)), left: map[string]bool{}}
	for range steps {
		v.step()
	}
	ids := map[string]identity{}
	for n := range accounts {
		ids[did(n)] = identity{Handle: new(fmt.Sprintf("a%d.test", n)), PDS: new("https://pds.test"), Resolves: true}
	}
	return &scenario{name: fmt.Sprint("made up ", seed), events: v.out, identities: identities{Identities: ids, Changes: v.hosts}}
}

func (v *inventor) step() {
	switch n := v.r.IntN(100); {
	case n < 12 && len(v.alive) > 5:
		v.drop(v.r.IntN(len(v.alive)))
	case n < 24 && len(v.alive) > 5:
		v.rewrite(v.r.IntN(len(v.alive)))
	case n < 30 && len(v.past) > 0:
		v.again(v.past[v.r.IntN(len(v.past))])
	case n == 99:
		v.leaveOrReturn(did(v.r.IntN(accounts)))
	default:
		v.add(v.make(v.r.IntN(accounts), v.kind(), ""))
	}
}

// leaveOrReturn deletes an account, or brings it back, empty.
func (v *inventor) leaveOrReturn(id string) {
	v.n++
	v.now = v.now.Add(time.Second)
	e := &event.Event{Type: event.Account, Seq: int64(v.n), DID: id, Time: v.now.Format("2006-01-02T15:04:05.000Z"), Active: v.left[id]}
	if !e.Active {
		e.Status = "deleted"
	}
	v.out = append(v.out, e)
	v.hosts = append(v.hosts, json.RawMessage(fmt.Sprintf(`{"seq":%d,"did":%q,"hosted":%v}`, v.n, id, e.Active)))
	v.left[id] = !e.Active
	there := v.alive
	v.alive = nil
	for _, a := range there {
		if a.DID == id {
			v.past = append(v.past, a)
		} else {
			v.alive = append(v.alive, a)
		}
	}
}

func (v *inventor) kind() string {
	kinds := []string{
		"post", "post", "post", "reply", "reply", "reply", "quote", "like", "like", "repost", "follow", "block", "listitem",
		"threadgate", "postgate", "verification", "list", "listblock", "starterpack", "profile",
	}
	return kinds[v.r.IntN(len(kinds))]
}

func (v *inventor) add(e *event.Event) {
	if e == nil || v.left[e.DID] {
		return
	}
	for i, a := range v.alive {
		if a.URI() == e.URI() { // a gate of the same post
			e.Type = event.Update
			v.past, v.alive = append(v.past, a), append(v.alive[:i:i], v.alive[i+1:]...)
			break
		}
	}
	v.alive, v.out = append(v.alive, e), append(v.out, e)
}

func (v *inventor) drop(i int) {
	e := v.alive[i]
	v.alive = append(v.alive[:i:i], v.alive[i+1:]...)
	v.past, v.out = append(v.past, e), append(v.out, v.delete(e))
}

// rewrite changes a record that is there; one time in four to the same content.
func (v *inventor) rewrite(i int) {
	old := v.alive[i]
	e := v.make(v.account(old.DID), v.kindOf(old), old.RKey)
	if e == nil {
		return
	}
	if v.r.IntN(4) == 0 {
		e.Record, e.CID = old.Record, old.CID
	}
	v.add(e)
}

// again makes a record at a key that was used before.
func (v *inventor) again(old *event.Event) {
	for _, a := range v.alive {
		if a.URI() == old.URI() {
			return
		}
	}
	v.add(v.make(v.account(old.DID), v.kindOf(old), old.RKey))
}

func (v *inventor) account(id string) int {
	for n := range accounts {
		if did(n) == id {
			return n
		}
	}
	panic(id)
}

func (v *inventor) kindOf(e *event.Event) string {
	short := e.Collection[strings.LastIndex(e.Collection, ".")+1:]
	if short == "post" {
		return []string{"post", "reply", "quote"}[v.r.IntN(3)]
	}
	return short
}

// anyOf is a record of a collection, more often than not one that is there.
func (v *inventor) anyOf(collection string) *event.Event {
	var some []*event.Event
	from := v.alive
	if v.r.IntN(10) == 0 {
		from = v.past
	}
	for _, e := range from {
		if e.Collection == collection {
			some = append(some, e)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[v.r.IntN(len(some))]
}

// postAt is the post that a gate is about.
func (v *inventor) postAt(id, rkey string) *event.Event {
	for _, e := range v.out {
		if e.DID == id && e.RKey == rkey && e.Collection == "app.bsky.feed.post" {
			return e
		}
	}
	return nil
}

// make makes a record of a kind, at a key or at a new one.
func (v *inventor) make(by int, kind, rkey string) *event.Event {
	const post = "app.bsky.feed.post"
	ref := func(e *event.Event) string { return fmt.Sprintf(`{"uri":%q,"cid":%q}`, e.URI(), e.CID) }
	other := did(v.r.IntN(accounts))
	p := v.anyOf(post)
	if rkey != "" && strings.HasSuffix(kind, "gate") {
		p = v.postAt(did(by), rkey)
	}
	if p == nil {
		if kind = "post"; rkey != "" {
			return nil
		}
	}
	switch kind {
	case "post":
		return v.create(by, post, rkey, `,"text":"t"`+v.mention(other))
	case "reply":
		root := p
		if at := strings.Index(string(p.Record), `"root":{"uri":"`); at >= 0 && v.r.IntN(10) > 0 {
			uri, _, _ := strings.Cut(string(p.Record)[at+len(`"root":{"uri":"`):], `"`)
			for _, e := range append(v.alive, v.past...) {
				if e.URI() == uri {
					root = e
				}
			}
		}
		return v.create(by, post, rkey, `,"text":"t","reply":{"root":`+ref(root)+`,"parent":`+ref(p)+`}`+v.mention(other))
	case "quote":
		return v.create(by, post, rkey, `,"text":"t","embed":{"$type":"app.bsky.embed.record","record":`+ref(p)+`}`)
	case "like", "repost":
		via := ""
		if w := v.anyOf("app.bsky.feed.repost"); w != nil && v.r.IntN(3) == 0 {
			via = `,"via":` + ref(w)
		}
		return v.create(by, "app.bsky.feed."+kind, rkey, `,"subject":`+ref(p)+via)
	case "follow", "block":
		return v.create(by, "app.bsky.graph."+kind, rkey, fmt.Sprintf(`,"subject":%q`, other))
	case "listitem":
		return v.create(by, "app.bsky.graph.listitem", rkey, fmt.Sprintf(`,"subject":%q,"list":"at://%s/app.bsky.graph.list/l"`, other, did(by)))
	case "verification":
		return v.create(by, "app.bsky.graph.verification", rkey, fmt.Sprintf(`,"subject":%q,"handle":"h.test","displayName":"n"`, other))
	case "list":
		return v.create(by, "app.bsky.graph.list", rkey, `,"name":"l","purpose":"app.bsky.graph.defs#modlist"`)
	case "listblock", "starterpack":
		l := v.anyOf("app.bsky.graph.list")
		if l == nil {
			return nil
		}
		if kind == "listblock" {
			return v.create(by, "app.bsky.graph.listblock", rkey, fmt.Sprintf(`,"subject":%q`, l.URI()))
		}
		return v.create(by, "app.bsky.graph.starterpack", rkey, fmt.Sprintf(`,"name":"s","list":%q`, l.URI()))
	case "profile":
		joined := ""
		if s := v.anyOf("app.bsky.graph.starterpack"); s != nil && v.r.IntN(3) > 0 {
			joined = `,"joinedViaStarterPack":` + ref(s)
		}
		return v.create(by, "app.bsky.actor.profile", "self", `,"displayName":"n"`+joined)
	case "threadgate":
		rules := []string{
			``, `,"allow":[]`, `,"allow":[{"$type":"app.bsky.feed.threadgate#mentionRule"}]`, `,"allow":[{"$type":"app.bsky.feed.threadgate#followingRule"}]`, `,"allow":[{"$type":"app.bsky.feed.threadgate#followerRule"}]`,
			fmt.Sprintf(`,"allow":[{"$type":"app.bsky.feed.threadgate#listRule","list":"at://%s/app.bsky.graph.list/l"}]`, p.DID),
		}
		hidden := ""
		if h := v.anyOf(post); h != nil && v.r.IntN(3) == 0 {
			hidden = fmt.Sprintf(`,"hiddenReplies":[%q]`, h.URI())
		}
		return v.create(v.account(p.DID), "app.bsky.feed.threadgate", p.RKey, fmt.Sprintf(`,"post":%q`, p.URI())+rules[v.r.IntN(len(rules))]+hidden)
	default:
		rules := []string{``, `,"embeddingRules":[{"$type":"app.bsky.feed.postgate#disableRule"}]`}
		return v.create(v.account(p.DID), "app.bsky.feed.postgate", p.RKey, fmt.Sprintf(`,"post":%q`, p.URI())+rules[v.r.IntN(len(rules))])
	}
}

// mention is the facet of a post that names an account, for some.
func (v *inventor) mention(id string) string {
	if v.r.IntN(4) > 0 {
		return ""
	}
	return fmt.Sprintf(`,"facets":[{"index":{"byteStart":0,"byteEnd":1},"features":[{"$type":"app.bsky.richtext.facet#mention","did":%q}]}]`, id)
}

// liveOnly delivers every event on the live stream, some twice or more often.
func liveOnly(r *rand.Rand, s *scenario) []delivery {
	var out []delivery
	for _, e := range s.events {
		for range 1 + r.IntN(3) {
			out = append(out, delivery{e, s, true})
		}
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestMadeUpHistories is TestAnyOrder for histories that change and repeat what
// applications do not.
func TestMadeUpHistories(t *testing.T) {
	t.Parallel()
	seeds, times := uint64(3), 2
	if soak() {
		seeds, times = 60, 3
	}
	tables := loadAll(t, func(*scenario) bool { return true })[0].tables(t)
	counts := logCounts(t)
	st, pool, schema := newStore(t)
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 3))
		s := invent(seed, 60+r.IntN(200))
		clearTables(t, pool, schema)
		applyInOrder(t, st, s, []int{1, 50, 500}[seed%3])
		lookUpHandles(t, st, s)
		settle(t, st)
		g := goneOf(t, []*scenario{s}, counts)
		want := map[string][]map[string]any{}
		for _, table := range tables {
			want[table] = rowsOf(t, pool, schema, table)
		}
		for range times {
			clearTables(t, pool, schema)
			list := liveOnly(r, s)
			if r.IntN(2) == 0 {
				list = shuffled(r, []*scenario{s})
			}
			applyShuffled(t, st, r, list)
			lookUpHandles(t, st, s)
			settle(t, st)
			noDrift(t, st)
			for _, table := range tables {
				g.compare(t, seed, table, want[table], rowsOf(t, pool, schema, table))
			}
		}
	}
}
