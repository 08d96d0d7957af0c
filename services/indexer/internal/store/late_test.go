package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// changed is a new version of a record, with another body.
func (m *maker) changed(account int, e *event.Event, body string) *event.Event {
	u := m.create(account, e.Collection, e.RKey, body)
	u.Type = event.Update
	return u
}

// orders are orders of events by name; nil stands for the deletion of account 1.
type orders map[string][]*event.Event

// inEachOrder applies events one at a time, posts being judged again after each
// or in the end only, and checks what they come to. closed is when account 1 was
// deleted.
func inEachOrder(t *testing.T, each bool, closed string, all orders, check func(t *testing.T, pool *pgxpool.Pool, schema string)) {
	t.Helper()
	for name, order := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t)
			for _, e := range order {
				if e == nil {
					require.NoError(t, st.DeleteAccount(context.Background(), did(1), closed))
				} else {
					require.NoError(t, applyOne(st, e))
				}
				if each {
					settle(t, st)
				}
			}
			settle(t, st)
			check(t, pool, schema)
		})
	}
}

// Whatever the order, the first version of a like tells of it and a change does
// not, and what it was about before has a row of counts.
func TestChangedBeforeItCame(t *testing.T) {
	t.Parallel()
	subject := func(e *event.Event) string { return fmt.Sprintf(`,"subject":{"uri":%q,"cid":%q}`, e.URI(), e.CID) }
	m := newMaker()
	first, second := m.post(1, nil, nil), m.post(2, nil, nil)
	gone := m.like(3, second)
	deleted := m.delete(gone)
	like := m.create(3, gone.Collection, gone.RKey, subject(first))
	change := m.changed(3, like, subject(second))
	inEachOrder(t, false, "", orders{
		"in order":                   {first, second, like, change},
		"change first":               {first, second, change, like, change},
		"change first, twice":        {first, second, change, like, like},
		"deleted before":             {first, second, gone, deleted, like, change},
		"deleted before, seen after": {first, second, change, like, deleted, gone},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1 AND "recordCid" = $2`, did(1), like.CID))
		require.Zero(t, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, first.URI()))
		require.Equal(t, 1, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, second.URI()))
	})
}

// A reply in its author's thread that has left it before it came has its place
// there, as one that has left, and its parent a row of counts.
func TestReplyThatLeftBeforeItCame(t *testing.T) {
	t.Parallel()
	m := newMaker()
	root := m.post(1, nil, nil)
	reply := m.post(1, root, root)
	change := m.changed(1, reply, `,"text":"no reply"`)
	inEachOrder(t, false, "", orders{"in order": {root, reply, change}, "change first": {root, change, reply}}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.op_thread_reply WHERE uri = $1 AND "deletedAt" = $2`, reply.URI(), change.Time))
		require.Zero(t, count(t, pool, schema, `SELECT "replyCount" FROM {s}.post_agg WHERE uri = $1`, root.URI()))
	})
}

// A repost and a quote that were found as about a deleted post, and are about
// another one when their turn comes, stay.
func TestAboutAnotherPostMeanwhile(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	ref := func(e *event.Event) string { return fmt.Sprintf(`{"uri":%q,"cid":%q}`, e.URI(), e.CID) }
	quoting := func(e *event.Event) string {
		return `,"text":"t","embed":{"$type":"app.bsky.embed.record","record":` + ref(e) + `}`
	}
	old, other := m.post(1, nil, nil), m.post(2, nil, nil)
	repost := m.create(3, "app.bsky.feed.repost", "", `,"subject":`+ref(old))
	quote := m.create(3, "app.bsky.feed.post", "", quoting(old))
	changes := []*event.Event{m.changed(3, repost, `,"subject":`+ref(other)), m.changed(3, quote, quoting(other))}
	deleted := m.delete(old) // after the changes, but it comes before them
	for _, e := range append([]*event.Event{old, other, repost, quote, deleted}, changes...) {
		require.NoError(t, applyOne(st, e))
	}
	settle(t, st)
	// What the deletion would have left if it had been looked through before the changes.
	_, err := pool.Exec(context.Background(), `INSERT INTO `+store.OwnSchema(schema)+`.recheck (uri, what, rev) VALUES ($1, 32, $3), ($2, 64, $3)`,
		repost.URI(), quote.URI(), deleted.Rev)
	require.NoError(t, err)
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.feed_item WHERE uri = $1`, repost.URI()))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.quote WHERE uri = $1`, quote.URI()))
	require.Equal(t, 1, count(t, pool, schema, `SELECT "quoteCount" FROM {s}.post_agg WHERE uri = $1`, other.URI()))
}

// A gate that was deleted before its post was made again is none of the new one.
func TestGateOfThePostBefore(t *testing.T) {
	t.Parallel()
	m := newMaker()
	post := m.post(1, nil, nil)
	gate := m.create(1, "app.bsky.feed.threadgate", post.RKey, fmt.Sprintf(`,"post":%q`, post.URI()))
	gone, ungated := m.delete(post), m.delete(gate)
	again := m.create(1, post.Collection, post.RKey, `,"text":"again"`)
	inEachOrder(t, false, "", orders{
		"in order": {post, gate, gone, ungated, again}, "made again first": {post, gone, again, gate, ungated}, "gate last": {again, gone, post, ungated, gate},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1 AND "hasThreadGate" IS NULL`, post.URI()))
	})
}

// A post gate that comes after the deletion of its post is asked about the
// quotes that were younger than it.
func TestPostGateAfterItsPost(t *testing.T) {
	t.Parallel()
	m := newMaker()
	post := m.post(1, nil, nil)
	gate := m.create(1, "app.bsky.feed.postgate", post.RKey, fmt.Sprintf(`,"post":%q,"embeddingRules":[{"$type":"app.bsky.feed.postgate#disableRule"}]`, post.URI()))
	quote := m.create(2, "app.bsky.feed.post", "", fmt.Sprintf(`,"text":"t","embed":{"$type":"app.bsky.embed.record","record":{"uri":%q,"cid":%q}}`, post.URI(), post.CID))
	deleted := m.delete(post)
	inEachOrder(t, true, "", orders{
		"in order":    {post, gate, quote, deleted},
		"gate last":   {post, quote, deleted, gate},
		"quote late":  {post, deleted, quote, gate},
		"post last":   {deleted, quote, gate, post},
		"quote first": {quote, deleted, post, gate},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1 AND "violatesEmbeddingRules"`, quote.URI()))
		require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
	})
}

// A notification goes with the account that it is for, although the record that
// it is about has been changed after that.
func TestNotificationOfAnAccountBefore(t *testing.T) {
	t.Parallel()
	m := newMaker()
	follow := m.create(3, "app.bsky.graph.follow", "", fmt.Sprintf(`,"subject":%q`, did(1)))
	closed := m.post(1, nil, nil).Time
	change := m.changed(3, follow, fmt.Sprintf(`,"subject":%q`, did(2)))
	inEachOrder(t, true, closed, orders{"in order": {follow, nil, change}, "account last": {follow, change, nil}, "change first": {change, nil, follow}}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.follow WHERE "subjectDid" = $1`, did(2)))
	})
}

// A post that comes after the deletion of its account leaves what it would have
// left: its place in its own thread, and no quotes of it that are older than the
// deletion. So does a second copy.
func TestPostAfterItsAccount(t *testing.T) {
	t.Parallel()
	m := newMaker()
	root := m.post(1, nil, nil)
	reply := m.post(1, root, root)
	quote := m.create(2, "app.bsky.feed.post", "", fmt.Sprintf(`,"text":"t","embed":{"$type":"app.bsky.embed.record","record":{"uri":%q,"cid":%q}}`, reply.URI(), reply.CID))
	closed := m.post(1, nil, nil).Time
	inEachOrder(t, true, closed, orders{
		"in order":       {root, reply, quote, nil},
		"account first":  {nil, quote, root, reply, reply},
		"quote, account": {quote, nil, reply, root, reply},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.op_thread_reply WHERE uri = $1 AND "deletedAt" IS NULL`, reply.URI()))
		require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.quote`))
		require.Zero(t, count(t, pool, schema, `SELECT "quoteCount" FROM {s}.post_agg WHERE uri = $1`, reply.URI()))
		require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE creator = $1`, did(1)))
	})
}
