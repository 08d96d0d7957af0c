package store

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// lockSQL takes advisory locks in the order of its arrays. Exclusive and shared
// ones are taken in one order, so two transactions cannot deadlock.
const lockSQL = `SELECT CASE WHEN u.x THEN pg_advisory_xact_lock(u.k) ELSE pg_advisory_xact_lock_shared(u.k) END
FROM unnest($1::bigint[], $2::boolean[]) u(k, x)`

// locks collects what a transaction has to lock: the repositories it writes to,
// and the threads that gates and replies decide about together.
type locks struct {
	schema string
	keys   map[int64]bool
}

func newLocks(schema string) *locks { return &locks{schema: schema, keys: map[int64]bool{}} }

func (l *locks) add(kind, name string, exclusive bool) {
	key := l.key(kind, name)
	l.keys[key] = l.keys[key] || exclusive
}

func (l *locks) key(kind, name string) int64 {
	h := fnv.New64a()
	for _, part := range []string{l.schema, "\x00", kind, "\x00", name} {
		_, _ = h.Write([]byte(part))
	}
	return int64(h.Sum64())
}

// repo locks a repository: nobody else writes rows about its records.
func (l *locks) repo(did string) { l.add("repo", did, true) }

// of locks what one change needs. A gate excludes the replies or quotes that it
// judges, so that either it sees them or they see it.
func (l *locks) of(it *item) {
	l.repo(it.ev.DID)
	switch {
	case it.kind == derive.ThreadGate:
		l.add("thread", gated(it), true)
	case it.kind == derive.PostGate:
		l.add("quotes", gated(it), true)
	case it.kind == derive.Post && it.rec != nil:
		l.post(it.rec)
	}
}

func (l *locks) post(r *derive.Record) {
	if root := r.Post.ReplyRoot; root != nil {
		l.add("thread", derive.GateURI(root.URI, derive.ThreadGate), false)
	}
	if subject, _, ok := r.Post.Quotes(); ok {
		l.add("quotes", derive.GateURI(subject, derive.PostGate), false)
	}
}

// gated names the gate of a change to one.
func gated(it *item) string { return it.uri }

func (l *locks) queue(b *pgx.Batch) {
	if l == nil || len(l.keys) == 0 {
		return
	}
	keys := make([]int64, 0, len(l.keys))
	for k := range l.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	modes := make([]bool, len(keys))
	for i, k := range keys {
		modes[i] = l.keys[k]
	}
	b.Queue(lockSQL, keys, modes)
}

// tryLockSQL takes the locks that are free, and returns them.
const tryLockSQL = "SELECT k FROM unnest($1::bigint[]) k WHERE pg_try_advisory_xact_lock(k)"

// try takes those of the locks that are free, all of them exclusively.
func (l *locks) try(ctx context.Context, conn batcher) (map[int64]bool, error) {
	free := map[int64]bool{}
	b := &pgx.Batch{}
	b.Queue(tryLockSQL, slices.Sorted(maps.Keys(l.keys))).Query(func(rows pgx.Rows) error {
		return scanAll(rows, func(row pgx.CollectableRow) error {
			var key int64
			err := row.Scan(&key)
			free[key] = true
			return err
		})
	})
	return free, read(ctx, conn, b)
}

// touchesTables says whether a change can write more than its account.
func touchesTables(t event.Type) bool {
	return t == event.Create || t == event.Update || t == event.Delete
}
