package bench

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// likesOf makes likes of posts by accounts that have not liked anything yet.
func likesOf(m *mix, posts []ref, n int) []store.Change {
	out := make([]store.Change, n)
	for i := range out {
		m.now = m.now.Add(time.Millisecond)
		e := &event.Event{Type: event.Create, Seq: int64(i + 1), Time: m.stamp(), DID: "did:plc:" + m.letters(24), Commit: "bafyreicommit", Rev: m.tid(), RKey: m.tid()}
		s := posts[m.r.IntN(len(posts))]
		m.record(e, "app.bsky.feed.like", map[string]any{"subject": map[string]any{"uri": s.uri, "cid": s.cid}})
		out[i] = store.Change{Event: e, Live: true}
	}
	return out
}

// fillLikes gives post 0 many likes and the others ten each. The indexes are
// built afterwards: it is faster.
func fillLikes(b base, many int) []string {
	return append(b.fill(), baseFunctions+`DO $$ DECLARE d text; BEGIN
CREATE TEMP TABLE defs AS SELECT pg_get_indexdef(indexrelid) AS def, indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = '"like"'::regclass;
ALTER TABLE "like" DROP CONSTRAINT like_pkey, DROP CONSTRAINT like_unique_subject;
FOR d IN SELECT name FROM defs WHERE name NOT IN ('like_pkey', 'like_unique_subject') LOOP EXECUTE 'DROP INDEX ' || d; END LOOP;
`+fmt.Sprintf(`INSERT INTO "like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
SELECT pg_temp.uri(i + 1000000, 'app.bsky.feed.like', 'x' || i), pg_temp.cid('x' || i), pg_temp.did(i + 1000000), p.uri, p.cid, '2026-07-01T00:00:00.000Z', '2026-07-01T00:00:00.000Z'
FROM generate_series(0, %[2]d) i JOIN (SELECT k, pg_temp.uri(k, 'app.bsky.feed.post', 'p' || k) AS uri, pg_temp.cid('p' || k) AS cid FROM generate_series(0, %[3]d) k) p
ON p.k = CASE WHEN i < %[1]d THEN 0 ELSE 1 + (i - %[1]d) / 10 END;
INSERT INTO post_agg (uri, "likeCount") SELECT subject, count(*) FROM "like" GROUP BY 1;
FOR d IN SELECT def FROM defs LOOP EXECUTE d; END LOOP;
ALTER TABLE "like" ADD CONSTRAINT like_pkey PRIMARY KEY USING INDEX like_pkey, ADD CONSTRAINT like_unique_subject UNIQUE USING INDEX like_unique_subject;
END $$`, many, many+(b.posts-1)*10-1, b.posts-1))
}

// TestPopular compares the cost of likes of a post that very many like with
// those of posts that few like, in turns on one database.
//
//nolint:paralleltest // it measures
func TestPopular(t *testing.T) {
	many, turns := *likes, 24
	if !*measure {
		many, turns = 2000, 2
	}
	b := base{accounts: 500, posts: 500}
	s := startServer(t)
	s.template(t, "popular", fillLikes(b, many)...)
	w := s.database(t, "popular")
	m := newMix(1, 1, b)
	posts := slices.Clone(m.posts)
	cost := func(posts []ref) (all float64) {
		changes := likesOf(m, posts, *size)
		before := s.cpu()
		require.NoError(t, w.applyLane(t.Context(), changes))
		_, err := w.store.FoldCounts(t.Context())
		require.NoError(t, err)
		all, _ = s.cpu().since(before).perRecord(len(changes))
		return all
	}
	for range turns / 2 { // statements get prepared, pages read
		cost(posts[:1])
		cost(posts[1:])
	}
	var hot, cold float64
	for range turns {
		hot += cost(posts[:1]) / float64(turns)
		cold += cost(posts[1:]) / float64(turns)
	}
	t.Logf("µs of CPU a like: %.0f of a post with %d likes, %.0f of one with 10 (%.2f ×)", hot, many, cold, hot/cold)
	if *out != "" {
		require.NoError(t, merge(*out, row{"index_like_of_popular_post", hot, "µs CPU/record", cold, hot / cold}))
	}
}

// TestScale compares two indexers on one database with one.
//
//nolint:paralleltest // it measures
func TestScale(t *testing.T) {
	history := base{accounts: 5000, posts: 10000, hotPosts: 3, hotAccounts: 2}
	if !*measure {
		*n, *rounds = 2000, 1
		history = base{accounts: 200, posts: 400, hotPosts: 3, hotAccounts: 2}
	}
	s := startServer(t)
	s.template(t, "scale", history.fill()...)
	var ratios, rates []float64
	for round := range *rounds {
		changes := newMix(uint64(round), 5000, history).live(*n)
		rate := map[int]float64{}
		for _, indexers := range []int{1, 2} {
			w := s.database(t, "scale")
			stores := []*store.Store{w.store}
			if indexers == 2 {
				stores = append(stores, w.newStore(t))
			}
			start := time.Now()
			w.applyWith(t, stores, changes, 2)
			rate[indexers] = float64(len(changes)) / time.Since(start).Seconds()
			require.Zero(t, w.counter(t, "sluice_store_retries_total"), "transactions were repeated")
			s.close(w)
		}
		t.Logf("records/s on %d cores: one indexer %.0f, two %.0f (%.2f ×)", runtime.NumCPU(), rate[1], rate[2], rate[2]/rate[1])
		ratios, rates = append(ratios, rate[2]/rate[1]), append(rates, rate[2])
	}
	if *out != "" {
		require.NoError(t, merge(*out, row{"index_two_indexers", median(rates), "records/s", median(rates) / median(ratios), median(ratios)}))
	}
}

// TestMemory applies many records and looks at the memory in use on the way.
//
//nolint:paralleltest // it measures
func TestMemory(t *testing.T) {
	total := *memory
	if !*measure {
		total = 2000
	}
	b := base{accounts: 2000, posts: 4000}
	s := startServer(t)
	s.template(t, "memory", b.fill()...)
	w := s.database(t, "memory")
	m := newMix(1, 1, b)
	posts := slices.Clone(m.posts)
	const steps = 20
	var heap []float64
	for range steps {
		var g errgroup.Group
		for lane := range *lanes {
			own := &mix{r: rand.New(rand.NewPCG(m.r.Uint64(), uint64(lane))), now: m.now}
			g.Go(func() error {
				for left := total / steps / *lanes; left > 0; left -= *size {
					if err := w.applyLane(t.Context(), likesOf(own, posts, min(left, *size))); err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		_, err := w.store.FoldCounts(t.Context())
		require.NoError(t, err)
		m.now = m.now.Add(time.Hour)
		runtime.GC()
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		heap = append(heap, float64(ms.HeapAlloc)/(1<<20))
	}
	first, second := slices.Max(heap[:steps/2]), slices.Max(heap[steps/2:])
	text, err := json.Marshal(heap)
	require.NoError(t, err)
	t.Logf("MiB of live heap after each twentieth of %d records: %s; at most %.1f in the first half, %.1f in the second", total, text, first, second)
	if *out != "" {
		require.NoError(t, merge(*out, row{"index_memory", second, "MiB", first, second / first}))
	}
	if *measure {
		require.LessOrEqual(t, second, first*1.2+2, "memory grows")
	}
}
