package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
	"sluice/services/indexer/internal/store"
)

// fetched is the same record as a fetch of its repository brings it: as of the
// revision of the repository, at the time of the fetch.
func (m *maker) fetched(e *event.Event) *event.Event {
	m.now = m.now.Add(time.Second)
	f := *e
	f.Seq, f.Rev, f.Time = event.SeqBackfill, tid(m.now), m.now.Format("2006-01-02T15:04:05.000Z")
	return &f
}

// TestFetchedAndLive: a record that comes live and by a fetch has the time of
// its first sighting and notifies once, whichever came first; one that is only
// fetched notifies nobody.
func TestFetchedAndLive(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]int{"live first": {0, 1}, "fetched first": {1, 0}, "both again": {1, 0, 1, 0, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t)
			m := newMaker()
			post := m.post(1, nil, nil)
			reply := m.post(2, post, post)
			like := m.like(3, post)
			only := m.fetched(m.like(4, post))
			versions := [2][]*event.Event{{post, reply, like}, {m.fetched(post), m.fetched(reply), m.fetched(like), only}}
			for _, k := range order {
				for _, e := range versions[k] {
					_, err := st.Apply(context.Background(), []store.Change{{Event: e, Live: k == 0}})
					require.NoError(t, err)
				}
			}
			settle(t, st)
			require.Equal(t, 2, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
			for _, e := range versions[0] {
				require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE uri = $1 AND "indexedAt" = $2 AND rev LIKE '%|'`, e.URI(), e.Time))
			}
			require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE uri = $1 AND rev LIKE '%~'`, only.URI()))
			require.Equal(t, 2, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
		})
	}
}

// TestSweep: what a fetch did not have goes, what is younger stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	gone, kept := m.like(2, post), m.create(2, "app.bsky.graph.follow", "", `,"subject":"`+did(1)+`"`)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{post, gone, kept})
	again := m.fetched(kept)
	younger := m.create(2, "app.bsky.graph.block", "", `,"subject":"`+did(1)+`"`)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{again, younger})
	for range 2 {
		require.NoError(t, st.SweepSnapshot(context.Background(), did(2), again.Rev))
	}
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{gone})
	settle(t, st)
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE uri = $1`, gone.URI()))
	require.Equal(t, 2, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE did = $1`, did(2)))
	require.Zero(t, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
	noDrift(t, st)
}

// TestDeleteAccountAndReturn: an account that comes back after its deletion has
// only what is younger, whatever arrives late.
func TestDeleteAccountAndReturn(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(2, nil, nil)
	old := m.like(1, post)
	at := m.now.Add(time.Second)
	m.now = m.now.Add(2 * time.Second)
	back := m.like(1, post)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{back, post})
	require.NoError(t, st.DeleteAccount(context.Background(), did(1), at.Format(time.RFC3339Nano)))
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{old})
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}."like" WHERE uri = $1`, back.URI()))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE did = $1`, did(1)))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.actor WHERE did = $1`, did(1)))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
	noDrift(t, st)
}

// TestLabels: the newest by cts counts in any order, a negation is a row, exp
// is kept, bad ones are refused alone.
func TestLabels(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	label := func(cts string, neg bool) event.LabelEvent {
		return event.LabelEvent{Label: event.Label{Src: did(1), URI: did(2), Val: "spam", CTS: cts, Neg: neg, Exp: "2030-01-01T00:00:00Z"}}
	}
	ctx := context.Background()
	bad := label("yesterday", false)
	out, err := st.ApplyLabels(ctx, []event.LabelEvent{label("2026-01-02T00:00:00+01:00", true), label("2026-01-01T00:00:00Z", false), bad})
	require.NoError(t, err)
	require.Equal(t, 1, out.Removed)
	var why *derive.RejectError
	require.ErrorAs(t, out.Errors[2], &why)
	for range 2 {
		_, err = st.ApplyLabels(ctx, []event.LabelEvent{label("2026-01-01T12:00:00Z", false)})
		require.NoError(t, err)
	}
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.label WHERE neg AND cts = '2026-01-01T23:00:00.000Z' AND exp = '2030-01-01T00:00:00.000Z' AND cid = ''`))
	out, err = st.ApplyLabels(ctx, []event.LabelEvent{label("2026-01-03T00:00:00Z", false)})
	require.NoError(t, err)
	require.Equal(t, 1, out.Added)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.label WHERE NOT neg`))
	for _, cts := range []string{"2026-01-04T00:00:00.000123Z", "2026-01-04T00:00:00.000Z", "2026-01-04T00:00:00.00012Z"} {
		_, err = st.ApplyLabels(ctx, []event.LabelEvent{label(cts, cts == "2026-01-04T00:00:00.000123Z")})
		require.NoError(t, err)
	}
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.label WHERE neg AND cts = '2026-01-04T00:00:00.000123Z'`))
}

// TestSweepTooEarly: a record of a fetch that comes after the sweep of its own
// snapshot is put back.
func TestSweepTooEarly(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	like := m.like(2, post)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{post, like})
	late := m.fetched(like)
	require.NoError(t, st.SweepSnapshot(context.Background(), did(2), late.Rev))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`))
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{late, like})
	require.NoError(t, st.SweepSnapshot(context.Background(), did(2), late.Rev))
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`))
	noDrift(t, st)
}

// TestFetchedEdit: an edit that is fetched before it comes live does not notify
// a second time.
func TestFetchedEdit(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	like := m.like(2, post)
	edit := m.create(2, like.Collection, like.RKey, `,"subject":{"uri":"`+post.URI()+`","cid":"`+post.CID+`"}`)
	edit.Type = event.Update
	for i, e := range []*event.Event{post, like, m.fetched(edit), edit} {
		_, err := st.Apply(context.Background(), []store.Change{{Event: e, Live: i != 2}})
		require.NoError(t, err)
	}
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
}

// TestLeftovers: rows of another indexer are met as they are: the feed item of
// a duplicate repost goes with it, and a quote that is there counts once.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	ctx := context.Background()
	m := newMaker()
	post := m.post(1, nil, nil)
	repost := func() *event.Event {
		return m.create(2, "app.bsky.feed.repost", "", `,"subject":{"uri":"`+post.URI()+`","cid":"`+post.CID+`"}`)
	}
	first, second := repost(), repost()
	quote := m.create(3, "app.bsky.feed.post", "", `,"text":"","embed":{"$type":"app.bsky.embed.record","record":{"uri":"`+post.URI()+`","cid":"`+post.CID+`"}}`)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{post, first, second})
	_, err := pool.Exec(ctx, `INSERT INTO `+schema+`.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") VALUES ($1, '', 'repost', $2, $3, '')`,
		second.URI(), post.URI(), did(2))
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `INSERT INTO `+schema+`.quote (uri, cid, subject, "subjectCid", "createdAt", "indexedAt") VALUES ($1, '', $2, '', '', '')`, quote.URI(), post.URI())
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `INSERT INTO `+schema+`.post_agg (uri, "quoteCount") VALUES ($1, 1) ON CONFLICT (uri) DO UPDATE SET "quoteCount" = 1`, post.URI())
	require.NoError(t, err)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{m.delete(second), quote})
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.feed_item WHERE type = 'repost'`))
	require.Equal(t, 1, count(t, pool, schema, `SELECT "quoteCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
}

// Who joins, joins with the creation of the profile: a change that names a
// starter pack tells nobody, also when it arrives first.
func TestJoinedWithTheCreation(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	pack := m.create(1, "app.bsky.graph.starterpack", "", fmt.Sprintf(`,"name":"p","list":"at://%s/app.bsky.graph.list/3k2222222222a"`, did(1)))
	joined := fmt.Sprintf(`,"joinedViaStarterPack":{"uri":%q,"cid":%q}`, pack.URI(), pack.CID)
	with, later := m.create(2, "app.bsky.actor.profile", "self", joined), m.create(2, "app.bsky.actor.profile", "self", joined+`,"displayName":"b"`)
	without, named := m.create(3, "app.bsky.actor.profile", "self", ""), m.create(3, "app.bsky.actor.profile", "self", joined)
	later.Type, named.Type = event.Update, event.Update
	for _, e := range []*event.Event{pack, later, with, named, without} {
		_, err := st.Apply(t.Context(), []store.Change{{Event: e, Live: true}})
		require.NoError(t, err)
	}
	rows, err := pool.Query(t.Context(), fmt.Sprintf(`SELECT "recordCid" FROM %s.notification WHERE reason = 'starterpack-joined'`, schema))
	require.NoError(t, err)
	cids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{with.CID}, cids)
}
