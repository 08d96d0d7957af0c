package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/pkg/fault"
	"sluice/pkg/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateTries is how often a migration is tried that does not get its locks.
const migrateTries = 8

// Migrate brings the database to what the indexer needs: the AppView's schema
// where there is none, the column record.rev, and our own schema. Several
// processes may call it at once. A schema that lacks a table or a column which
// we write is a Fatal error that names it.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	return fault.Retry(ctx, fault.Backoff{Attempts: migrateTries}, func(ctx context.Context) error {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return fmt.Errorf("migrate schema %s: %w", schema, err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		m := migrator{tx: tx, schema: schema}
		if err := m.run(ctx); err != nil {
			return pg.Classify(fmt.Errorf("migrate schema %s: %w", schema, err))
		}
		if err := tx.Commit(ctx); err != nil {
			return pg.Classify(fmt.Errorf("migrate schema %s: commit: %w", schema, err))
		}
		return nil
	})
}

// Check says what Migrate would do, one step a line; nothing when the database
// is ready. It fails as Migrate would on a schema that is not the AppView's.
func Check(ctx context.Context, pool *pgxpool.Pool, schema string) ([]string, error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("check schema %s: %w", schema, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	m := migrator{tx: tx, schema: schema}
	steps, err := m.plan(ctx)
	if err != nil {
		return nil, pg.Classify(fmt.Errorf("check schema %s: %w", schema, err))
	}
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.name
	}
	return names, nil
}

type migrator struct {
	tx     pgx.Tx
	schema string
}

type step struct {
	name string
	sql  string
	// after records a numbered file as applied.
	version int
}

func (m migrator) run(ctx context.Context) error {
	for _, name := range []string{"sluice/extension", "sluice/" + m.schema} {
		if _, err := m.tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
	}
	if _, err := m.tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil {
		return err
	}
	// Who waits for a lock on a table makes everybody wait who comes after: the
	// AppView reads it. So the wait is short, and comes again.
	if _, err := m.tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
		return err
	}
	steps, err := m.plan(ctx)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if _, err := m.tx.Exec(ctx, s.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s.version == 0 {
			continue
		}
		q := m.names("INSERT INTO {o}.migration (version) VALUES ($1)")
		if _, err := m.tx.Exec(ctx, q, s.version); err != nil {
			return fmt.Errorf("%s: record version: %w", s.name, err)
		}
	}
	return nil
}

// plan lists the steps that are missing.
func (m migrator) plan(ctx context.Context) ([]step, error) {
	columns, err := m.columns(ctx, m.schema)
	if err != nil {
		return nil, err
	}
	var steps []step
	if !hasAny(columns) {
		text, err := m.file("migrations/appview.sql")
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{name: "create the AppView's tables in schema " + m.schema, sql: text})
	} else if err := verifyColumns(m.schema, columns); err != nil {
		return nil, err
	}
	if !slices.Contains(columns["record"], "rev") {
		steps = append(steps, step{
			name: "add column rev to " + m.schema + ".record",
			sql:  m.names(`ALTER TABLE {s}.record ADD COLUMN IF NOT EXISTS rev varchar COLLATE "C"`),
		})
	}
	own, err := m.planOwn(ctx)
	return append(steps, own...), err
}

func (m migrator) planOwn(ctx context.Context) ([]step, error) {
	columns, err := m.columns(ctx, OwnSchema(m.schema))
	if err != nil {
		return nil, err
	}
	var steps []step
	var done []int
	if columns["migration"] == nil {
		steps = append(steps, step{
			name: "create schema " + OwnSchema(m.schema),
			sql:  m.names("CREATE SCHEMA IF NOT EXISTS {o}; CREATE TABLE {o}.migration (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"),
		})
	} else {
		rows, err := m.tx.Query(ctx, m.names("SELECT version FROM {o}.migration"))
		if err != nil {
			return nil, err
		}
		if done, err = pgx.CollectRows(rows, pgx.RowTo[int]); err != nil {
			return nil, err
		}
	}
	names, err := fs.Glob(migrations, "migrations/0*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		base := path.Base(name)
		version, err := strconv.Atoi(base[:5])
		if err != nil {
			return nil, fault.Fatalf("migration %s has no number: %w", base, err)
		}
		if slices.Contains(done, version) {
			continue
		}
		text, err := m.file(name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{
			name: "apply " + base + " to schema " + OwnSchema(m.schema), version: version,
			sql: m.names("SET LOCAL search_path TO {o}; ") + text,
		})
	}
	return steps, nil
}

func (m migrator) names(sql string) string { return schemaNames(m.schema).Replace(sql) }

func (m migrator) file(name string) (string, error) {
	text, err := migrations.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read embedded %s: %w", name, err)
	}
	return strings.ReplaceAll(string(text), "__SCHEMA__", pgx.Identifier{m.schema}.Sanitize()), nil
}

// columns reads table → columns of a schema.
func (m migrator) columns(ctx context.Context, schema string) (map[string][]string, error) {
	rows, err := m.tx.Query(ctx, `SELECT c.relname, coalesce(array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') GROUP BY c.relname`, schema)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	var table string
	var cols []string
	_, err = pgx.ForEachRow(rows, []any{&table, &cols}, func() error {
		out[table] = slices.Clone(cols)
		return nil
	})
	return out, err
}

// hasAny says whether a schema holds any of the AppView's tables.
func hasAny(columns map[string][]string) bool {
	for _, n := range needed {
		if columns[n.table] != nil {
			return true
		}
	}
	return columns["kysely_migration"] != nil
}

// verifyColumns looks for everything that we read or write.
func verifyColumns(schema string, columns map[string][]string) error {
	for _, n := range needed {
		have := columns[n.table]
		if have == nil {
			return fault.Fatalf("schema %s is not the AppView's: table %s is missing", schema, n.table)
		}
		for c := range strings.FieldsSeq(n.columns) {
			if !slices.Contains(have, c) {
				return fault.Fatalf("schema %s is not the AppView's: column %s.%s is missing", schema, n.table, c)
			}
		}
	}
	return nil
}

// needed are the tables and columns of the AppView that we read or write.
var needed = []struct{ table, columns string }{
	{"actor", "did handle indexedAt takedownRef upstreamStatus trustedVerifier"},
	{"actor_sync", "did commitCid repoRev"},
	{"record", "uri cid did json indexedAt takedownRef tags"},
	{"duplicate_record", "uri cid duplicateOf indexedAt"},
	{"profile", "uri cid creator displayName description avatarCid bannerCid indexedAt joinedViaStarterPackUri createdAt"},
	{"post", "uri cid creator text replyRoot replyRootCid replyParent replyParentCid createdAt indexedAt sortAt langs invalidReplyRoot violatesThreadGate tags violatesEmbeddingRules hasThreadGate hasPostGate"},
	{"post_embed_image", "postUri position imageCid alt"},
	{"post_embed_gallery_image", "postUri position imageCid alt"},
	{"post_embed_external", "postUri uri title description thumbCid"},
	{"post_embed_record", "postUri embedUri embedCid"},
	{"post_embed_video", "postUri videoCid alt"},
	{"feed_item", "uri cid type postUri originatorDid sortAt"},
	{"quote", "uri cid subject subjectCid createdAt indexedAt sortAt"},
	{"op_thread_reply", "rootUri parentUri uri deletedAt"},
	{"thread_gate", "uri cid creator postUri createdAt indexedAt"},
	{"post_gate", "uri cid creator postUri createdAt indexedAt"},
	{"like", "uri cid creator subject subjectCid createdAt indexedAt sortAt via viaCid"},
	{"repost", "uri cid creator subject subjectCid createdAt indexedAt sortAt via viaCid"},
	{"follow", "uri cid creator subjectDid createdAt indexedAt sortAt"},
	{"actor_block", "uri cid creator subjectDid createdAt indexedAt sortAt"},
	{"list", "uri cid creator name purpose description descriptionFacets avatarCid createdAt indexedAt"},
	{"list_item", "uri cid creator subjectDid listUri createdAt indexedAt sortAt"},
	{"list_block", "uri cid creator subjectUri createdAt indexedAt"},
	{"feed_generator", "uri cid creator feedDid displayName description descriptionFacets avatarCid createdAt indexedAt"},
	{"labeler", "uri cid creator createdAt indexedAt"},
	{"starter_pack", "uri cid creator createdAt indexedAt name"},
	{"verification", "uri cid rkey creator subject handle displayName createdAt indexedAt sortedAt"},
	{"post_agg", "uri likeCount replyCount repostCount quoteCount bookmarkCount"},
	{"profile_agg", "did followersCount followsCount postsCount"},
	{"notification", "did recordUri recordCid author reason reasonSubject sortAt"},
	{"label", "src uri cid val neg cts exp"},
	{"thread_mute", "rootUri mutedByDid"},
}
