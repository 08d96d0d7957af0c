package world

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// rig writes records straight into the tables.
type rig struct {
	tables   *tables
	accounts map[string]*Account
	next     int
}

func newRig() *rig { return &rig{tables: newTables(), accounts: map[string]*Account{}} }

func (r *rig) account(name string) *Account {
	if r.accounts[name] == nil {
		r.accounts[name] = &Account{DID: "did:plc:" + name}
	}
	return r.accounts[name]
}

func (r *rig) put(who, collection, rkey string, f facts) *Record {
	if rkey == "" {
		r.next++
		rkey = fmt.Sprintf("k%d", r.next)
	}
	a := r.account(who)
	rec := &Record{
		Account: a, Collection: collection, RKey: rkey, URI: "at://" + a.DID + "/" + collection + "/" + rkey, facts: f,
	}
	r.tables.put(rec)
	return rec
}

func (r *rig) counts() map[string]int64 {
	return (&World{gen: &generator{tables: r.tables}, labelled: newLabelBook()}).counts()
}

func TestDuplicatesArePromotedEveryTime(t *testing.T) {
	t.Parallel()
	r := newRig()
	post := r.put("a", Post, "p", facts{})
	var reposts []*Record
	for range 3 {
		reposts = append(reposts, r.put("b", Repost, "", facts{subject: post.URI}))
	}
	for left := 3; left > 0; left-- {
		c := r.counts()
		require.Equal(t, int64(1), c["repost"])
		require.Equal(t, int64(left-1), c["duplicate_record"])
		require.Equal(t, int64(2), c["feed_item"], "the post's and the winning repost's")
		require.True(t, r.tables.reposts[reposts[3-left].URI], "the oldest holds the row")
		r.tables.delete(reposts[3-left])
	}
	require.Equal(t, int64(0), r.counts()["repost"])
	require.Equal(t, int64(1), r.counts()["feed_item"])
	// A duplicate that goes leaves the holder alone.
	first, second := r.put("b", Like, "", facts{subject: post.URI}), r.put("b", Like, "", facts{subject: post.URI})
	r.tables.delete(second)
	require.Equal(t, first, r.tables.holder(uniqueKey(first)))
}

func TestEditKeepsWhatOthersMadeOfAPost(t *testing.T) {
	t.Parallel()
	r := newRig()
	post := r.put("a", Post, "p", facts{images: 2})
	r.put("b", Repost, "", facts{subject: post.URI})
	quote := r.put("b", Post, "q", facts{embed: post.URI})
	own := r.put("a", Post, "own", facts{root: post.URI, parent: post.URI})
	post = r.put("a", Post, "p", facts{images: 1})
	r.put("a", Post, "own", facts{root: post.URI, parent: post.URI})
	c := r.counts()
	require.Equal(t, int64(1), c["quote"])
	require.Equal(t, int64(4), c["feed_item"])
	require.Equal(t, int64(1), c["post_embed_image"])
	require.False(t, r.tables.ownThread[post.URI+" "+own.URI].deleted)

	r.tables.delete(post)
	c = r.counts()
	require.Equal(t, int64(0), c["quote"], "quotes of what is gone go")
	require.Equal(t, int64(2), c["feed_item"], "and its reposts leave the feeds")
	require.Equal(t, int64(1), c["repost"], "but are still there")
	r.tables.delete(quote)
	require.Equal(t, int64(1), r.counts()["op_thread_reply"])
}

func TestDeletedAccountTakesAllWithIt(t *testing.T) {
	t.Parallel()
	r := newRig()
	post := r.put("a", Post, "p", facts{})
	r.put("b", Like, "", facts{subject: post.URI})
	mine := r.put("b", Post, "q", facts{embed: post.URI})
	r.put("b", Post, "r", facts{root: mine.URI, parent: mine.URI})
	r.put("b", Follow, "", facts{subject: post.Account.DID})
	r.put("b", Follow, "", facts{subject: post.Account.DID})
	r.tables.deleteAccount(r.account("b"))
	c := r.counts()
	for table, n := range c {
		want := int64(0)
		if table == "record" || table == "post" || table == "feed_item" {
			want = 1
		}
		require.Equal(t, want, n, table)
	}
}

func TestThreadGateRules(t *testing.T) {
	t.Parallel()
	r := newRig()
	root := r.put("owner", Post, "p", facts{mention: []string{"did:plc:mentioned"}})
	list := r.put("owner", List, "l", facts{})
	r.put("owner", Listitem, "", facts{list: list.URI, subject: "did:plc:listed"})
	r.put("owner", Follow, "", facts{subject: "did:plc:followed"})
	r.put("follower", Follow, "", facts{subject: root.Account.DID})
	all := &gateFacts{mention: true, follower: true, following: true, lists: []string{list.URI}}
	for name, gate := range map[string]*gateFacts{
		"": all, "mentioned": {mention: true}, "follower": {follower: true}, "followed": {following: true},
		"listed": {lists: []string{list.URI}},
	} {
		r.put("owner", Threadgate, "p", facts{gated: root.URI, gate: gate})
		for _, who := range []string{"mentioned", "follower", "followed", "listed", "stranger"} {
			reply := r.put(who, Post, "", facts{root: root.URI, parent: root.URI})
			allowed := who == name || (name == "" && who != "stranger")
			require.Equal(t, !allowed, r.tables.posts[reply.URI].violatesGate, "%s under gate for %q", who, name)
		}
		own := r.put("owner", Post, "", facts{root: root.URI, parent: root.URI})
		require.False(t, r.tables.posts[own.URI].violatesGate)
	}
	r.put("owner", Threadgate, "p", facts{gated: root.URI})
	reply := r.put("stranger", Post, "", facts{root: root.URI, parent: root.URI})
	require.False(t, r.tables.posts[reply.URI].violatesGate, "no rules: anyone")
	r.put("owner", Threadgate, "p", facts{gated: root.URI, gate: &gateFacts{}})
	reply = r.put("follower", Post, "", facts{root: root.URI, parent: root.URI})
	require.True(t, r.tables.posts[reply.URI].violatesGate, "an empty list: nobody")
}
