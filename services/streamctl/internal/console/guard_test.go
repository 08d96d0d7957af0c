package console

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/streamctl/internal/road"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"))
}

const token = "a-token-of-some-length"

// blind sees nothing.
type blind struct{}

func (blind) Look(context.Context) (*road.Look, error) { return nil, errors.New("closed eyes") }

func (blind) Examine(context.Context) (*road.Examination, error) {
	return nil, errors.New("closed eyes")
}

// console is a server whose dead letters are in a real Redis.
func console(t *testing.T, cfg Config) (*Server, *redstream.Client) {
	t.Helper()
	url, prefix := testkit.Redis(t)
	client, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:4180"
	}
	s, err := New(cfg, Deps{
		Watcher: road.New(blind{}, road.Config{}), Streams: []string{"live"}, Log: slog.New(slog.DiscardHandler),
		Letters: func(_ context.Context, stream string) (*redstream.DLQ, error) {
			return client.DeadLetters(stream, ""), nil
		},
		Decode: func(string, []redstream.Field) (any, error) { return nil, errors.New("not JSON") },
	})
	require.NoError(t, err)
	return s, client
}

// ask sends one request. Headers are "Name: value".
func ask(s *Server, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:4180"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func oneLine(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e struct {
		Error string `json:"error"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e), w.Body.String())
	require.Equal(t, 1, strings.Count(w.Body.String(), "\n"), "one line: %s", w.Body)
	require.NotEmpty(t, e.Error)
	return e.Error
}

func TestWhoMayRead(t *testing.T) {
	t.Parallel()
	bearer := "Authorization: Bearer " + token
	for _, c := range []struct {
		name   string
		listen string
		token  string
		with   []string
		want   int
	}{
		{"loopback, without a token", "127.0.0.1:4180", "", nil, 200},
		{"loopback, by name", "127.0.0.1:4180", "", []string{"Host: localhost:4180"}, 200},
		{"loopback, by IPv6", "[::1]:4180", "", []string{"Host: [::1]:4180"}, 200},
		{"a name that was pointed here", "127.0.0.1:4180", "", []string{"Host: evil.example"}, 421},
		{"the same with the token", "127.0.0.1:4180", token, []string{"Host: evil.example", bearer}, 421},
		{"a name that begins like ours", "127.0.0.1:4180", "", []string{"Host: 127.0.0.1.evil.example"}, 421},
		{"through a proxy", "127.0.0.1:4180", "", []string{"X-Forwarded-For: 203.0.113.5"}, 403},
		{"through a proxy, with the token", "127.0.0.1:4180", token, []string{"X-Forwarded-For: 203.0.113.5", bearer}, 200},
		{"by a name that is allowed", "127.0.0.1:4180", token, []string{"Host: console.example"}, 401},
		{"the same with the token", "127.0.0.1:4180", token, []string{"Host: console.example", bearer}, 200},
		{"beyond loopback", "0.0.0.0:4180", token, nil, 401},
		{"beyond loopback, a wrong token", "0.0.0.0:4180", token, []string{"Authorization: Bearer x"}, 401},
		{"beyond loopback, another scheme", "0.0.0.0:4180", token, []string{"Authorization: Basic " + token}, 401},
		{"beyond loopback, the token", "0.0.0.0:4180", token, []string{bearer, "Host: sluice.internal"}, 200},
		{"another page asks", "127.0.0.1:4180", "", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"another port of the same host", "127.0.0.1:4180", "", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"another origin", "127.0.0.1:4180", "", []string{"Origin: http://evil.example"}, 403},
		{"no origin", "127.0.0.1:4180", "", []string{"Origin: null"}, 403},
		{"our own page", "127.0.0.1:4180", "", []string{"Origin: http://127.0.0.1:4180", "Sec-Fetch-Site: same-origin"}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _ := console(t, Config{Listen: c.listen, Token: c.token, Hosts: []string{"console.example"}})
			for _, path := range []string{"/api/view", "/api/history", "/api/letters?stream=live"} {
				w := ask(s, "GET", path, "", c.with...)
				require.Equal(t, c.want, w.Code, "%s: %s", path, w.Body)
				if c.want != 200 {
					oneLine(t, w)
				}
			}
			if c.want != 421 {
				require.Equal(t, 200, ask(s, "GET", "/", "", c.with...).Code, "the page itself tells nothing")
			}
		})
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	t.Parallel()
	s, _ := console(t, Config{})
	for _, path := range []string{"/", "/assets/app.js", "/assets/style.css", "/api/view", "/nothing", "/assets/../console.go", "/healthz"} {
		h := ask(s, "GET", path, "").Header()
		csp := h.Get("Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'", path)
		require.Contains(t, csp, "frame-ancestors 'none'", path)
		require.NotContains(t, csp, "unsafe", path)
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), path)
		require.Equal(t, "no-referrer", h.Get("Referrer-Policy"), path)
	}
	page := ask(s, "GET", "/", "").Body.String()
	for _, no := range []string{"<style", " style=", " onclick", "javascript:", "http://", "https://", "<script>"} {
		require.NotContains(t, page, no, "the policy would block it, or it asks another host")
	}
	for name := range assets {
		require.Equal(t, 200, ask(s, "GET", "/assets/"+name, "").Code, name)
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	s, client := console(t, Config{Token: token})
	w, err := client.DeadLetters("live", "").Writer()
	require.NoError(t, err)
	defer w.Close()
	for _, reason := range []string{"a", "a", "b", "b"} {
		require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: "{}"}, {Name: "reason", Value: reason}, {Name: "error", Value: "it\nbroke"}, {Name: "attempts", Value: "2"}, {Name: "first_seen", Value: ""}, {Name: "parked_at", Value: ""}, {Name: "source_id", Value: "1-1"}}}}))
	}
	bearer := "Authorization: Bearer " + token
	var page struct {
		Letters []struct{ ID, Reason string }
		More    bool
	}
	require.NoError(t, json.Unmarshal(ask(s, "GET", "/api/letters?stream=live&reason=a&limit=1", "").Body.Bytes(), &page))
	require.Len(t, page.Letters, 1)
	require.True(t, page.More)
	id := page.Letters[0].ID
	shown := ask(s, "GET", "/api/letters/live/"+id, "").Body.String()
	require.Contains(t, shown, `"unreadable":"not JSON"`)

	drive := "/api/letters/redrive"
	for _, c := range []struct {
		path, body, want string
		with             []string
		code             int
	}{
		{drive, `{"stream":"live","reason":"a"}`, "the token is missing", nil, 401},
		{drive, `{"stream":"live","reason":"a"}`, "the token is not the right one", []string{bearer + "x"}, 401},
		{drive, `{"stream":"live","reason":"a"}`, "another page may not ask", []string{bearer, "Origin: http://evil.example"}, 403},
		{drive, `{"stream":"live","reason":"a"}`, "another page may not ask", []string{bearer, "Sec-Fetch-Site: same-site"}, 403},
		{drive, `{"stream":"live","reason":"a"}`, "want application/json", []string{bearer, "Content-Type: text/plain"}, 415},
		{drive, `{"stream":"live"}`, "want either 1 to 1000 ids or a reason", []string{bearer}, 400},
		{drive, `{"stream":"live","reason":"a","ids":["1-1"]}`, "want either", []string{bearer}, 400},
		{drive, `{"stream":"live","all":true}`, "unknown field", []string{bearer}, 400},
		{drive, `{"stream":"live","reason":"a"} {}`, "something follows", []string{bearer}, 400},
		{drive, `{"stream":"dead","reason":"a"}`, `stream "dead": want one of live`, []string{bearer}, 400},
		{drive, `{"stream":"live","ids":["x"]}`, "malformed stream id", []string{bearer}, 400},
		{drive, `{"stream":"live","ids":["1-1"]}`, "no such entry", []string{bearer}, 404},
		{drive, `{"stream":"live","reason":"` + strings.Repeat("x", maxBody) + `"}`, "want at most", []string{bearer}, 413},
		{"/api/letters/drop", `{"stream":"live","reason":"b"}`, `send "confirm":"drop"`, []string{bearer}, 400},
	} {
		got := ask(s, "POST", c.path, c.body, c.with...)
		require.Equal(t, c.code, got.Code, "%.60s: %s", c.body, got.Body)
		require.Contains(t, oneLine(t, got), c.want)
	}
	n, err := client.DeadLetters("live", "").Len(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4, n, "what was refused did nothing")

	require.JSONEq(t, `{"stream":"live","redriven":1}`, ask(s, "POST", drive, `{"stream":"live","ids":["`+id+`"]}`, bearer).Body.String())
	require.JSONEq(t, `{"stream":"live","redriven":1}`, ask(s, "POST", drive, `{"stream":"live","reason":"a"}`, bearer).Body.String())
	require.JSONEq(t, `{"stream":"live","dropped":2}`, ask(s, "POST", "/api/letters/drop", `{"stream":"live","reason":"b","confirm":"drop"}`, bearer).Body.String())
	require.Equal(t, 404, ask(s, "GET", "/api/letters/live/"+id, "").Code)
	n, err = client.Len(t.Context(), "live")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}

func TestWithoutATokenThereAreNoActions(t *testing.T) {
	t.Parallel()
	s, _ := console(t, Config{})
	for _, with := range [][]string{nil, {"Authorization: Bearer "}, {"Authorization: Bearer x"}} {
		w := ask(s, "POST", "/api/letters/redrive", `{"stream":"live","reason":"a"}`, with...)
		require.Equal(t, 403, w.Code)
		require.Contains(t, oneLine(t, w), "no token is set")
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s, _ := console(t, Config{Token: token})
	for path, want := range map[string]string{
		"/api/letters":                      `stream "": want one of live`,
		"/api/letters?stream=live&limit=0":  `limit "0": want 1 to 200`,
		"/api/letters?stream=live&limit=xx": `limit "xx": want 1 to 200`,
		"/api/letters?stream=live&after=zz": "malformed",
		"/api/letters/live/zz":              "want an id such as",
		"/api/letters/dead/1-1":             "want one of live",
		"/nothing":                          "the page is at /",
		"/assets/app.go":                    "there is no such file",
	} {
		w := ask(s, "GET", path, "")
		require.GreaterOrEqual(t, w.Code, 400, path)
		require.Less(t, w.Code, 500, "%s: %s", path, w.Body)
		require.Contains(t, oneLine(t, w), want, path)
	}
}

// TestFollowersAreBounded: beyond the bound a client is told so, and a seat
// that is left is free again. Nobody is kept when the server stops.
func TestFollowersAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := console(t, Config{Listen: "127.0.0.1:0", Clients: 2})
	l, err := s.Listen(t.Context())
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	follow := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/api/events", http.NoBody)
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		return res
	}
	a, b := follow(), follow()
	defer func() { _ = b.Body.Close() }()
	c := follow()
	defer func() { _ = c.Body.Close() }()
	require.Equal(t, http.StatusServiceUnavailable, c.StatusCode)
	text, err := io.ReadAll(c.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "2 pages follow already")
	require.NoError(t, a.Body.Close())
	require.Eventually(t, func() bool {
		res := follow()
		defer func() { _ = res.Body.Close() }()
		return res.StatusCode == http.StatusOK
	}, 60*time.Second, 50*time.Millisecond)
	stop()
	text, err = io.ReadAll(b.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "event: history")
	require.Contains(t, string(text), "Redis cannot be seen: closed eyes")
	require.NoError(t, <-ended)
}
