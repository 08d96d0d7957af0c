package bench

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The history that a turn starts from: accounts with posts, of which some are
// liked by all accounts, and some accounts that all follow.
type base struct{ accounts, posts, hotPosts, hotAccounts int }

// usual is large enough for a count of the likes of a popular post to be felt.
var usual = base{accounts: 20000, posts: 40000, hotPosts: 10, hotAccounts: 5}

func letters(seed string) string {
	sum := md5.Sum([]byte(seed))
	return strings.NewReplacer("0", "w", "1", "x", "8", "y", "9", "z").Replace(hex.EncodeToString(sum[:]))
}

// The names are made alike here and in the database.
func baseDID(i int) string { return "did:plc:" + letters("a" + strconv.Itoa(i))[:24] }

func baseCID(name string, i int) string {
	n := name + strconv.Itoa(i)
	return "bafyreia" + (letters(n) + letters(n+"b"))[:50] + "a"
}

func basePost(i, accounts int) ref {
	return ref{
		"at://" + baseDID(i%accounts) + "/app.bsky.feed.post/3k" + letters("p" + strconv.Itoa(i))[:11],
		baseCID("p", i),
	}
}

const baseFunctions = `SET search_path TO bsky, public;
CREATE OR REPLACE FUNCTION pg_temp.letters(s text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT translate(md5(s), '0189', 'wxyz')$$;
CREATE OR REPLACE FUNCTION pg_temp.did(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'did:plc:' || left(pg_temp.letters('a' || i), 24)$$;
CREATE OR REPLACE FUNCTION pg_temp.cid(n text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$SELECT 'bafyreia' || left(pg_temp.letters(n) || pg_temp.letters(n || 'b'), 50) || 'a'$$;
CREATE OR REPLACE FUNCTION pg_temp.uri(i int, collection text, n text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$SELECT 'at://' || pg_temp.did(i) || '/' || collection || '/3k' || left(pg_temp.letters(n), 11)$$;
`

// fill are the statements that write the history as the indexer would have.
func (b base) fill() []string {
	const at = `'2026-07-01T00:00:00.000Z'`
	edge := func(n string, subjects int, kind, table, column, subject string) string {
		return fmt.Sprintf(`CREATE TEMP TABLE e AS SELECT pg_temp.uri(i, 'app.bsky.%[1]s', '%[2]s' || i || '-' || k) AS uri, pg_temp.cid('%[2]s' || i || '-' || k) AS cid,
pg_temp.did(i) AS did, %[4]s AS subject, k FROM generate_series(0, %[3]d) k, generate_series(0, %[5]d) i ORDER BY md5(i || '-' || k);
INSERT INTO record (uri, cid, did, json, "indexedAt", rev) SELECT uri, cid, did, '{"$type":"app.bsky.%[1]s","subject":"' || subject || '","createdAt":"2026-07-01T00:00:00.000Z"}', %[6]s, '3kaaaaaaaaaa2' FROM e;
INSERT INTO %[7]s SELECT uri, cid, did, subject%[8]s, %[6]s, %[6]s FROM e;`, kind, n, subjects-1, subject, b.accounts-1, at, table, column)
	}
	likes := edge("l", b.hotPosts, "feed.like", `"like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")`,
		`, pg_temp.cid('p' || k)`, fmt.Sprintf(`pg_temp.uri(k %% %d, 'app.bsky.feed.post', 'p' || k)`, b.accounts))
	follows := edge("f", b.hotAccounts, "graph.follow", `follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")`,
		``, `pg_temp.did(k)`)
	return []string{baseFunctions + fmt.Sprintf(`
INSERT INTO actor (did, handle, "indexedAt") SELECT pg_temp.did(i), 'user' || i || '.example.com', '2026-08-01T00:00:00.000Z' FROM generate_series(0, %[1]d) i;
INSERT INTO actor_sync (did, "commitCid", "repoRev") SELECT pg_temp.did(i), pg_temp.cid('c' || i), '3kaaaaaaaaaa2' FROM generate_series(0, %[1]d) i;
CREATE TEMP TABLE p AS SELECT i %% %[2]d AS a, pg_temp.uri(i %% %[2]d, 'app.bsky.feed.post', 'p' || i) AS uri, pg_temp.cid('p' || i) AS cid FROM generate_series(0, %[3]d) i;
INSERT INTO record (uri, cid, did, json, "indexedAt", rev) SELECT uri, cid, pg_temp.did(a), '{"$type":"app.bsky.feed.post","text":"an old post","createdAt":"2026-07-01T00:00:00.000Z"}', %[4]s, '3kaaaaaaaaaa2' FROM p;
INSERT INTO post (uri, cid, creator, text, "createdAt", "indexedAt") SELECT uri, cid, pg_temp.did(a), 'an old post', %[4]s, %[4]s FROM p;
INSERT INTO feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") SELECT uri, cid, 'post', uri, pg_temp.did(a), %[4]s FROM p;
%[5]s
INSERT INTO notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt") SELECT pg_temp.did(k %% %[2]d), uri, cid, did, 'like', subject, %[4]s FROM e;
INSERT INTO post_agg (uri, "likeCount") SELECT subject, count(*) FROM e GROUP BY 1;
DROP TABLE e;
%[6]s
INSERT INTO notification (did, "recordUri", "recordCid", author, reason, "sortAt") SELECT subject, uri, cid, did, 'follow', %[4]s FROM e;
INSERT INTO profile_agg (did, "postsCount", "followersCount", "followsCount") SELECT d.did, count(p.uri), coalesce(f.n, 0), %[7]d
FROM (SELECT i, pg_temp.did(i) AS did FROM generate_series(0, %[1]d) i) d LEFT JOIN p ON p.a = d.i LEFT JOIN (SELECT subject, count(*) AS n FROM e GROUP BY 1) f ON f.subject = d.did GROUP BY d.did, f.n;
`, b.accounts-1, b.accounts, b.posts-1, at, likes, follows, b.hotAccounts)}
}
