package store

import (
	"context"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Row is a record as the table has it.
type Row struct {
	URI string
	CID string
	// Rev is empty for rows that another system wrote. What the indexer puts
	// behind it, to tell a snapshot from an event, is left out.
	Rev string
}

// Records yields the rows of an account in the order of the bytes of their uri,
// which is that of the tree of its repository. The statement runs when the
// first is asked for.
func (s *Store) Records(ctx context.Context, did string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		rows, err := s.pool.Query(ctx, `SELECT uri, cid, left(coalesce(rev, ''), 13) FROM `+s.schema+`.record WHERE did = $1 ORDER BY uri COLLATE "C"`, did)
		if err != nil {
			yield(Row{}, s.wrap("read the records of "+did, err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var r Row
			if err := rows.Scan(&r.URI, &r.CID, &r.Rev); err != nil {
				yield(Row{}, s.wrap("read the records of "+did, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Row{}, s.wrap("read the records of "+did, err))
		}
	}
}

// DeletedAfter lists the records of an account that were deleted after a rev.
func (s *Store) DeletedAfter(ctx context.Context, did, rev string) (map[string]bool, error) {
	prefix := "at://" + did + "/"
	rows, err := s.pool.Query(ctx, `SELECT uri FROM `+s.own+`.tombstone WHERE uri >= $1 COLLATE "C" AND uri < $2 COLLATE "C" AND left(rev, 13) > $3 COLLATE "C"`,
		prefix, strings.TrimSuffix(prefix, "/")+"0", rev)
	if err != nil {
		return nil, s.wrap("read the deletions of "+did, err)
	}
	out := map[string]bool{}
	var uri string
	_, err = pgx.ForEachRow(rows, []any{&uri}, func() error { out[uri] = true; return nil })
	return out, s.wrap("read the deletions of "+did, err)
}
