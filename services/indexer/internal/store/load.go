package store

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// queries are the reading statements with the names of the schemas in them.
type queries struct {
	names                                      *strings.Replacer
	recs, refs, tombs, accounts, posts, chains string
	children, dups, dupsOf, notifs, waits      string
	lateReplies, lateQuotes, opThread, actors  string
	quotes                                     string
	edgeByURI, edgeByKey                       map[string]string
	writes                                     *writes
}

const postSelect = `SELECT p.uri, p.cid, p.creator, coalesce(p."replyRoot", ''), coalesce(p."replyParent", ''), p."invalidReplyRoot",
p."violatesThreadGate", p."violatesEmbeddingRules", p."hasThreadGate", p."hasPostGate", p."sortAt", coalesce(r.rev, '')`

// repliesBelow are the replies to down.uri, those that were deleted too.
const repliesBelow = `SELECT p.uri, false AS gone FROM {s}.post p WHERE p."replyParent" = down.uri
UNION ALL SELECT t.uri COLLATE "default", true FROM {o}.tombstone t WHERE t.parent = down.uri AND t.parent <> ''`

func newQueries(schema string) queries {
	n := schemaNames(schema)
	q := queries{
		names: n, edgeByURI: map[string]string{}, edgeByKey: map[string]string{},
		recs:     `SELECT uri, cid, did, "indexedAt", coalesce(rev, '') FROM {s}.record WHERE uri = ANY($1)`,
		refs:     `SELECT uri, json, "indexedAt", coalesce(rev, '') FROM {s}.record WHERE uri = ANY($1)`,
		tombs:    `SELECT uri, rev, at, was, born, root, parent FROM {o}.tombstone WHERE uri = ANY($1)`,
		accounts: `SELECT did, status, status_at, deleted_rev, deleted_at FROM {o}.account WHERE did = ANY($1)`,
		posts:    postSelect + ` FROM {s}.post p LEFT JOIN {s}.record r ON r.uri = p.uri WHERE p.uri = ANY($1)`,
		chains: `WITH RECURSIVE up AS (
SELECT p.uri, p."replyParent", 1 AS height FROM {s}.post p WHERE p.uri = ANY($1)
UNION SELECT p.uri, p."replyParent", up.height + 1 FROM up JOIN {s}.post p ON p.uri = up."replyParent" WHERE up.height < 4)
` + postSelect + `, a.status, coalesce(a.status_at, ''), coalesce(a.deleted_rev, ''), coalesce(a.deleted_at, '')
FROM (SELECT DISTINCT uri FROM up) u JOIN {s}.post p ON p.uri = u.uri LEFT JOIN {s}.record r ON r.uri = p.uri LEFT JOIN {o}.account a ON a.did = p.creator COLLATE "C"`,
		children: `SELECT k FROM unnest($1::text[]) k WHERE EXISTS (SELECT 1 FROM {s}.post p WHERE p."replyParent" = k)
OR EXISTS (SELECT 1 FROM {o}.tombstone t WHERE t.parent = k AND t.parent <> '')`,
		dups: `SELECT d.uri, d.cid, d."duplicateOf", d."indexedAt", '', '' FROM {s}.duplicate_record d WHERE d.uri = ANY($1)`,
		dupsOf: `SELECT d.uri, r.cid, d."duplicateOf", d."indexedAt", r.json, coalesce(r.rev, '') FROM {s}.duplicate_record d
JOIN {s}.record r ON r.uri = d.uri WHERE d."duplicateOf" = ANY($1)`,
		notifs: `SELECT id, did, "recordUri", "recordCid", author, reason, coalesce("reasonSubject", ''), "sortAt" FROM {s}.notification WHERE "recordUri" = ANY($1)`,
		waits:  `SELECT key, uri FROM {o}.waiting WHERE key = ANY($1)`,
		lateReplies: `WITH RECURSIVE down AS (
SELECT k AS root, k AS uri FROM unnest($1::text[]) k
UNION SELECT down.root, below.uri FROM down CROSS JOIN LATERAL (` + repliesBelow + `) below)
SELECT d.root, p.uri, coalesce(r.rev, ''), p."sortAt" FROM down d JOIN {s}.post p ON p.uri = d.uri AND p."replyRoot" = d.root
LEFT JOIN {s}.record r ON r.uri = p.uri`,
		lateQuotes: `SELECT q.subject, q.uri, coalesce(r.rev, ''), q."sortAt" FROM {s}.quote q LEFT JOIN {s}.record r ON r.uri = q.uri WHERE q.subject = ANY($1)`,
		opThread:   `SELECT "rootUri", "parentUri", uri, "deletedAt" FROM {s}.op_thread_reply WHERE ("rootUri", uri) IN (SELECT * FROM unnest($1::text[], $2::text[]))`,
		quotes:     `SELECT uri, subject FROM {s}.quote WHERE uri = ANY($1)`,
		actors:     `SELECT did, handle, "indexedAt", "upstreamStatus" FROM {s}.actor WHERE did = ANY($1)`,
		writes:     newWrites(n),
	}
	for _, p := range []*string{
		&q.recs, &q.refs, &q.tombs, &q.accounts, &q.posts, &q.chains, &q.children, &q.dups, &q.dupsOf, &q.notifs, &q.waits,
		&q.lateReplies, &q.lateQuotes, &q.opThread, &q.actors, &q.quotes,
	} {
		*p = n.Replace(*p)
	}
	for _, t := range edgeTables {
		head := "SELECT t.uri, t.cid, t.creator, t." + t.subject + ", " + t.read + `, t."createdAt", t."indexedAt", coalesce(r.rev, '') FROM {s}.` + t.name + " t "
		tail := " LEFT JOIN {s}.record r ON r.uri = t.uri"
		q.edgeByURI[t.name] = n.Replace(head + tail + " WHERE t.uri = ANY($1)")
		q.edgeByKey[t.name] = n.Replace(head + "JOIN unnest($1::text[], $2::text[]) k(a, b) ON t." + t.first + " = k.a AND t." + t.second + " = k.b" + tail)
	}
	return q
}

// load queues the reads of everything that is missing in the cache.
func (c *cache) load(q *queries, b *pgx.Batch) {
	loadRows(b, q.recs, c.recs.take(), func(row pgx.CollectableRow) error {
		var r recRow
		err := row.Scan(&r.URI, &r.CID, &r.DID, &r.IndexedAt, &r.Rev)
		c.recs.have[r.URI] = &r
		return err
	})
	loadRows(b, q.refs, c.refs.take(), func(row pgx.CollectableRow) error {
		var uri string
		var r refRow
		err := row.Scan(&uri, &r.JSON, &r.IndexedAt, &r.Rev)
		c.refs.have[uri] = &r
		return err
	})
	loadRows(b, q.tombs, c.tombs.take(), func(row pgx.CollectableRow) error {
		var uri string
		var t tombRow
		err := row.Scan(&uri, &t.Rev, &t.At, &t.Was, &t.Born, &t.Root, &t.Parent)
		t.Rev, t.Replaced = strings.CutSuffix(t.Rev, markReplaced)
		c.tombs.have[uri] = t
		return err
	})
	loadRows(b, q.accounts, c.accounts.take(), func(row pgx.CollectableRow) error {
		var did string
		var a accountRow
		err := row.Scan(&did, &a.Status, &a.StatusAt, &a.DeletedRev, &a.DeletedAt)
		c.accounts.have[did] = a
		return err
	})
	loadRows(b, q.actors, c.actors.take(), func(row pgx.CollectableRow) error {
		var did string
		var a actorRow
		err := row.Scan(&did, &a.Handle, &a.IndexedAt, &a.Status)
		c.actors.have[did] = &a
		return err
	})
	c.loadPosts(q, b)
	c.loadEdges(q, b)
	c.loadDerived(q, b)
}

func (c *cache) loadPosts(q *queries, b *pgx.Batch) {
	firsts := c.chains.take()
	if len(firsts) > 0 {
		for _, uri := range firsts {
			delete(c.posts.miss, uri)
		}
		b.Queue(q.chains, firsts).Query(func(rows pgx.Rows) error {
			if err := scanAll(rows, c.scanAncestor); err != nil {
				return err
			}
			c.endChains(firsts)
			return nil
		})
	}
	loadRows(b, q.posts, c.posts.take(), c.scanPost)
	loadRows(b, q.children, c.children.take(), func(row pgx.CollectableRow) error {
		var uri string
		err := row.Scan(&uri)
		c.children.have[uri] = struct{}{}
		return err
	})
	loadRows(b, q.lateReplies, c.lateReps.take(), func(row pgx.CollectableRow) error { return scanLate(row, &c.lateReps) })
	loadRows(b, q.lateQuotes, c.lateQuos.take(), func(row pgx.CollectableRow) error { return scanLate(row, &c.lateQuos) })
}

func (c *cache) scanPost(row pgx.CollectableRow) error {
	var p postRow
	var rev string
	err := row.Scan(p.targets(&rev)...)
	c.keepPost(&p, rev)
	return err
}

// scanAncestor takes a post with the account of its author, who may be told of
// a reply.
func (c *cache) scanAncestor(row pgx.CollectableRow) error {
	var p postRow
	var rev string
	var a accountRow
	err := row.Scan(append(p.targets(&rev), &a.Status, &a.StatusAt, &a.DeletedRev, &a.DeletedAt)...)
	c.keepPost(&p, rev)
	c.accounts.have[p.Creator] = a
	return err
}

// targets are where the columns of postSelect go.
func (p *postRow) targets(rev *string) []any {
	return []any{
		&p.URI, &p.CID, &p.Creator, &p.ReplyRoot, &p.ReplyParent, &p.InvalidReplyRoot, &p.ViolatesThreadGate,
		&p.ViolatesEmbedding, &p.HasThreadGate, &p.HasPostGate, &p.SortAt, rev,
	}
}

func (c *cache) keepPost(p *postRow, rev string) {
	p.Stamp, p.Latest = stamp(rev, p.SortAt), revBase(rev)
	c.posts.have[p.URI] = p
}

func scanLate(row pgx.CollectableRow, l *lookup[[]lateRow]) error {
	var subject, uri, rev, sortAt string
	err := row.Scan(&subject, &uri, &rev, &sortAt)
	l.have[subject] = append(l.have[subject], lateRow{URI: uri, Stamp: stamp(rev, sortAt)})
	return err
}

func (c *cache) loadEdges(q *queries, b *pgx.Batch) {
	for kind, e := range c.edges {
		t := edgeTables[kind]
		scan := func(put func(*edgeRow)) func(pgx.CollectableRow) error {
			return func(row pgx.CollectableRow) error {
				r := edgeRow{Kind: kind}
				err := row.Scan(&r.URI, &r.CID, &r.Creator, &r.Row.Subject, &r.Row.SubjectCID, &r.Row.Via, &r.Row.ViaCID, &r.Row.List,
					&r.Row.Handle, &r.Row.DisplayName, &r.CreatedAt, &r.IndexedAt, &r.Rev)
				put(&r)
				return err
			}
		}
		loadRows(b, q.edgeByURI[t.name], e.byURI.take(), scan(func(r *edgeRow) { e.byURI.have[r.URI] = r }))
		if keys := e.byKey.take(); len(keys) > 0 {
			first, second := splitKeys(keys)
			put := scan(func(r *edgeRow) { e.byKey.have[r.key()] = r })
			b.Queue(q.edgeByKey[t.name], first, second).Query(func(rows pgx.Rows) error { return scanAll(rows, put) })
		}
	}
}

func (c *cache) loadDerived(q *queries, b *pgx.Batch) {
	scanDup := func(put func(*dupRow)) func(pgx.CollectableRow) error {
		return func(row pgx.CollectableRow) error {
			var d dupRow
			err := row.Scan(&d.URI, &d.CID, &d.Of, &d.IndexedAt, &d.JSON, &d.Rev)
			put(&d)
			return err
		}
	}
	loadRows(b, q.dups, c.dups.take(), scanDup(func(d *dupRow) { c.dups.have[d.URI] = d }))
	loadRows(b, q.dupsOf, c.dupsOf.take(), scanDup(func(d *dupRow) { c.dupsOf.have[d.Of] = append(c.dupsOf.have[d.Of], d) }))
	loadRows(b, q.notifs, c.notifs.take(), func(row pgx.CollectableRow) error {
		var n notifRow
		err := row.Scan(&n.ID, &n.DID, &n.RecordURI, &n.RecordCID, &n.Author, &n.Reason, &n.Subject, &n.SortAt)
		c.notifs.have[n.RecordURI] = append(c.notifs.have[n.RecordURI], n)
		return err
	})
	loadRows(b, q.quotes, c.quotes.take(), func(row pgx.CollectableRow) error {
		var r quoteRow
		err := row.Scan(&r.URI, &r.Subject)
		c.quotes.have[r.URI] = &r
		return err
	})
	loadRows(b, q.waits, c.waits.take(), func(row pgx.CollectableRow) error {
		var key, uri string
		err := row.Scan(&key, &uri)
		c.waits.have[key] = append(c.waits.have[key], uri)
		return err
	})
	if keys := c.opThread.take(); len(keys) > 0 {
		roots, uris := splitKeys(keys)
		b.Queue(q.opThread, roots, uris).Query(func(rows pgx.Rows) error {
			return scanAll(rows, func(row pgx.CollectableRow) error {
				var o opThreadRow
				err := row.Scan(&o.Root, &o.Parent, &o.URI, &o.DeletedAt)
				c.opThread.have[o.Root+" "+o.URI] = []opThreadRow{o}
				return err
			})
		})
	}
}

// loadRows queues one read by an array of keys, unless there are none.
func loadRows(b *pgx.Batch, sql string, keys []string, scan func(pgx.CollectableRow) error) {
	if len(keys) == 0 {
		return
	}
	b.Queue(sql, keys).Query(func(rows pgx.Rows) error { return scanAll(rows, scan) })
}

func scanAll(rows pgx.Rows, scan func(pgx.CollectableRow) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// read runs the queued reads.
func read(ctx context.Context, conn batcher, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	return conn.SendBatch(ctx, b).Close()
}

// batcher sends several statements in one round trip.
type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}
