package repos

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// Verifier checks what a frame says against itself and against the account
// that it names. It is safe for concurrent use. A Transient error means that
// the identity of the account could not be had now; any other is an
// event.DropError.
type Verifier interface {
	Verify(ctx context.Context, c *atproto.Commit, level atproto.Level) (atproto.Verdict, error)
	VerifySync(ctx context.Context, s *atproto.Sync, level atproto.Level) (atproto.Verdict, error)
}

// Directory looks an identity up at its source and keeps what it finds for the
// Verifier. It may block on the network.
type Directory interface {
	Refresh(ctx context.Context, did string) (atproto.Identity, error)
}

// futureTolerance is how far a rev may be ahead of our clock.
const futureTolerance = 5 * time.Minute

// What makes the history of a repository doubtful: the values of the label
// kind. All but the last lead to a fetch of the whole repository.
const (
	noticeBrokenChain = "broken_chain" // the tree before a commit is not the one after the last
	noticeTooBig      = "too_big"      // operations left out by the sender
	noticeSync        = "sync"         // a state without the operations that led there
	noticeRevBack     = "rev_back"     // a rev lower than one this relay has sent
	noticeFork        = "fork"         // another commit with the same rev
	noticeInvalid     = "invalid"      // a frame that could not be used
	noticeLegacy      = "legacy"       // no prevData: only the order of revs could be checked
)

func noticeValues() []string {
	return []string{noticeBrokenChain, noticeTooBig, noticeSync, noticeRevBack, noticeFork, noticeInvalid, noticeLegacy}
}

func reasonValues() []string {
	var out []string
	for _, r := range event.Reasons() {
		out = append(out, string(r))
	}
	return out
}

const unverifiedIdentity = "identity"

// judge decides what becomes of frames. It keeps the known end of each
// repository's history up to date; the dispatcher sees to it that one DID is
// judged by one goroutine at a time, in order.
type judge struct {
	states    *states
	pending   *pending
	convert   *converter
	verifier  Verifier
	level     atproto.Level
	refresher *refresher
	policy    IdentityPolicy
	// away are the accounts whose identity could not be had lately.
	away    *unresolvable
	metrics *metrics
	log     *slog.Logger
	seed    maphash.Seed
}

// IdentityPolicy says what happens to commits while the identity of their
// account cannot be had.
type IdentityPolicy struct {
	// Pass lets them pass without the check of their signature after
	// Patience; else they wait, and the repository is fetched instead once
	// Patience is over.
	Pass bool
	// Patience bounds the wait for one commit. Default 10m, with Pass 10s.
	Patience time.Duration
	// WebPatience bounds it for did:web, whose host may be gone for good.
	// Default 10s.
	WebPatience time.Duration
}

// slot judges one slot. It returns without finishing it only when ctx ends.
func (j *judge) slot(ctx context.Context, s *slot) {
	started := time.Now()
	out, err := j.guarded(ctx, s)
	if err != nil && ctx.Err() != nil {
		return
	}
	switch {
	case fault.ClassOf(err) == fault.Fatal && err != nil:
		out = outcome{fatal: err}
	case err != nil:
		out = j.refused(s, err)
	}
	j.metrics.judgeSeconds.Observe(time.Since(started).Seconds())
	s.finish(out)
}

// guarded turns a panic of the code that reads hostile input into an error of
// that input.
func (j *judge) guarded(ctx context.Context, s *slot) (out outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			j.log.ErrorContext(ctx, "frame made the reader panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = event.Dropf(event.ReasonBadFrame, "panic: %v", p)
		}
	}()
	switch f := s.frame; f.Kind {
	case atproto.KindCommit:
		return j.commit(ctx, s, f.Commit)
	case atproto.KindSync:
		return j.sync(ctx, s, f.Sync)
	case atproto.KindAccount:
		return j.account(ctx, s, f.Account)
	case atproto.KindIdentity:
		return j.identity(ctx, s, f.Identity)
	default:
		return outcome{}, nil
	}
}

// refused is the outcome of a frame that cannot be used: it is counted, and
// the repository is fetched, so that what it held is not lost.
func (j *judge) refused(s *slot, err error) outcome {
	j.convert.dropped(err)
	kind := noticeInvalid
	if s.frame.Commit != nil && s.frame.Commit.TooBig {
		kind = noticeTooBig
	}
	return j.doubt(kind, outcome{})
}

func (j *judge) doubt(kind string, out outcome) outcome {
	j.metrics.noticed.WithLabelValues(kind).Inc()
	out.resync = true
	return out
}

// state reads what is known of the repository, for as long as it takes.
func (j *judge) state(ctx context.Context, did string) (st *repoState, err error) {
	err = fault.Retry(ctx, fault.Backoff{Initial: 50 * time.Millisecond, Max: 2 * time.Second}, func(ctx context.Context) (err error) {
		st, err = j.states.get(ctx, did)
		return err
	})
	return st, err
}

func (j *judge) commit(ctx context.Context, s *slot, c *atproto.Commit) (outcome, error) {
	st, err := j.state(ctx, c.DID)
	if err != nil {
		return outcome{}, err
	}
	if st.known(c.Rev) || j.underway(st, c) {
		return j.repeated(s, st, c), nil
	}
	back := c.Rev < st.first && j.goesBack(s, st, c.Rev)
	if c.TooBig {
		st.hole(c.Rev)
		out := j.doubt(noticeTooBig, outcome{})
		if plausibleRev(c.Rev) && !future(c.Rev) && st.advance(c.Rev, atproto.CID{}, c.Commit) {
			out.state = st.encode()
		}
		return out, nil
	}
	if err := j.checkCommit(ctx, c); err != nil {
		return outcome{}, err
	}
	e, err := j.convert.commit(c, s.time)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{entry: e}
	switch {
	case back:
		out = j.doubt(noticeRevBack, out)
	case j.broken(st, c):
		out = j.doubt(noticeBrokenChain, out)
		st.hole(c.Rev)
	}
	st.heard(s.relay.index, c.Rev)
	if st.advance(c.Rev, c.Head().Data, c.Commit) {
		out.state = st.encode()
	}
	j.share(e, "c"+c.DID+c.Rev)
	return out, nil
}

// underway says whether another relay's copy of a commit that is older than the
// newest one is on its way to the stream.
func (j *judge) underway(st *repoState, c *atproto.Commit) bool {
	return j.states.relays > 1 && c.Rev < st.rev && j.pending.find("c"+c.DID+c.Rev) != nil
}

// share lets other relays' copies of a frame find its entry.
func (j *judge) share(e *entry, key string) {
	if j.states.relays > 1 {
		e.key = key
		j.pending.add(key, e)
	}
}

// broken says whether commits between the known end and c are missing.
func (j *judge) broken(st *repoState, c *atproto.Commit) bool {
	if c.PrevData.IsZero() && c.Since != "" {
		j.metrics.noticed.WithLabelValues(noticeLegacy).Inc()
	}
	switch {
	case st.rev == "" || c.Rev < st.rev:
		return false // nothing to compare with
	case !c.PrevData.IsZero() && !st.data.IsZero():
		return c.PrevData != st.data
	default:
		return c.Since != "" && c.Since > st.rev
	}
}

// repeated is the outcome of a commit whose rev is not new. Its entry, if it
// is still on its way, may go with either relay.
func (j *judge) repeated(s *slot, st *repoState, c *atproto.Commit) outcome {
	back := j.goesBack(s, st, c.Rev)
	switch {
	case c.Rev == st.rev && !st.commit.IsZero() && st.commit != c.Commit:
		return j.doubt(noticeFork, outcome{})
	case back:
		return j.doubt(noticeRevBack, outcome{})
	}
	j.metrics.duplicates.Inc()
	return outcome{entry: j.pending.find("c" + c.DID + c.Rev)}
}

// goesBack says whether a rev that is not new is lower than the relay should
// send: it, or with one relay the process before this one, had a newer one.
func (j *judge) goesBack(s *slot, st *repoState, rev string) bool {
	back := st.heard(s.relay.index, rev)
	alone := j.states.relays == 1 && !s.relay.fresh && rev < st.rev
	return (back || alone) && !s.late && !s.relay.replaying.Load()
}

func (j *judge) checkCommit(ctx context.Context, c *atproto.Commit) error {
	if future(c.Rev) {
		return event.Dropf(event.ReasonFutureRev, "commit of %s: rev %.16q is ahead of the clock", c.DID, c.Rev)
	}
	return j.check(ctx, c.DID, func(ctx context.Context, level atproto.Level) error {
		_, err := j.verifier.Verify(ctx, c, level)
		return err
	})
}

// check verifies at the configured level, and by structure alone what may pass
// without an identity.
func (j *judge) check(ctx context.Context, did string, verify func(context.Context, atproto.Level) error) error {
	err := j.patiently(ctx, did, func(ctx context.Context) error { return verify(ctx, j.level) })
	if err == nil || fault.ClassOf(err) != fault.Transient || ctx.Err() != nil {
		return err
	}
	j.metrics.unverified.WithLabelValues(unverifiedIdentity).Inc()
	return verify(ctx, atproto.Structure)
}

// patiently repeats a check while the identity of the account cannot be had.
// An error that is still Transient in the end means that patience ran out.
func (j *judge) patiently(ctx context.Context, did string, check func(context.Context) error) error {
	patience, web := j.policy.Patience, strings.HasPrefix(did, "did:web:")
	if web {
		patience = j.policy.WebPatience
	}
	if j.away.has(did, time.Now()) {
		return j.impatient(did, errAway)
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := fault.Retry(limit, fault.Backoff{Initial: 100 * time.Millisecond, Max: 5 * time.Second}, check)
	if err == nil || fault.ClassOf(err) != fault.Transient || ctx.Err() != nil {
		return err
	}
	if web || !j.policy.Pass { // a directory that is back is to be asked at once
		j.away.add(did, time.Now().Add(unresolvableFor))
	}
	return j.impatient(did, err)
}

// errAway is Transient.
var errAway = errors.New("could not be had a while ago")

// impatient is the error of a commit whose account's identity cannot be had.
func (j *judge) impatient(did string, err error) error {
	if j.policy.Pass {
		return err
	}
	return event.Dropf(event.ReasonNoIdentity, "identity of %s: %w", did, err)
}

func (j *judge) sync(ctx context.Context, s *slot, m *atproto.Sync) (outcome, error) {
	st, err := j.state(ctx, m.DID)
	if err != nil {
		return outcome{}, err
	}
	if m.Rev == st.synced {
		j.metrics.duplicates.Inc()
		return outcome{entry: j.pending.find("s" + m.DID + m.Rev)}, nil
	}
	if m.Rev < st.rev {
		if j.goesBack(s, st, m.Rev) {
			return j.doubt(noticeRevBack, outcome{}), nil
		}
		j.metrics.duplicates.Inc()
		return outcome{}, nil
	}
	if future(m.Rev) {
		return outcome{}, event.Dropf(event.ReasonFutureRev, "sync of %s: rev %.16q is ahead of the clock", m.DID, m.Rev)
	}
	err = j.check(ctx, m.DID, func(ctx context.Context, level atproto.Level) error {
		_, err := j.verifier.VerifySync(ctx, m, level)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	out := outcome{entry: j.convert.sync(m, s.time)}
	if m.Rev != st.rev || m.Head().Data != st.data {
		out = j.doubt(noticeSync, out)
		st.hole(m.Rev)
	}
	st.heard(s.relay.index, m.Rev)
	st.synced = m.Rev
	if m.Rev >= st.rev {
		st.rev, st.data, st.commit = m.Rev, m.Head().Data, m.Head().CID
		out.state = st.encode()
	}
	j.share(out.entry, "s"+m.DID+m.Rev)
	return out, nil
}

// account and identity events have no rev: the same content is the same event.

func (j *judge) account(ctx context.Context, s *slot, m *atproto.AccountChange) (outcome, error) {
	st, err := j.state(ctx, m.DID)
	if err != nil {
		return outcome{}, err
	}
	content := fmt.Sprintf("a%s %s %t %s", m.DID, m.Time, m.Active, m.Status)
	return j.once(&st.account, content, func() *entry { return j.convert.account(m, s.time) }), nil
}

func (j *judge) identity(ctx context.Context, s *slot, m *atproto.IdentityChange) (outcome, error) {
	st, err := j.state(ctx, m.DID)
	if err != nil {
		return outcome{}, err
	}
	content := fmt.Sprintf("i%s %s %s", m.DID, m.Time, m.Handle)
	return j.once(&st.identity, content, func() *entry {
		j.away.forget(m.DID)
		j.refresher.changed(m.DID)
		return j.convert.identity(m, s.time)
	}), nil
}

func (j *judge) once(last *uint64, content string, convert func() *entry) outcome {
	if j.states.relays == 1 {
		return outcome{entry: convert()}
	}
	if sum := maphash.String(j.seed, content); sum != *last {
		*last = sum
		e := convert()
		j.share(e, content)
		return outcome{entry: e}
	}
	j.metrics.duplicates.Inc()
	return outcome{entry: j.pending.find(content)}
}

const tidAlphabet = "234567abcdefghijklmnopqrstuvwxyz"

func plausibleRev(rev string) bool {
	_, ok := revTime(rev)
	return ok
}

func future(rev string) bool {
	at, ok := revTime(rev)
	return ok && at.After(time.Now().Add(futureTolerance))
}

// revTime is the time in a rev, which is a TID.
func revTime(rev string) (time.Time, bool) {
	if len(rev) != revLength {
		return time.Time{}, false
	}
	var n uint64
	for i := range len(rev) {
		v := strings.IndexByte(tidAlphabet, rev[i])
		if v < 0 {
			return time.Time{}, false
		}
		n = n<<5 | uint64(v)
	}
	return time.UnixMicro(int64(n >> 10 & (1<<53 - 1))), true
}
