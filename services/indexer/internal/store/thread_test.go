package store_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// threadHistories are short histories of one thread, in stream order, by
// accounts from base on.
var threadHistories = map[string]func(m *maker, base int) []*event.Event{
	"deleted above": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		parent := m.post(base+1, root, root)
		reply := m.post(base+2, root, parent)
		further := m.post(base+3, root, reply)
		return []*event.Event{root, parent, reply, further, m.delete(root), m.delete(parent), m.delete(reply)}
	},
	"deleted high above": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		events := []*event.Event{root}
		for i := range 6 {
			events = append(events, m.post(base+1+i, root, events[i]))
		}
		for _, e := range events[:6] {
			events = append(events, m.delete(e))
		}
		return events
	},
	"deleted above one outside": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		gone := m.delete(root)
		outside := m.post(base+1, root, root)
		between := m.post(base+2, root, outside)
		reply := m.post(base+3, root, between)
		return []*event.Event{root, gone, outside, between, reply, m.post(base+4, root, reply), m.delete(between)}
	},
	"four deleted between": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		parent := m.post(base+1, root, root)
		gone := m.delete(parent)
		chain := []*event.Event{m.post(base+2, root, parent)}
		for i := range 5 {
			chain = append(chain, m.post(base+3+i, root, chain[i]))
		}
		events := append([]*event.Event{root, parent, gone}, chain...)
		for i := 4; i > 0; i-- {
			events = append(events, m.delete(chain[i]))
		}
		return events
	},
	"deleted before": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		parent := m.post(base+1, root, root)
		gone := m.delete(parent)
		reply := m.post(base+2, root, parent)
		return []*event.Event{root, parent, gone, reply, m.post(base+3, root, reply)}
	},
	"astray": func(m *maker, base int) []*event.Event {
		root, other := m.post(base, nil, nil), m.post(base+1, nil, nil)
		astray := m.post(base+2, root, other)
		under := m.post(base+3, root, astray)
		further := m.post(base+4, root, under)
		return []*event.Event{root, other, astray, under, further, m.delete(under), m.delete(other)}
	},
	"nobody may reply": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		gate := m.create(base, "app.bsky.feed.threadgate", root.RKey, fmt.Sprintf(`,"post":%q,"allow":[]`, root.URI()))
		events := []*event.Event{root, gate}
		parent := root
		var chain []*event.Event
		for i := range 5 {
			parent = m.post(base+5+i, root, parent)
			chain = append(chain, parent)
		}
		other := m.post(base+1, nil, nil)
		astray := m.post(base+2, root, other)
		under := m.post(base+3, root, astray)
		events = append(append(events, chain...), other, astray, under, m.post(base+4, root, under))
		return append(events, m.delete(chain[0]), m.delete(chain[2]), m.delete(under))
	},
	"a gate between the replies": func(m *maker, base int) []*event.Event {
		root := m.post(base, nil, nil)
		before := m.post(base+1, root, root)
		gate := m.create(base, "app.bsky.feed.threadgate", root.RKey,
			fmt.Sprintf(`,"post":%q,"allow":[{"$type":"app.bsky.feed.threadgate#followerRule"}]`, root.URI()))
		follow := m.create(base+3, "app.bsky.graph.follow", "", fmt.Sprintf(`,"subject":%q`, did(base)))
		refused := m.post(base+2, root, before)
		allowed := m.post(base+3, root, refused)
		return []*event.Event{root, before, gate, follow, refused, allowed, m.delete(before), m.delete(refused)}
	},
}

// randomThread makes replies in two threads, some under posts of the other one,
// some quoting, with deletions among them. One root may have gates, and stays.
func randomThread(seed uint64) func(m *maker, base int) []*event.Event {
	return func(m *maker, base int) []*event.Event {
		r := rand.New(rand.NewPCG(seed, 2))
		roots := []*event.Event{m.post(base, nil, nil), m.post(base+1, nil, nil)}
		events, alive := slices.Clone(roots), slices.Clone(roots[1:])
		posts, rootOf := slices.Clone(roots), map[*event.Event]*event.Event{roots[0]: roots[0], roots[1]: roots[1]}
		for i := range 9 {
			account := base + r.IntN(threadAccounts)
			switch {
			case i == 3 && seed%2 == 0:
				rule := []string{"", `{"$type":"app.bsky.feed.threadgate#followerRule"}`}[r.IntN(2)]
				events = append(events, m.create(base, "app.bsky.feed.threadgate", roots[0].RKey, fmt.Sprintf(`,"post":%q,"allow":[%s]`, roots[0].URI(), rule)),
					m.create(base, "app.bsky.feed.postgate", roots[0].RKey, fmt.Sprintf(`,"post":%q,"embeddingRules":[{"$type":"app.bsky.feed.postgate#disableRule"}]`, roots[0].URI())),
					m.create(base+2, "app.bsky.graph.follow", "", fmt.Sprintf(`,"subject":%q`, did(base))))
			case len(alive) > 0 && r.IntN(4) == 0:
				k := r.IntN(len(alive))
				events = append(events, m.delete(alive[k]))
				alive = slices.Delete(alive, k, k+1)
			case r.IntN(6) == 0:
				of := posts[r.IntN(len(posts))]
				events = append(events, m.create(account, "app.bsky.feed.post", "",
					fmt.Sprintf(`,"text":"q","embed":{"$type":"app.bsky.embed.record","record":{"uri":%q,"cid":%q}}`, of.URI(), of.CID)))
				alive = append(alive, events[len(events)-1])
			default:
				parent := posts[r.IntN(len(posts))]
				root := rootOf[parent]
				if r.IntN(5) == 0 {
					root = roots[r.IntN(2)]
				}
				p := m.post(account, root, parent)
				events, posts, alive, rootOf[p] = append(events, p), append(posts, p), append(alive, p), root
			}
		}
		return events
	}
}

// threadAccounts is how many accounts one run of a history has.
const threadAccounts = 16

// TestThreadsInAnyOrder: a short history of a thread ends in the same rows
// whatever the order, with what follows worked out after each event. Each order
// has accounts of its own, so all run through one schema.
func TestThreadsInAnyOrder(t *testing.T) {
	t.Parallel()
	histories := maps.Clone(threadHistories)
	seeds, copies := uint64(3), 120
	if soak() {
		seeds, copies = 200, 300
	}
	for seed := range seeds {
		histories[fmt.Sprintf("random %d", seed)] = randomThread(seed)
	}
	for name, history := range histories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t)
			r := rand.New(rand.NewPCG(1, 1))
			n := len(history(newMaker(), 0))
			runs, orders, steps := make([][]*event.Event, copies), make([][]int, copies), make([][]*event.Event, n)
			for k := range runs {
				runs[k] = history(newMaker(), k*threadAccounts)
				if orders[k] = r.Perm(n); k == 0 {
					slices.Sort(orders[k])
				}
				for i, of := range orders[k] {
					steps[i] = append(steps[i], runs[k][of])
				}
			}
			for _, step := range steps {
				applyParallel(t, []*store.Store{st}, 50, step)
				settle(t, st)
			}
			noDrift(t, st)
			rows := threadRows(t, pool, schema)
			want := ofThread(rows, runs[0], 0)
			for k, events := range runs {
				require.Equal(t, want, ofThread(rows, events, k*threadAccounts), "order %v", orders[k])
			}
		})
	}
}

// threadRows are the posts and their notifications, as text, by uri.
func threadRows(t *testing.T, pool *pgxpool.Pool, schema string) map[string]string {
	t.Helper()
	rows, err := pool.Query(context.Background(), strings.ReplaceAll(`SELECT p.uri, format('invalid=%s violates=%s replies=%s notified=%s',
coalesce(p."invalidReplyRoot", false), coalesce(p."violatesThreadGate", false), (SELECT a."replyCount" FROM {s}.post_agg a WHERE a.uri = p.uri),
(SELECT string_agg(n.did || ' ' || n.reason, ', ' ORDER BY n.did, n.reason) FROM {s}.notification n WHERE n."recordUri" = p.uri)) FROM {s}.post p`, "{s}", schema))
	require.NoError(t, err)
	out := map[string]string{}
	var uri, text string
	_, err = pgx.ForEachRow(rows, []any{&uri, &text}, func() error {
		out[uri] = text
		return nil
	})
	require.NoError(t, err)
	return out
}

// ofThread are the rows of one run, with the accounts of the first.
func ofThread(rows map[string]string, events []*event.Event, base int) []string {
	var out []string
	for _, e := range events {
		text := rows[e.URI()]
		for i := range threadAccounts {
			text = strings.ReplaceAll(text, did(base+i), did(i))
		}
		out = append(out, text)
	}
	return out
}
