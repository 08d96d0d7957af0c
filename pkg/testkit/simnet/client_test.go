package simnet

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"
)

func TestMain(m *testing.M) {
	// The SDK's logger starts a goroutine when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// get asks for a JSON answer and returns the status.
func get(t *testing.T, url string, into any) int {
	t.Helper()
	status, body := fetch(t, url)
	if into != nil {
		require.NoError(t, json.Unmarshal(body, into), string(body))
	}
	return status
}

func fetch(t *testing.T, url string) (int, []byte) {
	t.Helper()
	res, body, err := tryFetch(url)
	require.NoError(t, err)
	return res.StatusCode, body
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}

func tryFetch(url string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 32<<20))
	return res, body, err
}

// reader is a plain subscriber.
type reader struct {
	conn *websocket.Conn
	t    *testing.T
}

func subscribe(t *testing.T, url string) *reader {
	t.Helper()
	conn, res, err := websocket.DefaultDialer.Dial(url, nil)
	require.NoError(t, err)
	_ = res.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	return &reader{conn, t}
}

// next returns the next message; nil when the stream is quiet or ends.
func (r *reader) next() []byte {
	_ = r.conn.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	_, data, err := r.conn.ReadMessage()
	if err != nil {
		return nil
	}
	return data
}

// drain reads all there is.
func (r *reader) drain(until func([]byte) bool) [][]byte {
	var out [][]byte
	for {
		data := r.next()
		if data == nil {
			return out
		}
		out = append(out, data)
		if until != nil && until(data) {
			return out
		}
	}
}

func commitOf(data []byte) *comatproto.SyncSubscribeRepos_Commit {
	kind, message, err := repo.Message(data)
	if err != nil || kind != "#commit" {
		return nil
	}
	var c comatproto.SyncSubscribeRepos_Commit
	if c.UnmarshalCBOR(bytes.NewReader(message)) != nil {
		return nil
	}
	return &c
}

func start(t *testing.T, change func(*Options)) *Network {
	t.Helper()
	o := Options{World: world.Options{Seed: 5, Records: 1200}, SlowPause: time.Millisecond, StallTime: 50 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	return Start(t, o)
}
