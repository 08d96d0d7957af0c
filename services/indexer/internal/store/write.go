package store

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/services/indexer/internal/derive"
)

// writes are the writing statements with the names of the schemas in them.
type writes struct {
	names                                   *strings.Replacer
	recUpdate                               string
	recTouch, notifDelete, notifInsert      string
	tombs, syncs, actorStatus, accounts     string
	checks, opThread, dups, flags, records  string
	deltas, rechecks, waits, actors, quotes string
	// waitsAgain has posts that did not wait for a key before judged once more:
	// what they wait for may be written beside this.
	waitsAgain                              string
	feeds, posts, embedExternal, embedVideo string
	embedImage, embedGallery, embedRecord   string
	settle                                  string
	edges                                   map[derive.Kind]string
	rows                                    map[derive.Kind]string
}

const doNothing = "ON CONFLICT DO NOTHING"

func newWrites(n *strings.Replacer) *writes {
	w := &writes{names: n, edges: map[derive.Kind]string{}, rows: map[derive.Kind]string{}}
	w.recTouch = n.Replace(`UPDATE {s}.record r SET rev = u.rev FROM unnest($1::text[], $2::text[]) u(uri, rev) WHERE r.uri = u.uri`)
	w.notifDelete = n.Replace(`DELETE FROM {s}.notification WHERE id = ANY($1)`)
	w.notifInsert = n.Replace(`INSERT INTO {s}.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
SELECT u.did, u.uri, u.cid, u.author, u.reason, u.subject, u.at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
u(did, uri, cid, author, reason, subject, at, thread)
WHERE u.subject IS NULL OR NOT EXISTS (SELECT 1 FROM {s}.thread_mute m WHERE m."mutedByDid" = u.did
AND m."rootUri" = coalesce(u.thread, (SELECT p."replyRoot" FROM {s}.post p WHERE p.uri = u.subject), u.subject))`)
	w.settle = n.Replace(`DELETE FROM {o}.waiting WHERE uri = ANY($1)`)
	w.actorStatus = n.Replace(`UPDATE {s}.actor a SET "upstreamStatus" = u.status FROM unnest($1::text[], $2::text[]) u(did, status) WHERE a.did = u.did`)
	w.flags = n.Replace(`UPDATE {s}.post p SET "hasThreadGate" = u.t::boolean, "hasPostGate" = u.q::boolean, "invalidReplyRoot" = u.i::boolean,
"violatesThreadGate" = u.v::boolean, "violatesEmbeddingRules" = u.e::boolean
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) u(uri, t, q, i, v, e) WHERE p.uri = u.uri`)

	w.tombs = n.Replace(insertSQL("{o}.tombstone", []string{"uri", "rev", "at", "was::boolean", "born", "root", "parent"},
		"ON CONFLICT (uri) DO UPDATE SET rev = EXCLUDED.rev, at = EXCLUDED.at, was = EXCLUDED.was, born = EXCLUDED.born, root = EXCLUDED.root, parent = EXCLUDED.parent, written = EXCLUDED.written"))
	w.syncs = n.Replace(insertSQL("{s}.actor_sync AS a", []string{"did", `"commitCid"`, `"repoRev"`},
		`ON CONFLICT (did) DO UPDATE SET "commitCid" = EXCLUDED."commitCid", "repoRev" = EXCLUDED."repoRev"
WHERE a."repoRev" IS NULL OR a."repoRev" COLLATE "C" < EXCLUDED."repoRev" COLLATE "C"`))
	w.actors = n.Replace(insertSQL("{s}.actor", []string{"did", `"indexedAt"`, `"upstreamStatus"`}, doNothing))
	w.accounts = n.Replace(insertSQL("{o}.account", []string{"did", "status", "status_at"},
		"ON CONFLICT (did) DO UPDATE SET status = EXCLUDED.status, status_at = EXCLUDED.status_at"))
	w.checks = n.Replace(insertSQL("{o}.handle_check", []string{"did", "at", "force::boolean", "fresh::boolean", "backfill::boolean"}, doNothing))
	w.records = n.Replace(insertSQL("{s}.record", []string{"uri", "cid", "did", "json", `"indexedAt"`, "rev"}, ""))
	w.recUpdate = n.Replace(`UPDATE {s}.record r SET cid = u.cid, json = u.json, "indexedAt" = u.at, rev = u.rev
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) u(uri, cid, json, at, rev) WHERE r.uri = u.uri`)
	w.opThread = n.Replace(insertSQL("{s}.op_thread_reply", []string{`"rootUri"`, `"parentUri"`, "uri", `"deletedAt"`},
		`ON CONFLICT ("rootUri", uri) DO UPDATE SET "parentUri" = EXCLUDED."parentUri", "deletedAt" = EXCLUDED."deletedAt"`))
	w.dups = n.Replace(insertSQL("{s}.duplicate_record", []string{"uri", "cid", `"duplicateOf"`, `"indexedAt"`},
		`ON CONFLICT (uri) DO UPDATE SET cid = EXCLUDED.cid, "duplicateOf" = EXCLUDED."duplicateOf", "indexedAt" = EXCLUDED."indexedAt"`))
	w.deltas = n.Replace(insertSQL("{o}.count_delta", []string{"kind::smallint", "key", "n::integer"}, ""))
	w.rechecks = n.Replace(insertSQL("{o}.recheck", []string{"uri", "what::smallint", "rev"}, ""))
	w.waits = n.Replace(insertSQL("{o}.waiting", []string{"key", "uri"}, doNothing))
	w.waitsAgain = n.Replace("WITH w AS (" + insertSQL("{o}.waiting", []string{"key", "uri"}, doNothing) +
		" RETURNING uri, key) INSERT INTO {o}.recheck (uri, what, rev) SELECT DISTINCT uri, CASE left(key, 2) WHEN 'q:' THEN " + strconv.Itoa(recheckEmbed) +
		" WHEN '#:' THEN " + strconv.Itoa(recheckGate|recheckParent|recheckEmbed) + " ELSE " + strconv.Itoa(recheckGate|recheckParent) + " END, '' FROM w")
	w.feeds = n.Replace(insertSQL("{s}.feed_item", []string{"uri", "cid", "type", `"postUri"`, `"originatorDid"`, `"sortAt"`}, ""))
	w.quotes = n.Replace(insertSQL("{s}.quote", []string{"uri", "cid", "subject", `"subjectCid"`, `"createdAt"`, `"indexedAt"`}, ""))
	w.posts = n.Replace(insertSQL("{s}.post", columnNames(postColumns), ""))
	w.embedImage = n.Replace(insertSQL("{s}.post_embed_image", []string{`"postUri"`, "position", `"imageCid"`, "alt"}, ""))
	w.embedGallery = n.Replace(insertSQL("{s}.post_embed_gallery_image", []string{`"postUri"`, "position", `"imageCid"`, "alt"}, ""))
	w.embedExternal = n.Replace(insertSQL("{s}.post_embed_external", []string{`"postUri"`, "uri", "title", "description", `"thumbCid"`}, ""))
	w.embedVideo = n.Replace(insertSQL("{s}.post_embed_video", []string{`"postUri"`, `"videoCid"`, "alt"}, ""))
	w.embedRecord = n.Replace(insertSQL("{s}.post_embed_record", []string{`"postUri"`, `"embedUri"`, `"embedCid"`}, ""))
	for k, t := range edgeTables {
		w.edges[k] = n.Replace(insertSQL("{s}."+t.name, columnNames(t.columns), ""))
	}
	for k, t := range rowTables {
		w.rows[k] = n.Replace(insertSQL("{s}."+t.name, columnNames(t.columns), ""))
	}
	return w
}

// insertSQL inserts rows given as one text array for each column. A column name
// may carry a cast: "n::integer".
func insertSQL(table string, columns []string, conflict string) string {
	var names, values, arrays, aliases []string
	for i, c := range columns {
		name, cast, found := strings.Cut(c, "::")
		alias := "c" + strconv.Itoa(i)
		value := "u." + alias
		if found {
			value += "::" + cast
		}
		names, values = append(names, name), append(values, value)
		arrays, aliases = append(arrays, fmt.Sprintf("$%d::text[]", i+1)), append(aliases, alias)
	}
	return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") +
		" FROM unnest(" + strings.Join(arrays, ", ") + ") u(" + strings.Join(aliases, ", ") + ") " + conflict
}

func columnNames[R any](columns []column[R]) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
		if c.cast != "" {
			names[i] += "::" + c.cast
		}
	}
	return names
}

// rowsOf turns rows into one array for each column.
func rowsOf[R any](columns []column[R], rows []R) []any {
	args := make([]any, len(columns))
	for i, c := range columns {
		args[i] = texts(rows, c.of)
	}
	return args
}

// texts is one column.
func texts[R any](rows []R, of func(R) *string) []*string {
	out := make([]*string, len(rows))
	for i, r := range rows {
		out[i] = of(r)
	}
	return out
}

func boolText(b *bool) *string {
	if b == nil {
		return nil
	}
	return new(strconv.FormatBool(*b))
}

// table collects the rows of one statement.
type table struct{ columns [][]*string }

func (t *table) add(values ...*string) {
	if t.columns == nil {
		t.columns = make([][]*string, len(values))
	}
	for i, v := range values {
		t.columns[i] = append(t.columns[i], v)
	}
}

func (t *table) args() []any {
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		args[i] = c
	}
	return args
}

// statements queues the writes of a batch.
type statements struct {
	b    *pgx.Batch
	rows int64
	// tolerant passes over rows that are there although nothing says so: the
	// tables were not consistent. It costs a look into every unique index.
	tolerant bool
}

// fresh inserts rows that are known not to be there.
func (st *statements) fresh(sql string, args ...any) {
	if st.tolerant {
		sql += doNothing
	}
	st.exec(sql, args...)
}

func (st *statements) insertFresh(sql string, t *table) {
	if len(t.columns) > 0 {
		st.fresh(sql, t.args()...)
	}
}

func (st *statements) exec(sql string, args ...any) {
	st.b.Queue(sql, args...).Exec(func(tag pgconn.CommandTag) error {
		st.rows += tag.RowsAffected()
		return nil
	})
}

func (st *statements) insert(sql string, t *table) {
	if len(t.columns) > 0 {
		st.exec(sql, t.args()...)
	}
}

func (st *statements) delete(n *strings.Replacer, table, column string, keys []string) {
	if len(keys) > 0 {
		st.exec(n.Replace("DELETE FROM {s}."+table+" WHERE "+column+" = ANY($1)"), keys)
	}
}

var postColumns = []column[*postRow]{
	{name: "uri", of: func(p *postRow) *string { return &p.URI }},
	{name: "cid", of: func(p *postRow) *string { return &p.CID }},
	{name: "creator", of: func(p *postRow) *string { return &p.Creator }},
	{name: "text", of: func(p *postRow) *string { return &p.Full.Post.Text }},
	{name: `"replyRoot"`, of: func(p *postRow) *string { return refURI(p.Full.Post.ReplyRoot) }},
	{name: `"replyRootCid"`, of: func(p *postRow) *string { return refCID(p.Full.Post.ReplyRoot) }},
	{name: `"replyParent"`, of: func(p *postRow) *string { return refURI(p.Full.Post.ReplyParent) }},
	{name: `"replyParentCid"`, of: func(p *postRow) *string { return refCID(p.Full.Post.ReplyParent) }},
	{name: `"createdAt"`, of: func(p *postRow) *string { return &p.Full.CreatedAt }},
	{name: `"indexedAt"`, of: func(p *postRow) *string { return &p.Full.IndexedAt }},
	{name: "langs", cast: "jsonb", of: func(p *postRow) *string { return p.Full.Post.Langs }},
	{name: "tags", cast: "jsonb", of: func(p *postRow) *string { return p.Full.Post.Tags }},
	{name: `"invalidReplyRoot"`, cast: "boolean", of: func(p *postRow) *string { return boolText(p.InvalidReplyRoot) }},
	{name: `"violatesThreadGate"`, cast: "boolean", of: func(p *postRow) *string { return boolText(p.ViolatesThreadGate) }},
	{name: `"violatesEmbeddingRules"`, cast: "boolean", of: func(p *postRow) *string { return boolText(p.ViolatesEmbedding) }},
	{name: `"hasThreadGate"`, cast: "boolean", of: func(p *postRow) *string { return boolText(p.HasThreadGate) }},
	{name: `"hasPostGate"`, cast: "boolean", of: func(p *postRow) *string { return boolText(p.HasPostGate) }},
}

func refURI(r *derive.Ref) *string {
	if r == nil {
		return nil
	}
	return &r.URI
}

func refCID(r *derive.Ref) *string {
	if r == nil {
		return nil
	}
	return &r.CID
}
