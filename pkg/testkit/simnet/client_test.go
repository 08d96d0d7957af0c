package simnet

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

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
	got := tryFetch(url)
	require.NoError(t, got.err)
	return got.status, got.body
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func tryFetch(url string) answer { return fetchSome(url, 32<<20) }

// fetchSome reads at most limit bytes of an answer.
func fetchSome(url string, limit int64) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{err: err}
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, limit))
	return answer{res.StatusCode, res.Header, body, err}
}

// reader is a plain subscriber.
type reader struct {
	conn *websocket.Conn
	// patience is how long the stream may be quiet before next gives up.
	patience time.Duration
}

func subscribe(t *testing.T, url string) *reader {
	t.Helper()
	conn, res, err := websocket.DefaultDialer.Dial(url, nil)
	require.NoError(t, err)
	_ = res.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	return &reader{conn, 1500 * time.Millisecond}
}

// patiently makes the reader wait for what is sure to come.
func (r *reader) patiently() *reader {
	r.patience = 30 * time.Second
	return r
}

// next returns the next message; nil when the stream is quiet or ends.
func (r *reader) next() []byte {
	_ = r.conn.SetReadDeadline(time.Now().Add(r.patience))
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

func start(t *testing.T, change func(*Options)) *Network {
	t.Helper()
	o := Options{World: world.Options{Seed: 5, Records: 1200}, SlowPause: time.Millisecond, StallTime: 50 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	return Start(t, o)
}
