package backfill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
	"sluice/pkg/testkit/repo"
)

// world is a small network: one directory and any number of hosts.
type world struct {
	PLC *httptest.Server

	mu       sync.Mutex
	accounts map[string]*account
	plcFault func(w http.ResponseWriter, did string) bool
	plcAsked map[string]int
}

// account is one repository with the host that has it.
type account struct {
	did     string
	key     *repo.Key
	pds     string
	rev     string
	records map[string][]byte // path → DAG-CBOR

	mu     sync.Mutex
	sealed []carBlock
}

type carBlock struct {
	repo.Block
	kind string // commit, node or record
}

// host is a PDS of the world.
type testHost struct {
	*httptest.Server
	w *world

	mu     sync.Mutex
	faults []mischief
	asked  map[string]int
	flight int
	peak   int
}

// mischief answers a request in place of the host; false lets it through.
type mischief func(w http.ResponseWriter, r *http.Request, h *testHost, a *account) bool

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{accounts: map[string]*account{}, plcAsked: map[string]int{}}
	w.PLC = httptest.NewServer(http.HandlerFunc(w.servePLC))
	t.Cleanup(w.PLC.Close)
	return w
}

func (w *world) servePLC(rw http.ResponseWriter, r *http.Request) {
	did := strings.TrimPrefix(r.URL.Path, "/")
	w.mu.Lock()
	a, trouble := w.accounts[did], w.plcFault
	w.plcAsked[did]++
	w.mu.Unlock()
	if trouble != nil && trouble(rw, did) {
		return
	}
	if a == nil {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusNotFound)
		_, _ = rw.Write([]byte(`{"message":"DID not registered: ` + did + `"}`))
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	doc := map[string]any{
		"@context": []string{"https://www.w3.org/ns/did/v1"}, "id": did, "alsoKnownAs": []string{"at://x.test"},
		"verificationMethod": []any{
			map[string]any{"id": did + "#atproto_label", "type": "Multikey", "controller": did, "publicKeyMultibase": "zQ3shbadkeyformat"},
			map[string]any{"id": did + "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": a.key.Multibase()},
		},
		"service": []any{map[string]any{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": a.pds}},
	}
	if a.pds == "" {
		doc["service"] = []any{}
	}
	rw.Header().Set("Content-Type", "application/did+ld+json")
	_ = json.NewEncoder(rw).Encode(doc)
}

// newHost starts a PDS. Faults are asked in order, each for every request.
func (w *world) newHost(t *testing.T, faults ...mischief) *testHost {
	t.Helper()
	h := &testHost{w: w, faults: faults, asked: map[string]int{}}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

func (h *testHost) setFaults(faults ...mischief) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = faults
}

func (h *testHost) requests(did string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[did]
}

func (h *testHost) serve(rw http.ResponseWriter, r *http.Request) {
	did := r.URL.Query().Get("did")
	h.mu.Lock()
	h.asked[did]++
	h.flight++
	h.peak = max(h.peak, h.flight)
	faults := h.faults
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.flight--
		h.mu.Unlock()
	}()
	h.w.mu.Lock()
	a := h.w.accounts[did]
	here := a != nil && a.pds == h.URL
	h.w.mu.Unlock()
	for _, f := range faults {
		if f(rw, r, h, a) {
			return
		}
	}
	if !here {
		xrpcError(rw, http.StatusBadRequest, "RepoNotFound", "Could not find repo for DID: "+did)
		return
	}
	rw.Header().Set("Content-Type", "application/vnd.ipld.car")
	_, _ = rw.Write(a.car())
}

func xrpcError(rw http.ResponseWriter, status int, name, message string) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(map[string]string{"error": name, "message": message})
}

// add makes an account with n posts, likes and records of a foreign collection.
func (w *world) add(t *testing.T, h *testHost, n int) *account {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	key, err := repo.NewKey(repo.Curve(len(w.accounts)%2), fmt.Sprint(len(w.accounts)))
	require.NoError(t, err)
	a := &account{
		did: "did:plc:" + plcName(len(w.accounts)), key: key, pds: h.URL, rev: string(syntax.NewTIDNow(0)), records: map[string][]byte{},
	}
	kinds := []string{"app.bsky.feed.post", "app.bsky.feed.like", "com.whtwnd.blog.entry"}
	for i := range n {
		kind := kinds[i%len(kinds)]
		path := fmt.Sprintf("%s/%s", kind, syntax.NewTID(int64(1_700_000_000_000_000+i*1000), 0))
		a.records[path] = testRecord(kind, i)
	}
	w.accounts[a.did] = a
	return a
}

func plcName(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	out := bytes.Repeat([]byte("a"), 24)
	for i := 23; n > 0; i-- {
		out[i] = letters[n%32]
		n /= 32
	}
	return string(out)
}

func testRecord(kind string, n int) []byte {
	b, err := dagcbor.FromJSON(fmt.Appendf(nil, `{"$type":%q,"text":"record number %d é \" \\","createdAt":"2026-01-02T03:04:05.678Z","n":%d}`, kind, n, n))
	if err != nil {
		panic(err)
	}
	return b
}

// edit changes the account and forgets its sealed form.
func (a *account) edit(f func(a *account)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
	a.sealed = nil
}

// blocks are those of the signed repository, the commit first, then the tree
// in pre-order with each record after its key.
func (a *account) blocks() []carBlock {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sealed == nil {
		a.sealed = seal(a.did, a.rev, a.records, a.key)
	}
	return slices.Clone(a.sealed)
}

func seal(did, rev string, records map[string][]byte, key *repo.Key) []carBlock {
	r := repo.New(did, key)
	isRecord := map[cid.Cid]bool{}
	writes := make([]repo.Write, 0, len(records))
	for _, path := range slices.Sorted(maps.Keys(records)) {
		c := repo.CID(records[path])
		isRecord[c] = true
		writes = append(writes, repo.Write{Action: repo.Create, Path: path, Record: records[path], CID: c})
	}
	if err := r.Load(rev, writes); err != nil {
		panic(err)
	}
	var buf bytes.Buffer
	if err := r.Export(&buf, ""); err != nil {
		panic(err)
	}
	root, blocks, err := repo.ReadCAR(buf.Bytes())
	if err != nil {
		panic(err)
	}
	out := make([]carBlock, len(blocks))
	for i, b := range blocks {
		kind := "node"
		switch {
		case b.CID == root:
			kind = "commit"
		case isRecord[b.CID]:
			kind = "record"
		}
		out[i] = carBlock{b, kind}
	}
	return out
}

func (a *account) car() []byte { return carOf(a.blocks()) }

// carOf writes an archive whose root is the first block.
func carOf(blocks []carBlock) []byte {
	plain := make([]repo.Block, len(blocks))
	for i, b := range blocks {
		plain[i] = b.Block
	}
	return repo.CAR(blocks[0].CID, plain)
}

// truth is what the output stream must hold of the account: uri → cid.
func (a *account) truth(keep func(string) bool) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]string{}
	for path, data := range a.records {
		if collection, _, _ := strings.Cut(path, "/"); keep(collection) {
			out["at://"+a.did+"/"+path] = repo.CID(data).String()
		}
	}
	return out
}

func (w *world) move(a *account, h *testHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.pds = h.URL
}

func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * limit) // limits are for an idle machine
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-tick.C
	}
}
