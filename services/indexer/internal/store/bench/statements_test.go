package bench

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// oneByOne does the least of the work of an indexer that sends one statement
// after the other, each committed by itself, and counts again after each event;
// as many events at once as there are lanes. It ends after a while and returns
// how many events it did, and how long that took.
func (w *workbench) oneByOne(t *testing.T, changes []store.Change, limit time.Duration) (int, time.Duration) {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	next := make(chan *event.Event)
	done := make([]int, *lanes)
	var g errgroup.Group
	g.Go(func() error {
		defer close(next)
		for _, c := range changes {
			select {
			case next <- c.Event:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
	for lane := range *lanes {
		g.Go(func() error {
			for e := range next {
				if err := w.index(t.Context(), e); err != nil {
					return err
				}
				done[lane]++
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	total := 0
	for _, n := range done {
		total += n
	}
	return total, time.Since(start)
}

func (w *workbench) index(ctx context.Context, e *event.Event) error {
	var err error
	for _, q := range statements(e) {
		_, one := w.pool.Exec(ctx, strings.ReplaceAll(q.sql, "{s}", pgx.Identifier{schema}.Sanitize()), q.args...)
		err = errors.Join(err, one)
	}
	return err
}

type statement struct {
	sql  string
	args []any
}

// countSQL counts the rows of a table again.
func countSQL(agg, key, counter, table, column string) string {
	return `INSERT INTO {s}.` + agg + ` (` + key + `, "` + counter + `") SELECT $1::varchar, count(*) FROM {s}.` + table + ` WHERE ` + column + ` = $1
ON CONFLICT (` + key + `) DO UPDATE SET "` + counter + `" = EXCLUDED."` + counter + `"`
}

func statements(e *event.Event) []statement {
	out := []statement{{`INSERT INTO {s}.actor (did, "indexedAt") VALUES ($1, $2) ON CONFLICT DO NOTHING`, []any{e.DID, e.Time}}}
	if e.Type == event.Delete {
		out = append(out, deleting(e)...)
	} else {
		out = append(out, writing(e)...)
	}
	return append(out, statement{
		`INSERT INTO {s}.actor_sync (did, "commitCid", "repoRev") VALUES ($1, $2, $3) ON CONFLICT (did) DO UPDATE SET "commitCid" = EXCLUDED."commitCid", "repoRev" = EXCLUDED."repoRev"`, []any{e.DID, e.Commit, e.Rev},
	})
}

func deleting(e *event.Event) []statement {
	uri := e.URI()
	table, agg, key, counter, column := `"like"`, "post_agg", "uri", "likeCount", "subject"
	if e.Collection == "app.bsky.graph.follow" {
		table, agg, key, counter, column = "follow", "profile_agg", "did", "followersCount", `"subjectDid"`
	}
	return []statement{
		{`DELETE FROM {s}.record WHERE uri = $1`, []any{uri}},
		{`DELETE FROM {s}.notification WHERE "recordUri" = $1`, []any{uri}},
		{`WITH d AS (DELETE FROM {s}.` + table + ` WHERE uri = $1 RETURNING ` + column + ` AS s)
INSERT INTO {s}.` + agg + ` (` + key + `, "` + counter + `") SELECT d.s, (SELECT count(*) FROM {s}.` + table + ` x WHERE x.` + column + ` = d.s) - 1 FROM d
ON CONFLICT (` + key + `) DO UPDATE SET "` + counter + `" = EXCLUDED."` + counter + `"`, []any{uri}},
	}
}

func writing(e *event.Event) []statement {
	var rec struct {
		Text        string          `json:"text"`
		DisplayName string          `json:"displayName"`
		Description string          `json:"description"`
		Subject     json.RawMessage `json:"subject"`
		Reply       *struct {
			Root   struct{ URI, CID string } `json:"root"`
			Parent struct{ URI, CID string } `json:"parent"`
		} `json:"reply"`
	}
	_ = json.Unmarshal(e.Record, &rec)
	uri, at := e.URI(), e.Time
	out := []statement{{`INSERT INTO {s}.record (uri, cid, did, json, "indexedAt") VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (uri) DO UPDATE SET cid = EXCLUDED.cid, json = EXCLUDED.json, "indexedAt" = EXCLUDED."indexedAt"`, []any{uri, e.CID, e.DID, string(e.Record), at}}}
	switch e.Collection {
	case "app.bsky.feed.post":
		var root, parent *string
		if rec.Reply != nil {
			root, parent = &rec.Reply.Root.URI, &rec.Reply.Parent.URI
		}
		out = append(out,
			statement{`INSERT INTO {s}.post (uri, cid, creator, text, "replyRoot", "replyParent", "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, rec.Text, root, parent, at}},
			statement{`INSERT INTO {s}.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") VALUES ($1::varchar, $2, 'post', $1::varchar, $3, $4) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, at}},
			statement{countSQL("profile_agg", "did", "postsCount", "post", "creator"), []any{e.DID}})
		if parent != nil {
			out = append(out, statement{countSQL("post_agg", "uri", "replyCount", "post", `"replyParent"`), []any{*parent}})
		}
	case "app.bsky.feed.like":
		out = append(out, subjectStatements(e, rec.Subject, `"like"`, "likeCount", "like")...)
	case "app.bsky.feed.repost":
		out = append(out, statement{`INSERT INTO {s}.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") VALUES ($1, $2, 'repost', $3, $4, $5) ON CONFLICT DO NOTHING`, []any{uri, e.CID, uri, e.DID, at}})
		out = append(out, subjectStatements(e, rec.Subject, "repost", "repostCount", "repost")...)
	case "app.bsky.graph.follow":
		var did string
		_ = json.Unmarshal(rec.Subject, &did)
		out = append(out,
			statement{`INSERT INTO {s}.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, did, at}},
			statement{`INSERT INTO {s}.notification (did, "recordUri", "recordCid", author, reason, "sortAt") VALUES ($1, $2, $3, $4, 'follow', $5)`, []any{did, uri, e.CID, e.DID, at}},
			statement{countSQL("profile_agg", "did", "followersCount", "follow", `"subjectDid"`), []any{did}},
			statement{countSQL("profile_agg", "did", "followsCount", "follow", "creator"), []any{e.DID}})
	case "app.bsky.actor.profile":
		out = append(out, statement{`INSERT INTO {s}.profile (uri, cid, creator, "displayName", description, "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, rec.DisplayName, rec.Description, at}})
	}
	return out
}

func subjectStatements(e *event.Event, raw json.RawMessage, table, counter, reason string) []statement {
	var s struct{ URI, CID string }
	_ = json.Unmarshal(raw, &s)
	uri := e.URI()
	return []statement{
		{`INSERT INTO {s}.` + table + ` (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt") VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING`, []any{uri, e.CID, e.DID, s.URI, s.CID, e.Time}},
		{`INSERT INTO {s}.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt") VALUES ($1, $2, $3, $4, $5, $6, $7)`, []any{strings.Split(s.URI, "/")[2], uri, e.CID, e.DID, reason, s.URI, e.Time}},
		{countSQL("post_agg", "uri", counter, table, "subject"), []any{s.URI}},
	}
}
