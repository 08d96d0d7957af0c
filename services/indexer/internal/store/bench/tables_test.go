package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// workbench is a database of one turn.
type workbench struct {
	pool   *pgxpool.Pool
	schema string
	store  *store.Store
}

func openPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// columns of the filled tables that are not generated.
func (w *workbench) columns(t *testing.T) map[string][]string {
	t.Helper()
	rows, err := w.pool.Query(t.Context(), `SELECT table_name::text, array_agg(quote_ident(column_name)::text ORDER BY ordinal_position)
FROM information_schema.columns WHERE table_schema = $1 AND is_generated = 'NEVER' AND table_name NOT LIKE 'kysely%' GROUP BY 1`, w.schema)
	require.NoError(t, err)
	out := map[string][]string{}
	var name string
	var cols []string
	_, err = pgx.ForEachRow(rows, []any{&name, &cols}, func() error {
		out[name] = append([]string{}, cols...)
		return nil
	})
	require.NoError(t, err)
	return out
}

// copyBack takes the rows out, empties the tables and times COPY of the rows
// into them.
func (w *workbench) copyBack(t *testing.T, records int) float64 {
	t.Helper()
	data := map[string]*bytes.Buffer{}
	cols := w.columns(t)
	conn, err := w.pool.Acquire(t.Context())
	require.NoError(t, err)
	for name, c := range cols {
		var b bytes.Buffer
		tag, err := conn.Conn().PgConn().CopyTo(t.Context(), &b, "COPY "+w.table(name)+" ("+strings.Join(c, ", ")+") TO STDOUT (FORMAT binary)")
		if err == nil && tag.RowsAffected() > 0 {
			data[name] = &b
		}
	}
	for name := range data {
		_, err := conn.Exec(t.Context(), "TRUNCATE "+w.table(name)+" CASCADE")
		require.NoError(t, err)
	}
	conn.Release()
	start := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(*lanes)
	for name, b := range data {
		g.Go(func() error {
			conn, err := w.pool.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			_, err = conn.Conn().PgConn().CopyFrom(ctx, b, "COPY "+w.table(name)+" ("+strings.Join(cols[name], ", ")+") FROM STDIN (FORMAT binary)")
			return err
		})
	}
	require.NoError(t, g.Wait())
	return float64(records) / time.Since(start).Seconds()
}

func (w *workbench) table(name string) string { return pgx.Identifier{w.schema, name}.Sanitize() }

// oneByOne does the least of the work of an indexer that sends one statement
// after the other and counts again after each event, on full tables.
func (w *workbench) oneByOne(t *testing.T, changes []store.Change) float64 {
	t.Helper()
	sql := func(s string) string { return strings.ReplaceAll(s, "{s}", pgx.Identifier{w.schema}.Sanitize()) }
	start := time.Now()
	for i, c := range changes {
		e := *c.Event
		e.RKey += "b"
		if e.Type != event.Create {
			continue
		}
		for _, q := range statements(&e, i) {
			_, err := w.pool.Exec(context.Background(), sql(q.sql), q.args...)
			require.NoError(t, err)
		}
	}
	return float64(len(changes)) / time.Since(start).Seconds()
}

type statement struct {
	sql  string
	args []any
}

func statements(e *event.Event, _ int) []statement {
	var rec struct {
		Text    string          `json:"text"`
		Subject json.RawMessage `json:"subject"`
	}
	_ = json.Unmarshal(e.Record, &rec)
	var subject struct{ URI, CID string }
	_ = json.Unmarshal(rec.Subject, &subject)
	var did string
	_ = json.Unmarshal(rec.Subject, &did)
	uri, at := e.URI(), e.Time
	out := []statement{
		{`INSERT INTO {s}.actor (did, "indexedAt") VALUES ($1, $2) ON CONFLICT DO NOTHING`, []any{e.DID, at}},
		{`INSERT INTO {s}.record (uri, cid, did, json, "indexedAt") VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, string(e.Record), at}},
	}
	switch e.Collection {
	case "app.bsky.feed.post":
		out = append(out,
			statement{`INSERT INTO {s}.post (uri, cid, creator, text, "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, rec.Text, at}},
			statement{`INSERT INTO {s}.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") VALUES ($1::varchar, $2, 'post', $1::varchar, $3, $4) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, at}},
			statement{`INSERT INTO {s}.profile_agg (did, "postsCount") SELECT $1::varchar, count(*) FROM {s}.post WHERE creator = $1 ON CONFLICT (did) DO UPDATE SET "postsCount" = EXCLUDED."postsCount"`, []any{e.DID}})
	case "app.bsky.feed.like", "app.bsky.feed.repost":
		table, column := `"like"`, `"likeCount"`
		if e.Collection == "app.bsky.feed.repost" {
			table, column = "repost", `"repostCount"`
		}
		out = append(out,
			statement{`INSERT INTO {s}.` + table + ` (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, subject.URI, subject.CID, at}},
			statement{`INSERT INTO {s}.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt") VALUES ($1, $2, $3, $4, 'like', $5, $6)`, []any{e.DID, uri, e.CID, e.DID, subject.URI, at}},
			statement{`INSERT INTO {s}.post_agg (uri, ` + column + `) SELECT $1::varchar, count(*) FROM {s}.` + table + ` WHERE subject = $1 ON CONFLICT (uri) DO UPDATE SET ` + column + ` = EXCLUDED.` + column, []any{subject.URI}})
	case "app.bsky.graph.follow":
		out = append(out,
			statement{`INSERT INTO {s}.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, did, at}},
			statement{`INSERT INTO {s}.profile_agg (did, "followersCount") SELECT $1::varchar, count(*) FROM {s}.follow WHERE "subjectDid" = $1 ON CONFLICT (did) DO UPDATE SET "followersCount" = EXCLUDED."followersCount"`, []any{did}},
			statement{`INSERT INTO {s}.profile_agg (did, "followsCount") SELECT $1::varchar, count(*) FROM {s}.follow WHERE creator = $1 ON CONFLICT (did) DO UPDATE SET "followsCount" = EXCLUDED."followsCount"`, []any{e.DID}})
	}
	return append(out, statement{
		`INSERT INTO {s}.actor_sync (did, "commitCid", "repoRev") VALUES ($1, $2, $3) ON CONFLICT (did) DO UPDATE SET "commitCid" = EXCLUDED."commitCid", "repoRev" = EXCLUDED."repoRev"`, []any{e.DID, e.Commit, e.Rev},
	})
}
