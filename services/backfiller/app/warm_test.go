package app

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/testkit/simnet"
)

// With the identities of an export in the cache, the directory is asked for
// nobody, and may be away.
func TestWarmedUpAsksNoDirectory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.net.PLCURL+"/export", http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var ops []atproto.PLCOperation
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		op, err := atproto.ParsePLCOperation(lines.Bytes())
		require.NoError(t, err)
		ops = append(ops, op)
	}
	n, err := atproto.ImportIdentities(t.Context(), s.redis.NewCache("identity", 200_000), ops, time.Hour)
	require.NoError(t, err)
	require.Equal(t, len(s.net.Truth().Accounts), n)

	var asked atomic.Int64
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "", http.StatusInternalServerError)
	}))
	t.Cleanup(away.Close)
	s.enumerate()
	run(t, s.url, s.prefix, &simnet.Network{PLCURL: away.URL})
	eventually(t, 40*time.Second, "all done", s.finished)
	s.complete()
	require.Zero(t, asked.Load())
}
