package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/pg"
	"sluice/services/indexer/internal/derive"
)

// recheckSize is how many rows one transaction of Recheck takes.
const recheckSize = 50

// Recheck judges posts again whose surroundings have changed: older records
// that arrived later, or beside them. A row is taken once every transaction
// that ran beside the one that wrote it has ended. It returns how many rows it
// finished. Several callers share the work.
func (s *Store) Recheck(ctx context.Context) (int, error) {
	total := 0
	for {
		var any bool
		if err := s.pool.QueryRow(ctx, s.q.names.Replace("SELECT EXISTS (SELECT 1 FROM {o}.recheck)")).Scan(&any); err != nil {
			return total, pg.Classify(fmt.Errorf("look for rechecks: %w", err))
		}
		if !any {
			return total, nil
		}
		n := 0
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			n, err = s.recheckSome(ctx)
			return err
		})
		total += n
		if err != nil {
			return total, fmt.Errorf("recheck: %w", err)
		}
		if n == 0 {
			return total, nil
		}
		s.metrics.rechecked.Add(float64(n))
	}
}

// taken is what one transaction of Recheck works on.
type taken struct {
	ids  []int64
	rows []recheckRow
	// targets are the posts to judge, with the tasks for each.
	targets map[string]int16
	// feeds and quotes of deleted posts that go.
	feeds, quotes []string
}

func (s *Store) recheckSome(ctx context.Context) (int, error) {
	var t *taken
	_, _, err := s.transact(ctx, task{
		open: func(ctx context.Context, conn batcher) (*locks, error) {
			t = &taken{targets: map[string]int16{}}
			if err := s.takeRechecks(ctx, conn, t); err != nil {
				return nil, err
			}
			return s.expand(ctx, conn, t)
		},
		work: func(sm *sim) {
			for uri, what := range t.targets {
				sm.rejudge(uri, what, s.cfg.NotifyBackfill)
			}
		},
		extra: func(st *statements) { s.finishRechecks(st, t) },
	})
	if err != nil {
		return 0, err
	}
	return len(t.ids), nil
}

func (s *Store) takeRechecks(ctx context.Context, conn batcher, t *taken) error {
	b := &pgx.Batch{}
	b.Queue(s.q.names.Replace(`SELECT id, uri, what, rev FROM {o}.recheck WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED`), recheckSize).Query(func(rows pgx.Rows) error {
		return scanAll(rows, func(row pgx.CollectableRow) error {
			var id int64
			var r recheckRow
			err := row.Scan(&id, &r.URI, &r.What, &r.Rev)
			t.ids, t.rows = append(t.ids, id), append(t.rows, r)
			return err
		})
	})
	return read(ctx, conn, b)
}

// expand finds the posts that the taken rows are about, and locks their
// repositories.
func (s *Store) expand(ctx context.Context, conn batcher, t *taken) (*locks, error) {
	const descendants = `WITH RECURSIVE down AS (
SELECT u.uri AS root, u.rev AS rev, p.uri, 1 AS depth FROM unnest($1::text[], $2::text[]) u(uri, rev) JOIN {s}.post p ON p."replyParent" = u.uri
UNION SELECT down.root, down.rev, p.uri, down.depth + 1 FROM down JOIN {s}.post p ON p."replyParent" = down.uri WHERE down.depth < 4)
SELECT DISTINCT d.uri, d.rev, coalesce(r.rev, ''), p."sortAt" FROM down d JOIN {s}.post p ON p.uri = d.uri LEFT JOIN {s}.record r ON r.uri = d.uri`
	const related = `SELECT f.uri, u.rev, coalesce(r.rev, ''), f."sortAt" FROM unnest($1::text[], $2::text[]) u(uri, rev)
JOIN {s}.%s f ON f.%s = u.uri AND f.uri <> u.uri LEFT JOIN {s}.record r ON r.uri = f.uri`
	var uris, revs, goneURIs, goneRevs []string
	for _, r := range t.rows {
		switch r.What {
		case recheckGone:
			goneURIs, goneRevs = append(goneURIs, r.URI), append(goneRevs, r.Rev)
			uris, revs = append(uris, r.URI), append(revs, r.Rev)
		case recheckDescend:
			uris, revs = append(uris, r.URI), append(revs, "")
		default:
			t.targets[r.URI] |= r.What
		}
	}
	younger := func(put func(uri string), want func(rev, at string) bool) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			return scanAll(rows, func(row pgx.CollectableRow) error {
				var uri, rev, own, sortAt string
				err := row.Scan(&uri, &rev, &own, &sortAt)
				if want(rev, stamp(own, sortAt)) {
					put(uri)
				}
				return err
			})
		}
	}
	b := &pgx.Batch{}
	if len(uris) > 0 {
		b.Queue(s.q.names.Replace(descendants), uris, revs).Query(younger(
			func(uri string) { t.targets[uri] |= recheckParent },
			func(rev, at string) bool { return at > rev }))
	}
	if len(goneURIs) > 0 {
		before := func(rev, at string) bool { return at < rev }
		b.Queue(s.q.names.Replace(fmt.Sprintf(related, "feed_item", `"postUri"`)), goneURIs, goneRevs).Query(younger(
			func(uri string) { t.feeds = append(t.feeds, uri) }, before))
		b.Queue(s.q.names.Replace(fmt.Sprintf(related, "quote", "subject")), goneURIs, goneRevs).Query(younger(
			func(uri string) { t.quotes = append(t.quotes, uri) }, before))
	}
	if err := read(ctx, conn, b); err != nil {
		return nil, err
	}
	l := newLocks(s.cfg.Schema)
	for uri := range t.targets {
		l.repo(derive.HostOf(uri))
	}
	for _, list := range [][]string{t.feeds, t.quotes} {
		for _, uri := range list {
			l.repo(derive.HostOf(uri))
		}
	}
	return l, nil
}

// finishRechecks removes what deleted posts leave behind, and the rows that are
// done.
func (s *Store) finishRechecks(st *statements, t *taken) {
	st.delete(s.q.names, "feed_item", "uri", t.feeds)
	if len(t.quotes) > 0 {
		st.exec(s.q.names.Replace(`WITH d AS (DELETE FROM {s}.quote WHERE uri = ANY($1) RETURNING subject)
INSERT INTO {o}.count_delta (kind, key, n) SELECT 4, subject, -count(*) FROM d GROUP BY subject`), t.quotes)
	}
	if len(t.ids) > 0 {
		st.exec(s.q.names.Replace("DELETE FROM {o}.recheck WHERE id = ANY($1)"), t.ids)
	}
}

// rejudge does the tasks of one post.
func (s *sim) rejudge(uri string, what int16, notifyFetched bool) {
	p, rec, ref := s.post(uri), s.rec(uri), s.ref(uri)
	if p == nil || rec == nil || ref == nil {
		s.settled[uri] = struct{}{}
		return
	}
	u := derive.ParseURI(uri)
	full, err := derive.Parse(derive.Source{
		DID: u.Host, Collection: u.Collection, RKey: u.RKey, CID: rec.CID, Time: rec.IndexedAt, JSON: []byte(ref.JSON),
	})
	if err != nil || full.Post == nil {
		return
	}
	next := *p
	next.Full = full
	waiting := false
	if p.ReplyParent != "" {
		waiting = s.rejudgeReply(p, &next, what)
	}
	if what&recheckEmbed != 0 && s.judgeEmbed(&next) == gateRefuses {
		yes := true
		next.ViolatesEmbedding = &yes
	}
	if !waiting {
		s.settled[uri] = struct{}{}
	}
	if flagsDiffer(p, &next) {
		stored := next
		stored.Full = nil
		s.posts[uri] = &stored
	}
	if !quiet(rec.Rev) || notifyFetched {
		s.renotify(&next)
	}
}

// rejudgeReply decides the flags of a reply again, as far as what decides them
// is there, and says whether the reply still waits for something.
func (s *sim) rejudgeReply(p, next *postRow, what int16) (waiting bool) {
	invalid, violates := p.invalid(), p.violates()
	nowInvalid, missing := s.judgeParent(next)
	if what&recheckParent != 0 && (!missing || s.goneBefore(p)) {
		invalid = nowInvalid
	}
	if what&recheckGate != 0 {
		if v := s.judgeGate(next); v != gateAbsent {
			violates = v == gateRefuses
		}
	}
	next.setReply(invalid, violates)
	if violates != p.violates() {
		n := 1
		if violates {
			n = -1
		}
		s.count(countReplies, p.ReplyParent, n)
	}
	if invalid != p.invalid() {
		s.recheck(p.URI, recheckDescend, "")
		s.wake("p:"+p.URI, recheckParent)
	}
	return missing || violates
}

// goneBefore says that the parent of a reply was deleted before the reply was
// written.
func (s *sim) goneBefore(p *postRow) bool {
	t := s.tombOf(p.ReplyParent)
	return t.Rev != "" && t.Rev <= p.Stamp
}

func flagsDiffer(a, b *postRow) bool {
	return a.invalid() != b.invalid() || a.violates() != b.violates() ||
		(a.InvalidReplyRoot == nil) != (b.InvalidReplyRoot == nil) || (a.ViolatesEmbedding == nil) != (b.ViolatesEmbedding == nil)
}

// renotify brings the notifications of a post to what they should be. While
// there may be ancestors that are not known, none are taken back.
func (s *sim) renotify(p *postRow) {
	want, open := s.postNotifs(p)
	have := s.known(p.URI)
	var keep []notifRow
	for _, h := range have {
		if holds(want, h, open) {
			keep = append(keep, h)
		}
	}
	if len(keep) != len(have) {
		s.notifs[p.URI] = keep
	}
	for _, n := range want {
		s.add(n, p.Stamp)
	}
}

// holds says whether a stored notification stays: it is wanted, or its place is
// not taken and more may be wanted than is known.
func holds(want []notifRow, h notifRow, open bool) bool {
	taken := false
	for _, w := range want {
		if w.same(h) {
			return true
		}
		taken = taken || w.DID == h.DID
	}
	return open && !taken
}
