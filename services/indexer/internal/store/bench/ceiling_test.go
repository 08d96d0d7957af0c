package bench

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// dump is the rows that a turn has written to one table.
type dump struct {
	table         string
	columns, keys []string
	rows          []byte
}

func (d *dump) name() string { return pgx.Identifier{schema, d.table}.Sanitize() }

// written takes out what a turn has written to the tables of the AppView: the
// rows that are younger than a transaction.
func (w *workbench) written(t *testing.T, xid int64) []*dump {
	t.Helper()
	rows, err := w.pool.Query(t.Context(), `SELECT c.table_name::text, array_agg(quote_ident(c.column_name)::text ORDER BY c.ordinal_position) FILTER (WHERE c.is_generated = 'NEVER'),
array_agg(quote_ident(c.column_name)::text) FILTER (WHERE c.column_name IN (SELECT k.column_name FROM information_schema.key_column_usage k
WHERE k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.constraint_name LIKE '%pkey'))
FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema = $1 AND t.table_type = 'BASE TABLE' AND c.table_name NOT LIKE 'kysely%' GROUP BY 1`, schema)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*dump, error) {
		var d dump
		return &d, row.Scan(&d.table, &d.columns, &d.keys)
	})
	require.NoError(t, err)
	conn, err := w.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	var out []*dump
	for _, d := range all {
		var b bytes.Buffer
		sql := "COPY (SELECT " + strings.Join(d.columns, ", ") + " FROM " + d.name() + " WHERE xmin::text::bigint >= " + itoa(xid) + ") TO STDOUT (FORMAT binary)"
		tag, err := conn.Conn().PgConn().CopyTo(t.Context(), &b, sql)
		require.NoError(t, err)
		if tag.RowsAffected() > 0 {
			d.rows = b.Bytes()
			out = append(out, d)
		}
	}
	// The largest first, so that no connection idles while one works on.
	slices.SortFunc(out, func(a, b *dump) int { return cmp.Compare(len(b.rows), len(a.rows)) })
	return out
}

// makeRoom takes out what the rows replace.
func (w *workbench) makeRoom(t *testing.T, dumps []*dump) {
	t.Helper()
	for _, d := range dumps {
		conn, err := w.pool.Acquire(t.Context())
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "CREATE TEMP TABLE incoming AS SELECT "+strings.Join(d.columns, ", ")+" FROM "+d.name()+" LIMIT 0")
		require.NoError(t, err)
		_, err = conn.Conn().PgConn().CopyFrom(t.Context(), bytes.NewReader(d.rows), "COPY incoming FROM STDIN (FORMAT binary)")
		require.NoError(t, err)
		keys := strings.Join(d.keys, ", ")
		_, err = conn.Exec(t.Context(), "DELETE FROM "+d.name()+" WHERE ("+keys+") IN (SELECT "+keys+" FROM incoming)")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "DROP TABLE incoming")
		require.NoError(t, err)
		conn.Release()
	}
}

// copyIn times COPY of the rows.
func (w *workbench) copyIn(t *testing.T, dumps []*dump) time.Duration {
	t.Helper()
	start := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(*lanes)
	for _, d := range dumps {
		g.Go(func() error {
			conn, err := w.pool.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			_, err = conn.Conn().PgConn().CopyFrom(context.WithoutCancel(ctx), bytes.NewReader(d.rows),
				"COPY "+d.name()+" ("+strings.Join(d.columns, ", ")+") FROM STDIN (FORMAT binary)")
			return err
		})
	}
	require.NoError(t, g.Wait())
	return time.Since(start)
}

// sameRows says that both databases have the same number of rows.
func (w *workbench) sameRows(t *testing.T, o *workbench, dumps []*dump) {
	t.Helper()
	for _, d := range dumps {
		var a, b int64
		require.NoError(t, w.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+d.name()).Scan(&a))
		require.NoError(t, o.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+d.name()).Scan(&b))
		require.Equal(t, a, b, d.table)
	}
}
