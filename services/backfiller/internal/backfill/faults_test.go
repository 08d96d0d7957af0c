package backfill

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
)

type (
	httpWriter  = http.ResponseWriter
	httpRequest = http.Request
)

var redriveAll redstream.Filter

func nextRev() string { return string(syntax.NewTIDNow(1)) }

func (r *rig) raw(field, value string) {
	r.t.Helper()
	require.NoError(r.t, r.writer.Append(r.t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: field, Value: value}}}}))
}

// take reads the output stream and removes what it read.
func (r *rig) take() []*event.Event {
	r.t.Helper()
	events, last := r.read()
	if last == "" {
		return nil
	}
	ms, seq, _ := strings.Cut(last, "-")
	n, err := strconv.Atoi(seq)
	require.NoError(r.t, err)
	c, err := testkit.RedisClient(r.url)
	require.NoError(r.t, err)
	defer c.Close()
	next := fmt.Sprintf("%s-%d", ms, n+1)
	require.NoError(r.t, c.Do(r.t.Context(), c.B().Xtrim().Key(r.prefix+"firehose_backfill").Minid().Threshold(next).Build()).Error())
	return events
}

func (w *world) setPLCFault(f func(httpWriter, string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plcFault = f
}

func (w *world) plcRequests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, k := range w.plcAsked {
		n += k
	}
	return n
}

// staleDirectory gives old hosts until it is asked to refresh.
type staleDirectory struct {
	Directory
	mu    sync.Mutex
	stale map[string]string
}

func (d *staleDirectory) Identity(ctx context.Context, did string) (atproto.Identity, error) {
	id, err := d.Directory.Identity(ctx, did)
	d.mu.Lock()
	defer d.mu.Unlock()
	if pds, ok := d.stale[did]; ok {
		id.PDS = pds
	}
	return id, err
}

func (d *staleDirectory) Refresh(ctx context.Context, did string) (atproto.Identity, error) {
	d.mu.Lock()
	delete(d.stale, did)
	d.mu.Unlock()
	return d.Directory.Refresh(ctx, did)
}

func (r *rig) startWith(dir Directory) (*Backfiller, func() error) {
	r.t.Helper()
	b, err := New(testConfig(), Deps{Redis: r.open(nil), Directory: dir, HTTP: testHTTP(r.t), Log: quiet()})
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return b, func() error { cancel(); return <-done }
}

// The faults of a host, one answer each.

func status(code int, header map[string]string, contentType, text string) mischief {
	return func(w httpWriter, _ *httpRequest, _ *testHost, _ *account) bool {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(text))
		return true
	}
}

func car(blocks []carBlock) []byte { return carOf(blocks) }

func sendCAR(w httpWriter, b []byte) bool {
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	_, _ = w.Write(b)
	return true
}

func truncated(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	b := a.car()
	return sendCAR(w, b[:len(b)/2])
}

// atBoundary ends the archive cleanly between two blocks.
func atBoundary(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	bs := a.blocks()
	return sendCAR(w, car(bs[:len(bs)*2/3]))
}

func cut(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	b := a.car()
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	sendCAR(w, b[:len(b)-10])
	panic(http.ErrAbortHandler)
}

func without(kind string) mischief {
	return func(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
		bs := a.blocks()
		for i := len(bs) - 1; i > 1; i-- {
			if bs[i].kind == kind {
				return sendCAR(w, car(slices.Delete(bs, i, i+1)))
			}
		}
		panic("no block to leave out")
	}
}

func flipped(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	b := a.car()
	b[len(b)-3] ^= 0xff
	return sendCAR(w, b)
}

func wrongSignature(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	key, _ := repo.NewKey(repo.K256, "somebody else")
	return sendCAR(w, car(seal(a.did, a.rev, a.records, key)))
}

func wrongAccount(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	return sendCAR(w, car(seal("did:plc:wrongwrongwrongwrongwron", a.rev, a.records, a.key)))
}

func futureRev(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
	rev := string(syntax.NewTIDFromTime(time.Now().Add(48*time.Hour), 0))
	return sendCAR(w, car(seal(a.did, rev, a.records, a.key)))
}

func serverError(w httpWriter, r *httpRequest, h *testHost, a *account) bool {
	return status(500, nil, "text/plain", "oops")(w, r, h, a)
}

func drip(w httpWriter, r *httpRequest, _ *testHost, a *account) bool {
	b := a.car()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	for _, c := range b {
		if _, err := w.Write([]byte{c}); err != nil {
			return true
		}
		flush(w)
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return true
		}
	}
	return true
}

func flush(w httpWriter) {
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(http.ErrAbortHandler) // the other side is gone
	}
}

func hang(_ httpWriter, r *httpRequest, _ *testHost, _ *account) bool {
	<-r.Context().Done()
	return true
}

func hangInBody(w httpWriter, r *httpRequest, _ *testHost, a *account) bool {
	b := a.car()
	sendCAR(w, b[:len(b)/2])
	flush(w)
	<-r.Context().Done()
	return true
}

func endless(w httpWriter, r *httpRequest, _ *testHost, a *account) bool {
	sendCAR(w, a.car())
	block := bytes.Repeat([]byte("x"), 1<<16)
	for r.Context().Err() == nil {
		record := repo.MustEncode(repo.Map{"x": string(block)})
		if _, err := w.Write(repo.AppendCARBlock(nil, repo.CID(record), record)); err != nil {
			return true
		}
	}
	return true
}

func redirectLoop(w httpWriter, r *httpRequest, _ *testHost, _ *account) bool {
	http.Redirect(w, r, r.URL.Path+"?loop=1&did="+r.URL.Query().Get("did"), http.StatusFound)
	return true
}

func reset(httpWriter, *httpRequest, *testHost, *account) bool { panic(http.ErrAbortHandler) }

// tree signs a commit over a tree made by hand, sent with the blocks.
func tree(make func(a *account) (root cid.Cid, blocks []repo.Block)) mischief {
	return func(w httpWriter, _ *httpRequest, _ *testHost, a *account) bool {
		root, blocks := make(a)
		unsigned := repo.Map{"did": a.did, "version": 3, "rev": a.rev, "prev": nil, "data": root}
		sig, err := a.key.Sign(repo.MustEncode(unsigned))
		if err != nil {
			panic(err)
		}
		unsigned["sig"] = sig
		commit := repo.MustEncode(unsigned)
		return sendCAR(w, repo.CAR(repo.CID(commit), append([]repo.Block{{CID: repo.CID(commit), Data: commit}}, blocks...)))
	}
}

func node(left any, entries ...any) repo.Block {
	b := repo.MustEncode(repo.Map{"l": left, "e": entries})
	return repo.Block{CID: repo.CID(b), Data: b}
}

func entry(prefix int, key string, value cid.Cid, right any) repo.Map {
	return repo.Map{"p": prefix, "k": []byte(key), "v": value, "t": right}
}

func aRecord() repo.Block {
	b := testRecord("app.bsky.feed.post", 1)
	return repo.Block{CID: repo.CID(b), Data: b}
}

// deepTree is a chain of empty nodes, as deep as fits.
func deepTree(*account) (cid.Cid, []repo.Block) {
	n := node(nil, entry(0, "app.bsky.feed.post/3kaaaaaaaaaa2", aRecord().CID, nil))
	blocks := []repo.Block{aRecord(), n}
	for range 20_000 {
		n = node(n.CID)
		blocks = append(blocks, n)
	}
	return n.CID, blocks
}

// knot is a tree in which the same subtree hangs many times on each layer.
func knot(*account) (cid.Cid, []repo.Block) {
	blocks := []repo.Block{aRecord()}
	n := node(nil, entry(0, "app.bsky.feed.post/3kaaaaaaaaaa2", aRecord().CID, nil))
	blocks = append(blocks, n)
	for range 40 {
		n = node(n.CID, entry(0, "app.bsky.feed.post/3kaaaaaaaaaa2", aRecord().CID, n.CID))
		blocks = append(blocks, n)
	}
	return n.CID, blocks
}

func duplicateKeys(*account) (cid.Cid, []repo.Block) {
	key := "app.bsky.feed.post/3kaaaaaaaaaa2"
	n := node(nil, entry(0, key, aRecord().CID, nil), entry(len(key), "", aRecord().CID, nil))
	return n.CID, []repo.Block{aRecord(), n}
}

func notATree(*account) (cid.Cid, []repo.Block) {
	b := aRecord()
	return b.CID, []repo.Block{b}
}

// allFaults are the answers from which an account recovers by another attempt.
func allFaults() map[string]mischief {
	epoch := fmt.Sprint(time.Now().Unix() + 1)
	return map[string]mischief{
		"429 retry-after":     status(429, map[string]string{"Retry-After": "0.2"}, "application/json", `{"error":"RateLimitExceeded"}`),
		"429 ratelimit":       status(429, map[string]string{"RateLimit-Remaining": "0", "RateLimit-Reset": epoch}, "application/json", `{}`),
		"429 bare":            status(429, nil, "", ""),
		"429 html":            status(429, nil, "text/html", "<html>slow down</html>"),
		"throttled by name":   status(400, nil, "application/json", `{"error":"RateLimitExceeded"}`),
		"500":                 serverError,
		"502 html":            status(502, nil, "text/html", "<html>bad gateway</html>"),
		"503 retry-after":     status(503, map[string]string{"Retry-After": "0.1"}, "", ""),
		"200 html":            status(200, nil, "text/html", "<html>welcome</html>"),
		"200 empty":           status(200, nil, "application/vnd.ipld.car", ""),
		"200 rubbish":         status(200, nil, "application/vnd.ipld.car", "not an archive at all"),
		"403":                 status(403, nil, "text/html", "<html>forbidden</html>"),
		"404":                 status(404, nil, "text/html", "<html>not found</html>"),
		"truncated":           truncated,
		"truncated between":   atBoundary,
		"cut":                 cut,
		"missing record":      without("record"),
		"missing node":        without("node"),
		"flipped":             flipped,
		"wrong signature":     wrongSignature,
		"wrong account":       wrongAccount,
		"future rev":          futureRev,
		"drip":                drip,
		"hang":                hang,
		"hang in body":        hangInBody,
		"redirect loop":       redirectLoop,
		"reset":               reset,
		"deep tree":           tree(deepTree),
		"knot":                tree(knot),
		"duplicate keys":      tree(duplicateKeys),
		"record where a tree": tree(notATree),
	}
}

// Every fault alone and pairs of them (every pair in the long form, a tenth of
// them otherwise), each on a host of its own: in the end the output is the truth, nothing is in the dead letters, and
// every planned fault has happened.
func TestBackfillFaultsAloneAndInPairs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	faults := allFaults()
	names := slices.Sorted(maps.Keys(faults))
	var (
		mu    sync.Mutex
		fired = map[string]int{}
		plan  = map[string]int{}
		as    []*account
	)
	add := func(sequence ...string) {
		at := 0
		h := r.w.newHost(t, func(w httpWriter, req *httpRequest, h *testHost, a *account) bool {
			if req.URL.Query().Has("loop") {
				return redirectLoop(w, req, h, a)
			}
			mu.Lock()
			if at >= len(sequence) {
				mu.Unlock()
				return false
			}
			name := sequence[at]
			at++
			fired[name]++
			mu.Unlock()
			return faults[name](w, req, h, a)
		})
		for _, name := range sequence {
			plan[name]++
		}
		as = append(as, r.w.add(t, h, 30))
	}
	every := 10
	if os.Getenv("SLUICE_SOAK") != "" {
		every = 1
	}
	for i, a := range names {
		add(a)
		for j, b := range names[i+1:] {
			switch {
			case (i+j)%every != 0:
			case (i+len(b))%2 == 0:
				add(a, b)
			default:
				add(b, a)
			}
		}
	}
	r.start(impatient, func(c *Config) { c.Concurrency = 200; c.Retry.Max = 10; c.Host.ParkMax = 100 * time.Millisecond })
	r.enumerate(as...)
	r.drained(90 * time.Second)
	r.complete(as...)
	require.Empty(t, r.dead())
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, plan, fired)
}

// rename gives the account the DID that its repository is signed for.
func (w *world) rename(a *account, did string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.accounts, a.did)
	a.did = did
	w.accounts[did] = a
}

func (x *running) rejected() int64 {
	return int64(x.metric("sluice_backfill_records_rejected_total"))
}
