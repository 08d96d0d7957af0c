package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/services/indexer/internal/derive"
)

// recheckSize is how many rows one transaction of Recheck takes.
const recheckSize = 200

// Recheck judges posts again whose surroundings have changed: older records
// that arrived later, or beside them. A row is taken once every transaction
// that ran beside the one that wrote it has ended. It returns how many rows it
// finished, and ends when it finds few: those that come meanwhile are for the
// next call. Several callers share the work. When some rows fail together, they
// are tried one by one, and those that fail alone are put off.
func (s *Store) Recheck(ctx context.Context) (int, error) {
	total, single := 0, 0
	for {
		size := recheckSize
		if single > 0 {
			size, single = 1, single-1
		}
		done, found, failed, cause, err := s.recheckStep(ctx, size)
		total += done
		if err != nil {
			return total, fmt.Errorf("recheck: %w", err)
		}
		switch {
		case cause == nil:
			s.metrics.rechecked.Add(float64(done))
			if found < size {
				return total, nil
			}
		case ctx.Err() != nil || fault.ClassOf(cause) == fault.Fatal:
			return total, fmt.Errorf("recheck: %w", cause)
		case len(failed) > 1:
			single = len(failed)
		default:
			if err := s.putOff(ctx, failed[0], cause); err != nil {
				return total, err
			}
		}
	}
}

// recheckStep runs one transaction. It finishes as many rows as it finds, but
// for those that others work beside. cause is why the rows failed that it took,
// err why it could take none.
func (s *Store) recheckStep(ctx context.Context, size int) (done, found int, failed []int64, cause, err error) {
	err = s.retry(ctx, func(ctx context.Context) error {
		t, err := s.recheckSome(ctx, size)
		done, found, failed, cause = 0, t.found, nil, nil
		if err == nil {
			done = len(t.ids)
			return nil
		}
		if mayHaveRestarted(err) {
			s.horizon.reset()
		}
		if len(t.ids) > 0 {
			failed, cause = t.ids, pg.Classify(err)
			return nil
		}
		return err
	})
	return done, found, failed, cause, err
}

// putOff lets a row wait, twice as long each time, for an hour at most.
func (s *Store) putOff(ctx context.Context, id int64, cause error) error {
	var r recheckRow
	var attempts int
	err := s.retry(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, s.q.names.Replace(`UPDATE {o}.recheck SET attempts = attempts + 1,
not_before = now() + least(interval '1 second' * power(2, least(attempts, 12)), interval '1 hour') WHERE id = $1 RETURNING left(uri, 200), what, attempts`), id).
			Scan(&r.URI, &r.What, &attempts)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // done after all
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("put off recheck: %w", err)
	}
	s.metrics.rechecksPutOff.Inc()
	s.log.WarnContext(ctx, "recheck put off", slog.String("uri", r.URI), slog.Int("what", int(r.What)), slog.Int("attempts", attempts), slog.Any("err", cause))
	return nil
}

// taken is what one transaction of Recheck works on.
type taken struct {
	// found is how many rows were due, with those that were left for later.
	found int
	ids   []int64
	rows  []recheckRow
	// targets are the posts to judge, with the tasks for each.
	targets map[string]*target
	// feeds and quotes of deleted posts that go, with the posts.
	feeds, quotes pairs
}

// target is a post to judge.
type target struct {
	what int16
	// after: only if it is younger than this.
	after string
}

func (t *taken) aim(r recheckRow) {
	if cur := t.targets[r.URI]; cur != nil {
		cur.what, cur.after = cur.what|r.What, min(cur.after, r.Rev)
		return
	}
	t.targets[r.URI] = &target{what: r.What, after: r.Rev}
}

func (s *Store) recheckSome(ctx context.Context, size int) (*taken, error) {
	t := &taken{}
	_, _, err := s.transact(ctx, task{
		open: func(ctx context.Context, conn batcher) (*locks, error) {
			*t = taken{targets: map[string]*target{}}
			if err := s.takeRechecks(ctx, conn, t, size); err != nil {
				return nil, err
			}
			return s.expand(ctx, conn, t)
		},
		work: func(sm *sim) {
			sm.again = true
			for i, uri := range t.quotes.uris {
				sm.waitPostGate(t.quotes.with[i], uri)
			}
			for uri, to := range t.targets {
				sm.c.notifs.get(uri)
				sm.rejudge(uri, *to, s.cfg.NotifyBackfill)
			}
		},
		extra: func(st *statements) { s.finishRechecks(st, t) },
	})
	return t, err
}

// lockFree locks the repositories of the rows that nobody works on, and leaves
// the rows of others for later: who waited for many would hold up everybody
// whose repository it has. Only where none is free it keeps the rows of one,
// with the lock to wait for.
func (s *Store) lockFree(ctx context.Context, conn batcher, t *taken) (wait *locks, err error) {
	l := newLocks(s.cfg.Schema)
	first := ""
	for _, r := range t.rows {
		if r.aboutOne() {
			host := derive.HostOf(r.URI)
			l.repo(host)
			if first == "" {
				first = host
			}
		}
	}
	if len(l.keys) == 0 {
		return nil, nil
	}
	free, err := l.try(ctx, conn)
	if err != nil {
		return nil, err
	}
	if len(free) == 0 {
		wait = newLocks(s.cfg.Schema)
		wait.repo(first)
		free = wait.keys
	}
	t.keep(func(r recheckRow) bool { return !r.aboutOne() || free[l.key("repo", derive.HostOf(r.URI))] })
	return wait, nil
}

// keep leaves the other rows as if they had not been taken.
func (t *taken) keep(ok func(recheckRow) bool) {
	ids, rows := t.ids[:0], t.rows[:0]
	for i, r := range t.rows {
		if ok(r) {
			ids, rows = append(ids, t.ids[i]), append(rows, r)
		}
	}
	t.ids, t.rows = ids, rows
}

// finishRechecks removes what deleted posts leave behind, and the rows that are
// done.
func (s *Store) finishRechecks(st *statements, t *taken) {
	if len(t.feeds.uris) > 0 {
		st.exec(s.q.names.Replace(`DELETE FROM {s}.feed_item f USING unnest($1::text[], $2::text[]) u(uri, post)
WHERE f.uri = u.uri AND f."postUri" = u.post`), t.feeds.uris, t.feeds.with)
	}
	if len(t.quotes.uris) > 0 {
		st.exec(s.q.names.Replace(`WITH d AS (DELETE FROM {s}.quote q USING unnest($1::text[], $2::text[]) u(uri, post)
WHERE q.uri = u.uri AND q.subject = u.post RETURNING q.subject)
INSERT INTO {o}.count_delta (kind, key, n) SELECT 4, subject, -count(*) FROM d GROUP BY subject`), t.quotes.uris, t.quotes.with)
	}
	if len(t.ids) > 0 {
		st.exec(s.q.names.Replace("DELETE FROM {o}.recheck WHERE id = ANY($1)"), t.ids)
	}
}

// rejudge does the tasks of one post.
func (s *sim) rejudge(uri string, to target, notifyFetched bool) {
	what := to.what
	p, rec, ref := s.post(uri), s.rec(uri), s.ref(uri)
	if p == nil || rec == nil || ref == nil {
		s.settled[uri] = struct{}{}
		return
	}
	if p.Stamp < to.after {
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
	s.waitQuoted(&next)
	if _, new := s.waiters[uri]; !waiting && !new {
		s.settled[uri] = struct{}{}
	}
	if what == recheckEmbed && !flagsDiffer(p, &next) {
		return
	}
	if flagsDiffer(p, &next) {
		stored := next
		stored.Full = nil
		s.setPost(&stored)
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
	if what&recheckParent != 0 && !missing {
		invalid = nowInvalid
	}
	if what&recheckGate != 0 {
		if v := s.judgeGate(next); v != gateAbsent {
			violates = v == gateRefuses
		}
	}
	next.setReply(invalid, violates)
	if invalid {
		s.waitGate(next)
	}
	if violates != p.violates() {
		n := 1
		if violates {
			n = -1
		}
		s.count(countReplies, p.ReplyParent, n)
	}
	if invalid != p.invalid() {
		s.turned(p.URI)
	}
	return violates || invalid
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
