package identity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
	"sluice/services/indexer/internal/identity"
	"sluice/services/indexer/internal/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

var errNetwork = errors.New("network is unreachable")

// network answers from two maps; what is absent does not exist.
type network struct {
	docs    map[string]atproto.Identity
	handles map[string]string
	broken  map[string]bool // DIDs and handles that cannot be looked up now
}

func (n *network) Refresh(ctx context.Context, did string) (atproto.Identity, error) {
	if n.broken[did] {
		<-ctx.Done()
		return atproto.Identity{}, errNetwork
	}
	id, ok := n.docs[did]
	if !ok {
		return id, fault.Permanentf("%s does not exist", did)
	}
	return id, nil
}

func (n *network) ResolveHandle(_ context.Context, handle string) (string, error) {
	if n.broken[handle] {
		return "", errNetwork
	}
	did, ok := n.handles[handle]
	if !ok {
		return "", fault.Permanentf("%s leads nowhere", handle)
	}
	return did, nil
}

// tables keeps the checks and what was found in memory.
type tables struct {
	mu      sync.Mutex
	checks  []store.HandleCheck
	stale   map[string]bool // no longer due
	handles map[string]string
	forgot  []string
	ended   map[string]bool
	waits   map[string]time.Duration
}

func newTables(checks ...store.HandleCheck) *tables {
	return &tables{checks: checks, stale: map[string]bool{}, handles: map[string]string{}, ended: map[string]bool{}, waits: map[string]time.Duration{}}
}

func (t *tables) TakeHandleChecks(_ context.Context, n int, _ time.Duration) ([]store.HandleCheck, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n = min(n, len(t.checks))
	out := t.checks[:n]
	t.checks = t.checks[n:]
	for i := range out {
		out[i].Attempts++
	}
	return out, nil
}

func (t *tables) HandleDue(_ context.Context, c store.HandleCheck) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.stale[c.DID], nil
}

func (t *tables) HandleChecked(_ context.Context, c store.HandleCheck) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[c.DID] = true
	return nil
}

func (t *tables) HandleRetry(_ context.Context, c store.HandleCheck, wait time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits[c.DID] = wait
	t.checks = append(t.checks, c)
	return nil
}

func (t *tables) SetHandle(_ context.Context, did string, handle *string, at string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handles[did] = "NULL"
	if handle != nil {
		t.handles[did] = *handle
	}
	t.handles[did] += " at " + at
	return nil
}

func (t *tables) ForgetActor(_ context.Context, did string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgot = append(t.forgot, did)
	return nil
}

func (t *tables) all(n int) func() bool {
	return func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return len(t.ended) == n
	}
}

func account(did, handle string) atproto.Identity {
	return atproto.Identity{DID: did, Handle: handle, PDS: "https://pds.test", SigningKey: "did:key:x"}
}

func run(t *testing.T, v *identity.Verifier) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func TestFindings(t *testing.T) {
	t.Parallel()
	noKey := account("did:plc:nokey", "nokey.test")
	noKey.SigningKey = ""
	net := &network{
		docs: map[string]atproto.Identity{
			"did:plc:good": account("did:plc:good", "good.test"), "did:plc:thief": account("did:plc:thief", "good.test"),
			"did:plc:nowhere": account("did:plc:nowhere", "nowhere.test"), "did:plc:nokey": noKey, "did:plc:stale": account("did:plc:stale", "stale.test"),
			"did:plc:dns": account("did:plc:dns", "dns.test"),
		},
		handles: map[string]string{"good.test": "did:plc:good", "stale.test": "did:plc:stale"},
		broken:  map[string]bool{"dns.test": true},
	}
	tb := newTables(
		store.HandleCheck{DID: "did:plc:good", At: "1"}, store.HandleCheck{DID: "did:plc:thief", At: "2"},
		store.HandleCheck{DID: "did:plc:nowhere", At: "3"}, store.HandleCheck{DID: "did:plc:nokey", At: "4", Fresh: true},
		store.HandleCheck{DID: "did:plc:gone", At: "5", Fresh: true}, store.HandleCheck{DID: "did:plc:vanished", At: "6"},
		store.HandleCheck{DID: "did:plc:stale", At: "7"}, store.HandleCheck{DID: "did:plc:dns", At: "8"},
	)
	tb.stale["did:plc:stale"] = true
	reg := prometheus.NewRegistry()
	run(t, identity.New(identity.Config{Every: time.Millisecond, Attempts: 3}, net, tb, reg, slog.New(slog.DiscardHandler)))
	require.Eventually(t, tb.all(8), 60*time.Second, time.Millisecond)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	require.Equal(t, map[string]string{
		"did:plc:good": "good.test at 1", "did:plc:thief": "NULL at 2", "did:plc:nowhere": "NULL at 3",
		"did:plc:dns": "NULL at 8", // after three attempts
	}, tb.handles)
	require.ElementsMatch(t, []string{"did:plc:nokey", "did:plc:gone"}, tb.forgot, "what was known before stays")
	require.Greater(t, tb.waits["did:plc:dns"], 2*time.Second)
	n, err := testutil.GatherAndCount(reg, "sluice_identity_lookups_total")
	require.NoError(t, err)
	require.Equal(t, 4, n)
}

// What is no longer due costs nothing of the rate, so that what is due behind it
// does not wait.
func TestStaleChecksCostNoRate(t *testing.T) {
	t.Parallel()
	net := &network{docs: map[string]atproto.Identity{"did:plc:good": account("did:plc:good", "good.test")}, handles: map[string]string{"good.test": "did:plc:good"}}
	tb := newTables()
	for i := range 200 {
		did := fmt.Sprintf("did:plc:stale%d", i)
		tb.checks, tb.stale[did] = append(tb.checks, store.HandleCheck{DID: did}), true
	}
	tb.checks = append(tb.checks, store.HandleCheck{DID: "did:plc:good", At: "1"})
	run(t, identity.New(identity.Config{Every: time.Millisecond, Rate: 1}, net, tb, nil, slog.New(slog.DiscardHandler)))
	require.Eventually(t, tb.all(201), 60*time.Second, time.Millisecond)
}

// A look-up that hangs is given up for now, and keeps nobody else waiting.
func TestHangingNetwork(t *testing.T) {
	t.Parallel()
	net := &network{
		docs: map[string]atproto.Identity{"did:plc:good": account("did:plc:good", "good.test")}, handles: map[string]string{"good.test": "did:plc:good"},
		broken: map[string]bool{"did:plc:hangs": true},
	}
	tb := newTables(store.HandleCheck{DID: "did:plc:hangs"}, store.HandleCheck{DID: "did:plc:good"})
	stop := run(t, identity.New(identity.Config{Every: time.Millisecond, Timeout: 50 * time.Millisecond, Workers: 2}, net, tb, nil, slog.New(slog.DiscardHandler)))
	require.Eventually(t, func() bool {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		return tb.ended["did:plc:good"] && tb.waits["did:plc:hangs"] > 0
	}, 60*time.Second, time.Millisecond)
	stop()
	require.False(t, tb.ended["did:plc:hangs"], "it is due again later")
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body := http.StatusOK, `{}`
		switch r.URL.Path + " " + r.FormValue("did") {
		case "/xrpc/com.atproto.sync.getLatestCommit did:plc:hosted":
			body = `{"cid":"a","rev":"b"}`
		case "/xrpc/com.atproto.sync.getLatestCommit did:plc:gone":
			status, body = http.StatusBadRequest, `{"error":"RepoNotFound","message":"x"}`
		case "/xrpc/com.atproto.sync.getLatestCommit did:plc:refused":
			status, body = http.StatusForbidden, `{"error":"RepoTakendown"}`
		case "/xrpc/com.atproto.sync.getLatestCommit did:plc:ill", "/xrpc/com.atproto.sync.getRepoStatus did:plc:ill":
			status, body = http.StatusBadGateway, `<html>`
		case "/xrpc/com.atproto.sync.getRepoStatus did:plc:hosted":
			body = `{"did":"did:plc:hosted","active":true}`
		case "/xrpc/com.atproto.sync.getRepoStatus did:plc:gone":
			body = `{"did":"did:plc:gone","active":false,"status":"deactivated"}`
		case "/xrpc/com.atproto.sync.getRepoStatus did:plc:refused":
			status, body = http.StatusNotFound, `not here`
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	net := &network{docs: map[string]atproto.Identity{}, broken: map[string]bool{"did:plc:unknown": true}}
	for _, did := range []string{"did:plc:hosted", "did:plc:gone", "did:plc:refused", "did:plc:ill"} {
		net.docs[did] = atproto.Identity{DID: did, PDS: srv.URL}
	}
	net.docs["did:plc:homeless"] = atproto.Identity{DID: "did:plc:homeless"}
	a := identity.NewAccounts(net, srv.Client(), nil)
	for _, c := range []struct {
		did, status string
		want, fails bool
	}{
		{"did:plc:hosted", "deleted", false, false},
		{"did:plc:gone", "deleted", true, false},
		{"did:plc:refused", "deleted", false, false},
		{"did:plc:ill", "deleted", false, true},
		{"did:plc:homeless", "deleted", true, false},
		{"did:plc:nobody", "deleted", true, false},
		{"did:plc:unknown", "deleted", false, true},
		{"did:plc:hosted", "deactivated", false, false},
		{"did:plc:gone", "deactivated", true, false},
		{"did:plc:refused", "takendown", true, false},
		{"did:plc:ill", "suspended", false, true},
		{"did:plc:nobody", "suspended", true, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		got, err := a.Confirm(ctx, c.did, c.status)
		cancel()
		require.Equal(t, c.want, got, "%s %s", c.did, c.status)
		require.Equal(t, c.fails, err != nil, "%s %s: %v", c.did, c.status, err)
	}
}
