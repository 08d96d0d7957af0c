package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A row about a post with replies, feed items or quotes becomes a row for each
// of them, however many there are: they are judged some at a time.
const (
	expandReplies = `WITH RECURSIVE down AS (
SELECT u.rev AS rev, u.uri, false AS gone, 0 AS depth FROM unnest($1::text[], $2::text[]) u(uri, rev)
UNION SELECT down.rev, below.uri, below.gone, down.depth + 1 FROM down CROSS JOIN LATERAL (` + repliesBelow + `) below
WHERE down.depth < 4 OR down.gone AND down.depth <= $4)
INSERT INTO {o}.recheck (uri, what, rev) SELECT DISTINCT d.uri, $3::smallint, d.rev FROM down d JOIN {s}.post p ON p.uri = d.uri WHERE d.depth > 0`
	expandFeeds = `INSERT INTO {o}.recheck (uri, what, rev) SELECT f.uri, $3::smallint, u.rev FROM unnest($1::text[], $2::text[]) u(uri, rev)
JOIN {s}.feed_item f ON f."postUri" = u.uri AND f.uri <> u.uri`
	expandQuotes = `INSERT INTO {o}.recheck (uri, what, rev) SELECT q.uri, $3::smallint, u.rev FROM unnest($1::text[], $2::text[]) u(uri, rev)
JOIN {s}.quote q ON q.subject = u.uri AND q.uri <> u.uri`
	// older lists the rows of a table with their place in time, and the deletion
	// of what they are about: since the row was found it may be about another post.
	older = `SELECT f.uri, f.%[2]s, coalesce(r.rev, ''), f."sortAt", t.rev FROM {s}.%[1]s f
LEFT JOIN {s}.record r ON r.uri = f.uri JOIN {o}.tombstone t ON t.uri = f.%[2]s COLLATE "C" WHERE f.uri = ANY($1)`
)

// pairs are uris, each with a revision or another uri, as two arrays.
type pairs struct{ uris, with []string }

func (p *pairs) add(uri, with string) { p.uris, p.with = append(p.uris, uri), append(p.with, with) }

// expand finds what the taken rows are about, and locks its repositories. Rows
// about many posts are replaced by rows about one.
func (s *Store) expand(ctx context.Context, conn batcher, t *taken) (*locks, error) {
	wait, err := s.lockFree(ctx, conn, t)
	if err != nil {
		return nil, err
	}
	var above, gone pairs
	var feeds, quotes []string
	for _, r := range t.rows {
		switch r.What {
		case recheckGone:
			gone.add(r.URI, r.Rev)
			above.add(r.URI, r.Rev)
		case recheckDescend:
			above.add(r.URI, r.Rev)
		case recheckFeed:
			feeds = append(feeds, r.URI)
		case recheckQuote:
			quotes = append(quotes, r.URI)
		default:
			t.aim(r)
		}
	}
	b := &pgx.Batch{}
	spread := func(sql string, of pairs, args ...any) {
		if len(of.uris) > 0 {
			b.Queue(s.q.names.Replace(sql), append([]any{of.uris, of.with}, args...)...)
		}
	}
	spread(expandReplies, above, recheckParent, maxGone)
	spread(expandFeeds, gone, recheckFeed)
	spread(expandQuotes, gone, recheckQuote)
	s.findOlder(b, "feed_item", `"postUri"`, feeds, &t.feeds)
	s.findOlder(b, "quote", "subject", quotes, &t.quotes)
	if err := read(ctx, conn, b); err != nil {
		return nil, err
	}
	return wait, nil
}

// findOlder queues a look for the rows that are older than the deletion of the
// post that a column names. Those whose lock is waited for after this may be
// about another post by then.
func (s *Store) findOlder(b *pgx.Batch, table, column string, uris []string, into *pairs) {
	if len(uris) == 0 {
		return
	}
	b.Queue(s.q.names.Replace(fmt.Sprintf(older, table, column)), uris).Query(func(rows pgx.Rows) error {
		return scanAll(rows, func(row pgx.CollectableRow) error {
			var uri, post, rev, sortAt, deleted string
			err := row.Scan(&uri, &post, &rev, &sortAt, &deleted)
			if stamp(rev, sortAt) < strings.TrimSuffix(deleted, markReplaced) {
				into.add(uri, post)
			}
			return err
		})
	})
}
