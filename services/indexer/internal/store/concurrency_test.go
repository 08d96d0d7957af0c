package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// maker makes events with growing revs.
type maker struct {
	n   int
	now time.Time
}

func newMaker() *maker { return &maker{now: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)} }

const tidLetters = "234567abcdefghijklmnopqrstuvwxyz"

func tid(at time.Time) string {
	n := uint64(at.UnixMicro()) << 10
	var b [13]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = tidLetters[n&31]
		n >>= 5
	}
	return string(b[:])
}

const someCID = "bafyreih67ovxx5ijoc5lc4dbduff64eqho6h7r5kwlyrrdyt4zsrz7wsda"

func did(n int) string {
	return "did:plc:" + strings.Repeat("a", 20) + string([]byte{tidLetters[n>>15&31], tidLetters[n>>10&31], tidLetters[n>>5&31], tidLetters[n&31]})
}

// create makes a record; its rkey is the TID of the moment unless given.
func (m *maker) create(account int, collection, rkey, body string) *event.Event {
	m.n++
	m.now = m.now.Add(time.Second)
	at := m.now.Format("2006-01-02T15:04:05.000Z")
	if rkey == "" {
		rkey = tid(m.now)
	}
	cid := []byte(someCID)
	for i, n := 20, m.n; n > 0; i, n = i+1, n>>5 {
		cid[i] = tidLetters[n&31]
	}
	return &event.Event{
		Type: event.Create, Seq: int64(m.n), Time: at, DID: did(account), Commit: someCID, Rev: tid(m.now), Collection: collection, RKey: rkey, CID: string(cid),
		Record: []byte(fmt.Sprintf(`{"$type":%q,"createdAt":%q%s}`, collection, at, body)),
	}
}

func (m *maker) delete(e *event.Event) *event.Event {
	m.n++
	m.now = m.now.Add(time.Second)
	d := *e
	d.Type, d.Seq, d.Rev, d.Time, d.CID, d.Record = event.Delete, int64(m.n), tid(m.now), m.now.Format("2006-01-02T15:04:05.000Z"), "", nil
	return &d
}

func (m *maker) like(account int, of *event.Event) *event.Event {
	return m.create(account, "app.bsky.feed.like", "", fmt.Sprintf(`,"subject":{"uri":%q,"cid":%q}`, of.URI(), of.CID))
}

func (m *maker) post(account int, root, parent *event.Event) *event.Event {
	body := `,"text":"t"`
	if root != nil {
		body += fmt.Sprintf(`,"reply":{"root":{"uri":%q,"cid":%q},"parent":{"uri":%q,"cid":%q}}`, root.URI(), root.CID, parent.URI(), parent.CID)
	}
	return m.create(account, "app.bsky.feed.post", "", body)
}

// applyParallel spreads events over appliers, round robin.
func applyParallel(t *testing.T, stores []*store.Store, size int, events []*event.Event) {
	t.Helper()
	g, ctx := errgroup.WithContext(context.Background())
	for k, st := range stores {
		g.Go(func() error {
			var batch []store.Change
			flush := func() error {
				out, err := st.Apply(ctx, batch)
				for i, r := range out.Results {
					if r.Result == store.Rejected {
						return fmt.Errorf("%s: %w", batch[i].Event.URI(), r.Err)
					}
				}
				batch = nil
				return err
			}
			for i := k; i < len(events); i += len(stores) {
				batch = append(batch, store.Change{Event: events[i], Live: true})
				if len(batch) == size {
					if err := flush(); err != nil {
						return err
					}
				}
			}
			return flush()
		})
	}
	require.NoError(t, g.Wait())
}

func four(st *store.Store) []*store.Store { return []*store.Store{st, st, st, st} }

func noDrift(t *testing.T, st *store.Store) {
	t.Helper()
	d, err := st.VerifyCounts(context.Background(), false)
	require.NoError(t, err)
	require.Zero(t, d.Rows, "%v", d.Sample)
}

// TestAllLikesOfOnePost: a famous post is no hot row, and its count is exact.
func TestAllLikesOfOnePost(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	events := []*event.Event{post}
	for i := range 1000 {
		events = append(events, m.like(10+i, post))
	}
	applyParallel(t, four(st), 50, append(events, events...))
	settle(t, st)
	require.Equal(t, 1000, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
	require.Equal(t, 1000, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE reason = 'like'`))
	noDrift(t, st)
}

// TestOneAccount: four appliers with all events of one account end as one would.
func TestOneAccount(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(2, nil, nil)
	events := []*event.Event{post}
	for range 100 {
		like := m.like(1, post)
		events = append(events, like, m.delete(like))
	}
	last := m.like(1, post)
	events = append(events, last)
	applyParallel(t, four(st), 10, events)
	settle(t, st)
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}."like" WHERE uri = $1`, last.URI()))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.record WHERE did = $1`, did(1)))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.duplicate_record`))
	require.Equal(t, 1, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
}

// TestGateAndReplies: a gate and a thousand replies at once; those before it by
// rev stay, those after it are refused, whoever came first.
func TestGateAndReplies(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	var events []*event.Event
	for i := range 500 {
		events = append(events, m.post(10+i, post, post))
	}
	gate := m.create(1, "app.bsky.feed.threadgate", post.RKey, fmt.Sprintf(`,"post":%q,"allow":[]`, post.URI()))
	for i := range 500 {
		events = append(events, m.post(2000+i, post, post))
	}
	events = append(events[:333:333], append([]*event.Event{gate}, events[333:]...)...)
	events = append(events, post)
	applyParallel(t, four(st), 25, events)
	settle(t, st)
	require.Equal(t, 500, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "violatesThreadGate"`))
	require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "invalidReplyRoot"`))
	require.Equal(t, 500, count(t, pool, schema, `SELECT "replyCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
	require.Equal(t, 500, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE reason = 'reply'`))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE "hasThreadGate"`))
	noDrift(t, st)
}

// TestSwapHandles: two accounts that swap their handles for a while each end
// with one, and nothing deadlocks for good.
func TestSwapHandles(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	a, b := "a.test", "B.test"
	var g errgroup.Group
	for k := range 4 {
		g.Go(func() error {
			for i := range 25 {
				at := time.Date(2026, 8, 1, 0, i, k, 0, time.UTC).Format(time.RFC3339)
				first, second := a, b
				if i%2 == 1 {
					first, second = b, a
				}
				if err := st.SetHandle(context.Background(), did(1), &first, at); err != nil {
					return err
				}
				if err := st.SetHandle(context.Background(), did(2), &second, at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.NoError(t, st.SetHandle(context.Background(), did(1), &a, "2026-08-02T00:00:00Z"))
	require.NoError(t, st.SetHandle(context.Background(), did(2), &b, "2026-08-02T00:00:00Z"))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.actor WHERE did = $1 AND handle = 'a.test'`, did(1)))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.actor WHERE did = $1 AND handle = 'b.test'`, did(2)))
}

// TestVerifyCountsRepairs: drift is found, named and repaired, bookmarks are
// left alone.
func TestVerifyCountsRepairs(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t)
	m := newMaker()
	post := m.post(1, nil, nil)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{post, m.like(2, post), m.like(3, post)})
	settle(t, st)
	_, err := pool.Exec(context.Background(), `UPDATE `+schema+`.post_agg SET "likeCount" = 7, "bookmarkCount" = 5`)
	require.NoError(t, err)
	d, err := st.VerifyCounts(context.Background(), true)
	require.NoError(t, err)
	require.Equal(t, 1, d.Rows)
	require.True(t, d.Repaired)
	settle(t, st)
	noDrift(t, st)
	require.Equal(t, 5, count(t, pool, schema, `SELECT "bookmarkCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
	require.Equal(t, 2, count(t, pool, schema, `SELECT "likeCount" FROM {s}.post_agg WHERE uri = $1`, post.URI()))
}
