package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/gorilla/websocket"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

func get(t *testing.T, url string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(body, into), string(body))
	}
	return res.StatusCode
}

func TestFirehoseIsServedAsRecorded(t *testing.T) {
	t.Parallel()
	r, err := LoadFirehose(testkit.Shared(t, "fixtures/firehose"))
	require.NoError(t, err)
	require.Len(t, r.Frames, 100)
	s := Serve(t, r)
	require.Len(t, read(t, s, 0, 100), 100)
	half := r.Frames[49].Seq
	got := read(t, s, half, 50)
	require.Equal(t, r.Frames[50].Data, got[0])
	did := r.DIDs()[0]
	var doc struct {
		ID      string
		Service []struct{ ServiceEndpoint string }
	}
	require.Equal(t, http.StatusOK, get(t, s.PLCURL+"/"+did, &doc))
	require.Equal(t, did, doc.ID)
	require.Equal(t, s.URL, doc.Service[0].ServiceEndpoint)
	var found struct{ DID string }
	require.Equal(t, http.StatusOK, get(t, s.URL+"/xrpc/com.atproto.identity.resolveHandle?handle="+r.Identities[did].Handle, &found))
	require.Equal(t, did, found.DID)
	require.Equal(t, http.StatusNotFound, get(t, s.PLCURL+"/did:plc:none", nil))
}

func read(t *testing.T, s *Server, cursor int64, n int) [][]byte {
	t.Helper()
	conn, res, err := websocket.DefaultDialer.Dial(fmt.Sprintf("%s/xrpc/com.atproto.sync.subscribeRepos?cursor=%d", s.RelayHost, cursor), nil)
	require.NoError(t, err)
	_ = res.Body.Close()
	defer conn.Close()
	var out [][]byte
	for len(out) < n {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, data, err := conn.ReadMessage()
		require.NoError(t, err)
		out = append(out, data)
	}
	return out
}

// TestEveryNetworkCanBeBackfilled fetches each repository and compares its
// records with the recorded rows.
func TestEveryNetworkCanBeBackfilled(t *testing.T) {
	t.Parallel()
	root := testkit.Shared(t, "fixtures/network")
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	networks := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		networks++
		r, err := LoadNetwork(filepath.Join(root, e.Name()))
		require.NoError(t, err)
		require.NotEmpty(t, r.Frames)
		repos := 0
		for _, did := range r.DIDs() {
			if _, _, found := r.Head(did); !found {
				continue
			}
			var car bytes.Buffer
			require.NoError(t, r.Export(&car, did), e.Name())
			_, loaded, err := atrepo.LoadRepoFromCAR(context.Background(), &car)
			require.NoError(t, err)
			leaves := map[string]cid.Cid{}
			require.NoError(t, loaded.MST.WriteToMap(leaves))
			repos++
		}
		require.Positive(t, repos, e.Name())
	}
	require.Greater(t, networks, 20)
}

func TestNetworkAnswersForItsAccounts(t *testing.T) {
	t.Parallel()
	r, err := LoadNetwork(testkit.Shared(t, "fixtures/network/net_deletion"))
	require.NoError(t, err)
	s := Serve(t, r)
	require.Len(t, read(t, s, 0, len(r.Frames)), len(r.Frames))
	listed, cursor := map[string]bool{}, ""
	for {
		var page struct {
			Cursor string
			Repos  []struct{ DID string }
		}
		get(t, s.URL+"/xrpc/com.atproto.sync.listRepos?cursor="+cursor, &page)
		for _, row := range page.Repos {
			require.False(t, listed[row.DID])
			listed[row.DID] = true
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	deleted := 0
	for did, id := range r.Identities {
		status := get(t, s.URL+"/xrpc/com.atproto.sync.getLatestCommit?did="+did, nil)
		if id.LatestCommit == nil {
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, http.StatusOK, get(t, s.URL+"/xrpc/com.atproto.sync.getRepo?did="+did, nil))
			require.True(t, listed[did])
			continue
		}
		deleted++
		require.Equal(t, http.StatusBadRequest, status)
		require.False(t, listed[did])
	}
	require.Positive(t, deleted)
	require.Positive(t, s.Asked("getLatestCommit"))
}
