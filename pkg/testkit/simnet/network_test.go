package simnet

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"
)

func TestStreamGivesEveryFrameAfterTheCursor(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	_, last := n.World.Seqs()
	frames, _ := n.World.Frames(0, 1<<20)
	final := func(b []byte) bool { return bytes.Equal(b, frames[len(frames)-1].Data) }
	got := subscribe(t, n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos?cursor=0").patiently().drain(final)
	require.Len(t, got, len(frames))
	for i := range got {
		require.Equal(t, frames[i].Data, got[i])
	}
	half := frames[len(frames)/2].Seq
	got = subscribe(t, n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos?cursor="+itoa(half)).patiently().drain(final)
	require.Len(t, got, len(frames)-len(frames)/2-1)
	require.GreaterOrEqual(t, n.Status().Served[0], int64(len(frames)))

	got = subscribe(t, n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos?cursor="+itoa(last+99)).drain(nil)
	require.Equal(t, [][]byte{repo.ErrorFrame("FutureCursor", "Cursor in the future.")}, got)

	first := subscribe(t, n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos?cursor=12").next()
	kind, _, err := repo.Message(first)
	require.NoError(t, err)
	require.Equal(t, "#info", kind)
}

// TestRelaysCountForThemselves: the same frames under other numbers.
func TestRelaysCountForThemselves(t *testing.T) {
	t.Parallel()
	n := start(t, func(o *Options) { o.Relays, o.World.Records = 2, 300 })
	frames, _ := n.World.Frames(0, 1<<20)
	last := frames[len(frames)-1].Seq + seqStep
	got := subscribe(t, n.RelayHosts[1]+"/xrpc/com.atproto.sync.subscribeRepos?cursor=0").patiently().drain(func(b []byte) bool {
		return seqOf(b) == last
	})
	require.Len(t, got, len(frames))
	for i, b := range got {
		require.Equal(t, frames[i].Seq+seqStep, seqOf(b))
		require.Equal(t, frames[i].Data, reseq(b, seqOf(b), -seqStep))
		if frames[i].Kind == world.Commit {
			require.NoError(t, verify(frames[i].Account, b))
		}
	}
}

func itoa(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestLiveGoesOn(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	r := subscribe(t, n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos").patiently()
	before := n.World.Len()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Live(ctx, 400, time.Minute) }()
	for range 20 {
		require.NotNil(t, r.next())
	}
	cancel()
	require.NoError(t, <-done)
	require.Greater(t, n.World.Len(), before)
	require.True(t, n.Status().Done)
}

func TestDirectoryAndHandles(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	gone, missing := 0, 0
	for _, a := range n.World.Accounts() {
		s := n.World.State(a)
		var doc struct {
			ID          string   `json:"id"`
			AlsoKnownAs []string `json:"alsoKnownAs"`
			Service     []struct{ ServiceEndpoint string }
		}
		status := get(t, n.PLCURL+"/"+a.DID, &doc)
		if s.Tombstoned {
			require.Equal(t, http.StatusGone, status)
			gone++
			continue
		}
		require.Equal(t, a.DID, doc.ID)
		require.Equal(t, n.PDSURLs[s.PDS], doc.Service[0].ServiceEndpoint)
		if s.Status == "deleted" {
			continue
		}
		var found struct{ DID, Error string }
		status = get(t, n.HandleResolverURL+"/xrpc/com.atproto.identity.resolveHandle?handle="+s.Handle, &found)
		if !s.Resolves {
			require.Equal(t, http.StatusBadRequest, status)
			require.Equal(t, "HandleNotFound", found.Error)
			missing++
			continue
		}
		require.Equal(t, a.DID, found.DID)
	}
	require.Positive(t, missing)
	require.Equal(t, http.StatusNotFound, get(t, n.PLCURL+"/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", nil))
	_, export := fetch(t, n.PLCURL+"/export?count=1000")
	require.Len(t, strings.Split(strings.TrimSpace(string(export)), "\n"), len(n.World.Accounts()))
}

type listed struct {
	Cursor string
	Repos  []struct {
		DID, Head, Rev, Status string
		Active                 bool
	}
}

// TestBackfillFindsTheTruth goes the way of a backfiller: hosts, their
// repositories, the blocks.
func TestBackfillFindsTheTruth(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	var hosts struct {
		Hosts []struct{ Hostname string }
	}
	get(t, relayURL(n)+"/xrpc/com.atproto.sync.listHosts", &hosts)
	require.Len(t, hosts.Hosts, len(n.PDSURLs))
	got := map[string]string{}
	for _, h := range hosts.Hosts {
		cursor := ""
		for {
			var page listed
			get(t, "http://"+h.Hostname+"/xrpc/com.atproto.sync.listRepos?limit=7&cursor="+cursor, &page)
			for _, r := range page.Repos {
				collect(t, n, r.DID, r.Active, got)
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
	}
	truth := n.Truth()
	inactive := map[string]bool{}
	for _, a := range truth.Accounts {
		inactive[a.DID] = a.Status != ""
	}
	want := map[string]string{}
	for _, r := range truth.Records {
		if !inactive[strings.Split(r.URI, "/")[2]] {
			want[r.URI] = r.CID
		}
	}
	require.Equal(t, want, got)
}

func relayURL(n *Network) string { return "http" + strings.TrimPrefix(n.RelayHost, "ws") }

func collect(t *testing.T, n *Network, did string, active bool, into map[string]string) {
	t.Helper()
	status, body := fetch(t, relayURL(n)+"/xrpc/com.atproto.sync.getRepo?did="+did)
	if !active {
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, string(body), `"error":"Repo`)
		return
	}
	require.Equal(t, http.StatusOK, status)
	commit, r, err := atrepo.LoadRepoFromCAR(context.Background(), bytes.NewReader(body))
	require.NoError(t, err)
	var head struct{ Rev string }
	get(t, relayURL(n)+"/xrpc/com.atproto.sync.getLatestCommit?did="+did, &head)
	require.Equal(t, commit.Rev, head.Rev)
	leaves := map[string]string{}
	require.NoError(t, r.MST.Verify())
	for path, c := range mustMap(t, r) {
		leaves["at://"+did+"/"+path] = c
	}
	maps.Copy(into, leaves)
}

func TestControlOverHTTP(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	var truth world.Truth
	get(t, n.PLCURL+"/_sim/truth", &truth)
	want := n.Truth()
	require.Equal(t, want.Counts, truth.Counts)
	require.Len(t, truth.Records, len(want.Records))
	var counts map[string]int64
	get(t, n.PLCURL+"/_sim/counts", &counts)
	require.Equal(t, want.Counts, counts)
	var status Status
	get(t, n.PLCURL+"/_sim/status", &status)
	require.Equal(t, n.World.Len(), status.Frames)

	require.Equal(t, http.StatusOK, post(t, n.PLCURL+"/_sim/faults", "application/json", `{"gap":{"times":2,"every":5}}`))
	require.Equal(t, http.StatusOK, post(t, n.PLCURL+"/_sim/faults", "text/plain", "disconnect=1/10"))
	require.Equal(t, []string{FaultDisconnect, FaultGap}, n.Faults.Pending())
	require.Equal(t, http.StatusBadRequest, post(t, n.PLCURL+"/_sim/faults", "text/plain", "earthquake"))
	require.Equal(t, http.StatusOK, post(t, n.PLCURL+"/_sim/step?n=5", "", ""))
	require.Greater(t, n.World.Len(), status.Frames)
}

func post(t *testing.T, url, kind, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", kind)
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	return res.StatusCode
}

func TestLabels(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	got := subscribe(t, n.LabelerHost+"/xrpc/com.atproto.label.subscribeLabels?cursor=0").patiently().drain(func(b []byte) bool {
		return seqOf(b) == n.World.LastLabel()
	})
	require.Len(t, got, int(n.World.LastLabel()))
	verifyLabels(t, n, got)
}
