package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

// A reply that is judged again keeps what it was judged by, although that has
// been changed, deleted, or deleted and made again since.
func TestJudgedAgainLater(t *testing.T) {
	t.Parallel()
	m := newMaker()
	again := func(account int, old *event.Event, of *event.Event) *event.Event {
		body := `,"text":"again"`
		if of != nil {
			ref := fmt.Sprintf(`{"uri":%q,"cid":%q}`, of.URI(), of.CID)
			body += `,"reply":{"root":` + ref + `,"parent":` + ref + `}`
		}
		return m.create(account, old.Collection, old.RKey, body)
	}
	root := m.post(1, nil, nil)
	parent := m.post(2, root, root)
	parentGone := m.delete(parent)
	parentBack := again(2, parent, root)
	reply := m.post(3, root, parentBack)
	below := m.post(4, parentBack, parentBack) // takes a reply for the root of its thread
	parentChanged := m.changed(2, parent, `,"text":"no reply"`)
	rootGone := m.delete(root)
	missed := m.post(5, root, reply) // the root is not there
	rootBack := again(1, root, nil)
	history := []*event.Event{root, parent, parentGone, parentBack, reply, below, parentChanged, rootGone, missed, rootBack}
	for name, end := range map[string][]*event.Event{
		"changed": nil, "deleted": {m.delete(parent)}, "all deleted": {m.delete(rootBack), m.delete(parent)},
	} {
		for _, each := range []bool{true, false} {
			name := fmt.Sprintf("%s, settled after each: %v", name, each)
			inEachOrder(t, each, "", orders{name: append(slices.Clone(history), end...)}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
				t.Helper()
				for uri, want := range map[string]struct {
					invalid bool
					told    int
				}{reply.URI(): {false, 2}, below.URI(): {true, 2}, missed.URI(): {false, 2}} {
					if uri != reply.URI() && !each && len(end) > 0 {
						continue // the parent, or the root, may have been late, by other clocks
					}
					invalid := count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1 AND "invalidReplyRoot"`, uri)
					require.Equal(t, want.invalid, invalid == 1, "is %s invalid", uri)
					require.Equal(t, want.told, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE "recordUri" = $1`, uri), "told by %s", uri)
				}
			})
		}
	}
}

// A reply that comes before its parent, whose server's clock is ahead, is judged
// by it, also when it is deleted in the same moment.
func TestParentWithAClockAhead(t *testing.T) {
	t.Parallel()
	m := newMaker()
	root := m.post(1, nil, nil)
	at := m.now
	m.now = at.Add(time.Minute)
	parent := m.post(2, root, root)
	gone := m.delete(parent)
	m.now = at
	reply := m.post(3, root, parent)
	inEachOrder(t, false, "", orders{
		"in order": {root, parent, reply, gone}, "reply first": {root, reply, parent, gone}, "parent last": {root, reply, gone, parent},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1 AND "invalidReplyRoot" IS NULL`, reply.URI()))
		require.Equal(t, 2, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE "recordUri" = $1`, reply.URI()))
	})
}

// The deletion of an account that is worked off late leaves what is younger.
func TestAccountDeletedLater(t *testing.T) {
	t.Parallel()
	m := newMaker()
	closed := m.post(1, nil, nil).Time
	verified := m.create(3, "app.bsky.graph.verification", "", fmt.Sprintf(`,"subject":%q,"handle":"h.test","displayName":"n"`, did(1)))
	gone := m.delete(verified)
	inEachOrder(t, true, closed, orders{"in order": {nil, verified, gone}, "account last": {verified, gone, nil}}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 2, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1`, did(1)))
	})
}

// A post that was deleted before a reply below it was written was gone for that
// reply, also when its account is deleted in the end.
func TestPostDeletedBeforeItsAccount(t *testing.T) {
	t.Parallel()
	m := newMaker()
	root := m.post(2, nil, nil)
	middle := m.post(1, root, root)
	parent := m.post(3, root, middle)
	middleGone := m.delete(middle)
	reply := m.post(4, root, parent)
	closed := m.post(1, nil, nil).Time
	rootChanged := m.changed(2, root, `,"text":"changed","reply":{"root":{"uri":"`+parent.URI()+`","cid":"`+parent.CID+`"},"parent":{"uri":"`+parent.URI()+`","cid":"`+parent.CID+`"}}`)
	for _, each := range []bool{true, false} {
		name := fmt.Sprintf("settled after each: %v", each)
		inEachOrder(t, each, closed, orders{name: {root, middle, parent, middleGone, reply, nil, rootChanged}}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
			t.Helper()
			require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE "recordUri" = $1`, reply.URI()))
			require.Zero(t, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE "recordUri" = $1 AND did = $2`, reply.URI(), did(2)))
		})
	}
}

// A gate that was deleted before its post was changed is none of the new
// version.
func TestGateOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	m := newMaker()
	post := m.post(1, nil, nil)
	gate := m.create(1, "app.bsky.feed.threadgate", post.RKey, fmt.Sprintf(`,"post":%q`, post.URI()))
	ungated := m.delete(gate)
	change := m.changed(1, post, `,"text":"changed"`)
	inEachOrder(t, true, "", orders{"in order": {post, gate, ungated, change}, "change first": {change, post, gate, ungated}, "gate last": {post, change, ungated, gate}},
		func(t *testing.T, pool *pgxpool.Pool, schema string) {
			t.Helper()
			require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post WHERE uri = $1 AND "hasThreadGate" IS NULL`, post.URI()))
		})
}

// Only the first version of a profile says with whom its account joined, however
// many come before it, and whether it is there in the end.
func TestJoinedWhenTheFirstVersionIsLast(t *testing.T) {
	t.Parallel()
	m := newMaker()
	profile := func(pack int) *event.Event {
		body := `,"displayName":"n"`
		if pack > 0 {
			body += fmt.Sprintf(`,"joinedViaStarterPack":{"uri":"at://%s/app.bsky.graph.starterpack/a","cid":%q}`, did(pack), someCID)
		}
		return m.create(3, "app.bsky.actor.profile", "self", body)
	}
	update := func(pack int) *event.Event {
		e := profile(pack)
		e.Type = event.Update
		return e
	}
	first, second, third := profile(5), update(6), update(6)
	gone := m.delete(first)
	again, last := profile(0), update(7)
	inEachOrder(t, true, "", orders{
		"in order": {first, second, third, gone, again, last}, "turned round": {last, again, gone, third, second, first},
		"first last": {second, third, gone, again, last, first}, "deleted": {second, third, first, gone},
	}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1`, did(5)))
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification`))
	})
}

// A verification that becomes a duplicate of another one has been there.
func TestVerificationThatBecomesADuplicate(t *testing.T) {
	t.Parallel()
	m := newMaker()
	of := func(n int) string { return fmt.Sprintf(`,"subject":%q,"handle":"h.test","displayName":"n"`, did(n)) }
	first := m.create(3, "app.bsky.graph.verification", "", of(1))
	second := m.create(3, "app.bsky.graph.verification", "", of(2))
	change := m.changed(3, second, of(1))
	inEachOrder(t, true, "", orders{"in order": {first, second, change}}, func(t *testing.T, pool *pgxpool.Pool, schema string) {
		t.Helper()
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1 AND reason = 'verified'`, did(2)))
		require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE did = $1 AND reason = 'unverified'`, did(2)))
	})
}
