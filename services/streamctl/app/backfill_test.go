package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// netRig is a rig beside a simulated network.
type netRig struct {
	*rig
	net *simnet.Network
}

func newNetRig(t *testing.T, o world.Options) *netRig {
	t.Helper()
	redis, prefix := testkit.Redis(t)
	n := simnet.Start(t, simnet.Options{World: o})
	return &netRig{&rig{t: t, env: []string{
		"REDIS_URL=" + redis, "STREAM_KEY_PREFIX=" + prefix, "PLC_URL=" + n.PLCURL,
		"HANDLE_RESOLVER_URL=" + n.HandleResolverURL, "ALLOW_PRIVATE_NETWORK=127.0.0.0/8",
	}}, n}
}

// jobs reads the job stream.
func (r *rig) jobs() []*event.RepoJob {
	r.t.Helper()
	var out []*event.RepoJob
	page, err := r.client().Range(r.t.Context(), "repo_backfill", "-", "+", 100_000)
	require.NoError(r.t, err)
	for _, e := range page {
		j, err := event.DecodeJob(e.Get)
		require.NoError(r.t, err)
		require.Equal(r.t, event.ReasonManual, j.Reason)
		out = append(out, j)
	}
	return out
}

func dids(list []*event.RepoJob) map[string]int {
	out := map[string]int{}
	for _, j := range list {
		out[j.DID]++
	}
	return out
}

func (r *rig) report(args ...string) (code int, got addReport, errs string) {
	r.t.Helper()
	code, out, errs := r.run(append(args, "--json")...)
	require.NoError(r.t, json.Unmarshal([]byte(out), &got), "%s%s", out, errs)
	return code, got, errs
}

func TestBackfillAddByNameAndHandle(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 5, Accounts: 20, Records: 50, NoAccountEvents: true})
	a, b := r.net.Truth().Accounts[0], r.net.Truth().Accounts[1]
	require.Contains(t, r.ok("backfill", "add", a.DID, "@"+strings.ToUpper(b.Handle)), "added 2 jobs")
	require.Equal(t, map[string]int{a.DID: 1, b.DID: 1}, dids(r.jobs()))
	for _, bad := range []string{"nobody.test", "did:key:z6Mk", "not a name", "did:plc:"} {
		code, _, errs := r.run("backfill", "add", a.DID, bad)
		require.Equal(t, 1, code, bad)
		require.Contains(t, errs, strings.Fields(bad)[0])
	}
	require.Len(t, r.jobs(), 2, "nothing is added when one name is bad")
	for _, args := range [][]string{{}, {"--limit", "0", a.DID}, {a.DID, "--host", "x"}, {"--collection", "app.bsky.feed.post"}, {"--host", "x", "--collection", "no nsid"}} {
		code, _, errs := r.run(append([]string{"backfill", "add"}, args...)...)
		require.Equal(t, 1, code, "%v: %s", args, errs)
	}
}

// A handle that leads to a DID whose document names another is refused.
func TestBackfillAddChecksHandlesBothWays(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 5, Accounts: 8, Records: 10, NoAccountEvents: true})
	victim := r.net.Truth().Accounts[0]
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"did":%q}`, victim.DID)
	}))
	t.Cleanup(liar.Close)
	code, _, errs := r.run("backfill", "add", "thief.example.com", "--handle-resolver-url", liar.URL)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "handle thief.example.com leads to "+victim.DID+", whose document names "+victim.Handle)
	require.Empty(t, r.jobs())
}

func TestBackfillAddFile(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 5, Accounts: 40, Records: 50, NoAccountEvents: true})
	accounts := r.net.Truth().Accounts
	var text strings.Builder
	want := map[string]int{}
	text.WriteString("# the accounts\n\n")
	for i, a := range accounts {
		want[a.DID]++
		if known := r.net.World.Resolve(a.Handle); i%2 == 0 || known == nil {
			fmt.Fprintf(&text, "%s # number %d\r\n", a.DID, i)
		} else {
			fmt.Fprintf(&text, "  %s\n", a.Handle)
		}
	}
	lines := strings.Count(text.String(), "\n")
	text.WriteString("did:plc:UPPER\xff\n" + strings.Repeat("x", 9000) + "\nnobody.test\n" + accounts[0].DID)
	want[accounts[0].DID]++
	path := filepath.Join(t.TempDir(), "dids.txt")
	require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))
	code, got, errs := r.report("backfill", "add", "--file", path)
	require.Equal(t, 2, code)
	require.EqualValues(t, 3, got.Bad, got.BadLines)
	require.EqualValues(t, 41, got.Added)
	require.True(t, got.End)
	require.Len(t, got.BadLines, 3)
	named := map[int]string{}
	for _, b := range got.BadLines {
		named[b.Line] = b.Error
		require.Contains(t, errs, fmt.Sprintf("%s:%d: ", path, b.Line))
	}
	require.Contains(t, named[lines+1], "is not a DID")
	require.Contains(t, named[lines+2], "longer than")
	require.Contains(t, named[lines+3], "nobody.test")
	require.Equal(t, want, dids(r.jobs()))

	r.in = accounts[3].DID + "\n" + accounts[4].Handle + "\n"
	require.Contains(t, r.ok("backfill", "add", "--file", "-"), "added 2 jobs")
	code, _, errs = r.run("backfill", "add", "--file", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no such file")
}

// Many names are added in order, and the memory that it takes is a chunk's.
func TestBackfillAddManyLines(t *testing.T) {
	t.Parallel()
	redis, prefix := testkit.Redis(t)
	r := &rig{t: t, env: []string{"REDIS_URL=" + redis, "STREAM_KEY_PREFIX=" + prefix}}
	var text strings.Builder
	for i := range 3001 {
		fmt.Fprintf(&text, "did:plc:%s\n", name(i))
	}
	r.in = text.String()
	require.Contains(t, r.ok("backfill", "add", "--file", "-"), "added 3,001 jobs")
	for i, j := range r.jobs() {
		require.Equal(t, "did:plc:"+name(i), j.DID)
	}
}

// name is the n-th identifier of did:plc.
func name(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	id := bytes.Repeat([]byte("a"), 24)
	for i := 23; n > 0; i-- {
		id[i] = letters[n%32]
		n /= 32
	}
	return string(id)
}

func TestBackfillAddHost(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 5, Accounts: 60, Records: 300, PDS: 2})
	require.NoError(t, r.net.Faults.Apply("list_429=1/1,list_5xx=1/1"))
	want := map[string]int{}
	for _, a := range r.net.Truth().Accounts {
		if a.PDS == 1 && a.Status == "" && a.Rev != "" {
			want[a.DID]++
		}
	}
	require.NotEmpty(t, want)
	code, got, errs := r.report("backfill", "add", "--host", r.net.PDSURLs[1])
	require.Equal(t, 0, code, errs)
	require.True(t, got.End)
	require.EqualValues(t, len(want), got.Added)
	require.Positive(t, r.net.Faults.Fired("list_429"))
	require.Positive(t, r.net.Faults.Fired("list_5xx"))
	list := r.jobs()
	require.Equal(t, want, dids(list))
	for _, j := range list {
		require.NotEmpty(t, j.Rev)
		require.Equal(t, strings.TrimPrefix(r.net.PDSURLs[1], "http://"), j.Host)
	}

	// What the ledger has at that rev is left out on wish.
	ledger := r.client().NewRegister("repo_backfill", ":state", 1<<19)
	require.NoError(t, ledger.Set(t.Context(), strings.TrimPrefix(list[0].DID, "did:plc:"), "d"+list[0].Rev))
	require.NoError(t, ledger.Set(t.Context(), strings.TrimPrefix(list[1].DID, "did:plc:"), "d2222222222222"))
	_, got, _ = r.report("backfill", "add", "--host", r.net.PDSURLs[1], "--skip-done")
	require.EqualValues(t, 1, got.Known)
	require.EqualValues(t, len(want)-1, got.Added)

	code, _, errs = r.run("backfill", "add", "--host", "https://x/path")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "is not a host")
}

// A listing that is cut short goes on where it was, adding nothing twice.
func TestBackfillAddHostResumes(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 6, Accounts: 60, Records: 100, PDS: 1, NoAccountEvents: true})
	host := r.net.PDSURLs[0]
	_, got, _ := r.report("backfill", "add", "--host", host, "--limit", "25")
	require.EqualValues(t, 25, got.Added)
	require.False(t, got.End)
	require.Contains(t, r.ok("backfill", "add", "--host", host, "--limit", "10"), "the same command continues it")
	_, got, _ = r.report("backfill", "add", "--host", host)
	require.True(t, got.Resumed)
	require.True(t, got.End)
	require.EqualValues(t, 25, got.Added)
	seen := dids(r.jobs())
	require.Len(t, seen, 60)
	for did, n := range seen {
		require.Equal(t, 1, n, did)
	}
	_, got, _ = r.report("backfill", "add", "--host", host, "--limit", "5")
	require.False(t, got.Resumed, "a listing that has ended begins anew")
	_, got, _ = r.report("backfill", "add", "--host", host, "--restart")
	require.False(t, got.Resumed)
	require.EqualValues(t, 60, got.Added)
}

// At its mark the stream is not filled further; the run waits and says so.
func TestBackfillAddHostWaitsAtTheMark(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 6, Accounts: 60, Records: 100, PDS: 1, NoAccountEvents: true})
	r.env = append(r.env, "INGESTER_REPO_STREAM_HIGH_WATER_MARK=30")
	host := r.net.PDSURLs[0]
	_, got, _ := r.report("backfill", "add", "--host", host, "--limit", "30")
	require.EqualValues(t, 30, got.Added)
	const waits = "waiting: the job stream is at its mark"
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	errs := &onText{text: waits, times: 3, then: cancel}
	tl := &tool{version: "v1", environ: r.env, in: strings.NewReader(""), out: &bytes.Buffer{}, err: errs}
	require.Equal(t, 1, tl.run(ctx, []string{"backfill", "add", "--host", host}))
	require.GreaterOrEqual(t, strings.Count(errs.String(), waits), 3)
	require.Len(t, r.jobs(), 30)
	require.Contains(t, r.ok("backfill", "add", r.net.Truth().Accounts[0].DID), "added 1 jobs", "a few are added at any time")
}

// onText calls then as soon as text has been written so many times.
type onText struct {
	bytes.Buffer

	text  string
	times int
	then  func()
}

func (o *onText) Write(p []byte) (int, error) {
	n, err := o.Buffer.Write(p)
	if strings.Count(o.String(), o.text) >= o.times {
		o.then()
	}
	return n, err
}

func TestBackfillAddHostThatMisbehaves(t *testing.T) {
	t.Parallel()
	redis, prefix := testkit.Redis(t)
	r := &rig{t: t, env: []string{"REDIS_URL=" + redis, "STREAM_KEY_PREFIX=" + prefix}}
	var asked atomic.Int64
	pds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n := asked.Add(1)
		switch req.URL.Query().Get("cursor") {
		case "":
			_, _ = fmt.Fprintf(w, `{"cursor":"1","repos":[{"did":"did:plc:%s","rev":7},{"did":"nonsense"},5,{"did":"did:plc:%s","active":false,"status":"TakenDown"}]}`, name(1), name(2))
		default:
			_, _ = fmt.Fprintf(w, `{"cursor":"idle %d","repos":[]}`, n)
		}
	}))
	t.Cleanup(pds.Close)
	code, _, errs := r.run("backfill", "add", "--host", pds.URL)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "100 pages in a row")
	require.Contains(t, errs, "after 1 jobs were added")
	require.Equal(t, map[string]int{"did:plc:" + name(1): 1}, dids(r.jobs()))

	for what, handler := range map[string]http.HandlerFunc{
		"does not move": func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"cursor":"x","repos":[]}`) },
		"status 404":    func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"name that host": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://169.254.169.254/", http.StatusFound)
		},
		"redirect is not follo": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, req.URL.String(), http.StatusFound)
		},
	} {
		srv := httptest.NewServer(handler)
		t.Cleanup(srv.Close)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var errs bytes.Buffer
		tl := &tool{version: "v1", environ: r.env, in: strings.NewReader(""), out: &bytes.Buffer{}, err: &errs}
		require.Equal(t, 1, tl.run(ctx, []string{"backfill", "add", "--host", srv.URL}), what)
		require.Contains(t, errs.String(), what)
		cancel()
	}
}

func TestBackfillAddCollection(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 7, Accounts: 80, Records: 800, PDS: 2})
	want := map[string]int{}
	status := map[string]string{}
	for _, a := range r.net.Truth().Accounts {
		status[a.DID] = a.Status
	}
	for _, x := range r.net.Truth().Records {
		did, path, _ := strings.Cut(strings.TrimPrefix(x.URI, "at://"), "/")
		if strings.HasPrefix(path, "app.bsky.graph.list/") && status[did] != "deleted" {
			want[did] = 1
		}
	}
	require.NotEmpty(t, want)
	relay := strings.Replace(r.net.RelayHost, "ws://", "http://", 1)
	code, got, errs := r.report("backfill", "add", "--host", relay, "--collection", "app.bsky.graph.list", "--limit", "3")
	require.Equal(t, 0, code, errs)
	require.False(t, got.End)
	code, got, errs = r.report("backfill", "add", "--host", r.net.RelayHost, "--collection", "app.bsky.graph.list")
	require.Equal(t, 0, code, errs)
	require.True(t, got.End)
	require.Less(t, len(want), len(status))
	require.Equal(t, want, dids(r.jobs()))
}

// letter puts a job into the dead letters as the backfiller does.
func (r *rig) letter(c *redstream.Client, did, host, reason, cause string) {
	r.t.Helper()
	q, err := c.DeadLetters("repo_backfill", "").Writer()
	require.NoError(r.t, err)
	defer q.Close()
	name, value, err := event.JSON.Job(&event.RepoJob{DID: did, Host: host, Active: true, Reason: event.ReasonManual})
	require.NoError(r.t, err)
	fields := []redstream.Field{
		{Name: name, Value: value},
		{Name: "reason", Value: reason},
		{Name: "error", Value: cause},
		{Name: "attempts", Value: "4"},
		{Name: "first_seen", Value: "2026-01-01T00:00:00.000Z"},
		{Name: "parked_at", Value: "2026-01-01T00:00:01.000Z"},
		{Name: "source_id", Value: "1-1"},
	}
	require.NoError(r.t, q.Append(r.t.Context(), []redstream.Item{{Fields: fields}}))
}

func TestBackfillRetry(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 8, Accounts: 30, Records: 60, PDS: 2, NoAccountEvents: true})
	c := r.client()
	accounts := r.net.Truth().Accounts
	onOne := int64(0)
	for i, a := range accounts {
		reason, cause := "retries_exhausted", "body_cut: after 17 bytes: connection reset"
		if i%3 == 0 {
			reason, cause = "too_large", "too_large: body above 5 bytes"
		}
		if a.PDS == 1 && i >= 5 {
			onOne++
		}
		r.letter(c, a.DID, "relay.test", reason, cause)
	}
	require.Contains(t, r.ok("backfill", "retry", "--all", "--dry-run"), "body_cut")
	code, _, errs := r.run("backfill", "retry", "--all")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "try 30 repositories again?")
	require.Empty(t, r.jobs(), "not confirmed")
	report := func(args ...string) retryReport {
		var got retryReport
		require.NoError(t, json.Unmarshal([]byte(r.ok(append([]string{"backfill", "retry", "--json", "--yes"}, args...)...)), &got))
		return got
	}
	for i, name := range []string{accounts[0].DID, accounts[1].Handle, accounts[2].DID, accounts[3].DID, accounts[4].DID} {
		require.EqualValues(t, 1, report(name).Retried, i)
	}
	require.Contains(t, r.ok("backfill", "retry", accounts[0].DID), "nothing to retry")
	require.Equal(t, onOne, report("--host", r.net.PDSURLs[1], "--dry-run").Matched)
	require.Equal(t, retryReport{Matched: 25, Retried: 0, ByReason: map[string]int64{"body_cut": 17, "too_large": 8}}, report("--host", "relay.test", "--dry-run"))
	require.EqualValues(t, 17, report("--error", "connection reset", "--dry-run").Matched)
	require.EqualValues(t, 17, report("--reason", "retries_exhausted", "--dry-run").Matched)
	require.EqualValues(t, 17, report("--reason", "body_cut").Retried)
	require.EqualValues(t, 8, report("--all").Retried)
	require.Len(t, dids(r.jobs()), 30)
	n, err := c.DeadLetters("repo_backfill", "").Len(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	for _, args := range [][]string{{}, {"--all", "--reason", "x"}, {"--gone", "--error", "x"}, {"--host", "a b"}} {
		code, _, _ := r.run(append([]string{"backfill", "retry"}, args...)...)
		require.Equal(t, 1, code, args)
	}
}

func TestBackfillRetryGone(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 8, Accounts: 9, Records: 20, PDS: 2, NoAccountEvents: true})
	ledger := r.client().NewRegister("repo_backfill", ":state", 1<<19)
	want, here := map[string]int{}, 0
	for i, a := range r.net.Truth().Accounts {
		value := []string{"d3lo2kcpdbqg2v", "g3lo2kcpdbqg2v address_refused", "g repo_deactivated"}[i%3]
		require.NoError(t, ledger.Set(t.Context(), strings.TrimPrefix(a.DID, "did:plc:"), value))
		if i%3 == 1 {
			want[a.DID]++
		}
		if i%3 > 0 && a.PDS == 0 {
			here++
		}
	}
	require.Contains(t, r.ok("backfill", "retry", "--gone", "--reason", "address_refused", "--yes"), "put back: 3")
	require.Equal(t, want, dids(r.jobs()))
	var got retryReport
	require.NoError(t, json.Unmarshal([]byte(r.ok("backfill", "retry", "--gone", "--host", r.net.PDSURLs[0], "--dry-run", "--json")), &got))
	require.EqualValues(t, here, got.Matched)
	require.Contains(t, r.ok("backfill", "retry", "--gone", r.net.Truth().Accounts[2].DID), "put back: 1")
	require.Contains(t, r.ok("backfill", "retry", "--gone", r.net.Truth().Accounts[0].DID), "nothing to retry")
}
