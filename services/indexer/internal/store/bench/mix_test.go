package bench

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// mix makes histories with the proportions of the network.
type mix struct {
	r     *rand.Rand
	n     int
	dids  []string
	posts []ref
	undo  []undo
	roots map[string]ref
	now   time.Time
	// hot are posts and accounts that many like and follow already.
	hotPosts []ref
	hotDIDs  []string
}

type ref struct{ uri, cid string }

type undo struct{ did, collection, rkey string }

const alphabet = "234567abcdefghijklmnopqrstuvwxyz"

// newMix makes histories of accounts of the base and of some new ones.
func newMix(seed uint64, accounts int, b base) *mix {
	m := &mix{
		r: rand.New(rand.NewPCG(seed, 9)), roots: map[string]ref{},
		now: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC),
	}
	for i := range accounts {
		if i%5 == 4 || i >= b.accounts {
			m.dids = append(m.dids, "did:plc:"+m.letters(24))
		} else {
			m.dids = append(m.dids, baseDID(i))
		}
	}
	for i := range b.posts {
		m.posts = append(m.posts, basePost(i, b.accounts))
	}
	m.hotPosts = m.posts[:b.hotPosts]
	for i := range b.hotAccounts {
		m.hotDIDs = append(m.hotDIDs, baseDID(i))
	}
	return m
}

func (m *mix) letters(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[m.r.IntN(32)]
	}
	return string(b)
}

// cid makes a CID of the right form, of a record (0x71) or a blob (0x55).
func (m *mix) cid(codec byte) string {
	b := [36]byte{1, codec, 0x12, 32}
	for i := 4; i < len(b); i++ {
		b[i] = byte(m.r.IntN(256))
	}
	return "b" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// tid is a TID of the moment.
func (m *mix) tid() string {
	n := uint64(m.now.UnixMicro())<<10 | 7
	var b [13]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = alphabet[n&31]
		n >>= 5
	}
	return string(b[:])
}

// popular picks one of n, the first ones far more often.
func (m *mix) popular(n int) int {
	f := m.r.Float64()
	return min(int(f*f*f*float64(n)), n-1)
}

func (m *mix) stamp() string { return m.now.UTC().Format("2006-01-02T15:04:05.000Z") }

// next makes one change of an account.
func (m *mix) next(did string, live bool) store.Change {
	m.now = m.now.Add(time.Duration(m.r.IntN(3000)) * time.Microsecond)
	m.n++
	e := &event.Event{Type: event.Create, Seq: int64(m.n), Time: m.stamp(), DID: did, Commit: "bafyreicommit", Rev: m.tid(), RKey: m.tid()}
	if !live {
		e.Seq = event.SeqBackfill
	}
	p := m.r.IntN(100)
	switch {
	case live && p < 9 && len(m.undo) > 0:
		k := m.r.IntN(len(m.undo))
		u := m.undo[k]
		m.undo[k] = m.undo[len(m.undo)-1]
		m.undo = m.undo[:len(m.undo)-1]
		e.Type, e.DID, e.Collection, e.RKey = event.Delete, u.did, u.collection, u.rkey
		return store.Change{Event: e, Live: live}
	case p < 30 || len(m.posts) < 20:
		m.post(e)
	case p < 70:
		m.subject(e, "app.bsky.feed.like")
	case p < 80:
		m.subject(e, "app.bsky.feed.repost")
	case p < 97:
		subject := m.dids[m.popular(len(m.dids))]
		if m.r.IntN(10) == 0 && len(m.hotDIDs) > 0 {
			subject = m.hotDIDs[m.r.IntN(len(m.hotDIDs))]
		}
		m.record(e, "app.bsky.graph.follow", map[string]any{"subject": subject})
	default:
		e.RKey = "self"
		m.record(e, "app.bsky.actor.profile", map[string]any{"displayName": "name " + m.letters(8), "description": m.letters(60)})
	}
	if e.Collection == "app.bsky.feed.like" || e.Collection == "app.bsky.graph.follow" {
		m.undo = append(m.undo, undo{e.DID, e.Collection, e.RKey})
	}
	return store.Change{Event: e, Live: live}
}

func (m *mix) subject(e *event.Event, collection string) {
	s := m.posts[len(m.posts)-1-m.popular(len(m.posts))]
	if m.r.IntN(10) == 0 && len(m.hotPosts) > 0 {
		s = m.hotPosts[m.r.IntN(len(m.hotPosts))]
	}
	m.record(e, collection, map[string]any{"subject": map[string]any{"uri": s.uri, "cid": s.cid}})
}

func (m *mix) post(e *event.Event) {
	rec := map[string]any{"text": "a text of some length " + m.letters(80), "langs": []string{"en"}}
	var root ref
	switch p := m.r.IntN(100); {
	case p < 45 && len(m.posts) > 0:
		parent := m.posts[len(m.posts)-1-m.popular(min(len(m.posts), 500))]
		root = parent
		if up, ok := m.roots[parent.uri]; ok {
			root = up
		}
		rec["reply"] = map[string]any{"root": map[string]any{"uri": root.uri, "cid": root.cid}, "parent": map[string]any{"uri": parent.uri, "cid": parent.cid}}
	case p < 55 && len(m.posts) > 0:
		q := m.posts[m.r.IntN(len(m.posts))]
		rec["embed"] = map[string]any{"$type": "app.bsky.embed.record", "record": map[string]any{"uri": q.uri, "cid": q.cid}}
	case p < 75:
		rec["embed"] = map[string]any{"$type": "app.bsky.embed.images", "images": []any{map[string]any{
			"alt": "", "image": map[string]any{"$type": "blob", "ref": map[string]any{"$link": m.cid(0x55)}, "mimeType": "image/jpeg", "size": 12345},
		}}}
	}
	m.record(e, "app.bsky.feed.post", rec)
	own := ref{e.URI(), e.CID}
	m.posts = append(m.posts, own)
	if root.uri != "" {
		m.roots[own.uri] = root
	}
}

func (m *mix) record(e *event.Event, collection string, rec map[string]any) {
	rec["$type"], rec["createdAt"] = collection, e.Time
	text, err := json.Marshal(rec)
	if err != nil {
		panic(fmt.Sprint("marshal a map of texts: ", err))
	}
	e.Collection, e.CID, e.Record = collection, m.cid(0x71), text
}

// live is a stretch of the live stream: every account in turn.
func (m *mix) live(n int) []store.Change {
	out := make([]store.Change, n)
	for i := range out {
		out[i] = m.next(m.dids[m.popular(len(m.dids))], true)
	}
	return out
}

// backfill is the same repository by repository.
func (m *mix) backfill(n, perRepo int) []store.Change {
	out := make([]store.Change, 0, n)
	for len(out) < n {
		did := m.dids[(len(out)/perRepo)%len(m.dids)]
		out = append(out, m.next(did, false))
	}
	return out
}
