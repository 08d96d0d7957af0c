package console

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/letters"
)

//go:embed web
var web embed.FS

// assets are the files of the page with their types; no other is served.
var assets = map[string]string{
	"index.html": "text/html; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "draw.js": "text/javascript; charset=utf-8",
	"parked.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8",
	"healthy.svg": "image/svg+xml", "behind.svg": "image/svg+xml", "broken.svg": "image/svg+xml",
}

const (
	maxBody    = 64 << 10
	maxIDs     = 1000
	maxPage    = 200
	maxField   = 64 << 10
	actionTime = 60 * time.Second
	readTime   = 10 * time.Second
)

// Handler is the console without its listener.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { s.asset(w, "index.html") })
	mux.HandleFunc("GET /assets/{name}", func(w http.ResponseWriter, r *http.Request) { s.asset(w, r.PathValue("name")) })
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /api/view", s.read(func(w http.ResponseWriter, _ *http.Request) {
		v, _ := s.deps.Watcher.View()
		answer(w, http.StatusOK, v)
	}))
	mux.HandleFunc("GET /api/history", s.read(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.deps.Watcher.History()) }))
	mux.HandleFunc("GET /api/events", s.read(s.events))
	mux.HandleFunc("GET /api/letters", s.read(s.list))
	mux.HandleFunc("GET /api/letters/{stream}/{id}", s.read(s.show))
	mux.HandleFunc("POST /api/token", s.act(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, map[string]bool{"ok": true}) }))
	mux.HandleFunc("POST /api/letters/redrive", s.act(s.redrive))
	mux.HandleFunc("POST /api/letters/drop", s.act(s.drop))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "%s %s: there is no such thing here; the page is at /", r.Method, r.URL.Path)
	})
	return s.guarded(mux)
}

func (s *Server) asset(w http.ResponseWriter, name string) {
	kind, known := assets[name]
	if !known {
		refuse(w, http.StatusNotFound, "/assets/%s: there is no such file; the page is at /", name)
		return
	}
	b, err := web.ReadFile("web/" + name)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "read %s: %v", name, err)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(b) // the client has gone
}

// healthz says whether the console looks at all; what it sees is another matter.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	v, _ := s.deps.Watcher.View()
	if age := time.Since(v.At); v.Age == 0 && age > time.Minute {
		refuse(w, http.StatusServiceUnavailable, "the last look is %s old: restart the console", age.Round(time.Second))
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

// quietTime is the longest pause between two events, so that a connection that
// has died is noticed; longest is how long one may last before the page asks again.
const (
	quietTime = 15 * time.Second
	longest   = time.Hour
)

// events sends the history and then each view as it comes. A client that is
// slow misses views in between, never the newest.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.seats <- struct{}{}:
		defer func() { <-s.seats }()
	default:
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, "%d pages follow already: close one, or start another console", cap(s.seats))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		s.log.DebugContext(r.Context(), "no deadlines here", slog.Any("err", err))
	}
	send := func(kind string, v any) bool {
		b, err := json.Marshal(v)
		if err != nil {
			return false
		}
		_ = rc.SetWriteDeadline(time.Now().Add(readTime)) // without one a dead client is found later
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	if !send("console", map[string]bool{"actions": s.cfg.Token != ""}) || !send("history", s.deps.Watcher.History()) {
		return
	}
	quiet := time.NewTicker(quietTime)
	defer quiet.Stop()
	for {
		v, next := s.deps.Watcher.View()
		if !send("view", v) {
			return
		}
		select {
		case <-next:
		case <-quiet.C:
		case <-s.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// letters opens the dead letters of a stream, or answers why not.
func (s *Server) letters(ctx context.Context, w http.ResponseWriter, stream string) *redstream.DLQ {
	if !slices.Contains(s.deps.Streams, stream) {
		refuse(w, http.StatusBadRequest, "stream %q: want one of %s", stream, strings.Join(s.deps.Streams, ", "))
		return nil
	}
	q, err := s.deps.Letters(ctx, stream)
	if err != nil {
		fail(w, err)
		return nil
	}
	return q
}

// fail answers for an error of Redis.
func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, redstream.ErrNotFound):
		refuse(w, http.StatusNotFound, "%v: it was driven back or dropped meanwhile", err)
	case errors.Is(err, redstream.ErrBadID):
		refuse(w, http.StatusBadRequest, "%v: want an id such as 1767225600000-0", err)
	default:
		refuse(w, http.StatusServiceUnavailable, "%v: see whether Redis answers", err)
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	query := r.URL.Query()
	limit := 50
	if v := query.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxPage {
			refuse(w, http.StatusBadRequest, "limit %q: want 1 to %d", v, maxPage)
			return
		}
		limit = n
	}
	q := s.letters(ctx, w, query.Get("stream"))
	if q == nil {
		return
	}
	found, err := letters.List(ctx, q, query.Get("reason"), query.Get("after"), limit+1)
	if err != nil {
		fail(w, err)
		return
	}
	more := len(found) > limit
	found = found[:min(limit, len(found))]
	answer(w, http.StatusOK, map[string]any{"letters": found, "more": more})
}

// shown is one letter with what it says.
type shown struct {
	letters.Letter
	Stream string `json:"stream"`
	// Entry is the decoded content; Unreadable is why there is none.
	Entry      any    `json:"entry,omitempty"`
	Unreadable string `json:"unreadable,omitempty"`
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	stream := r.PathValue("stream")
	q := s.letters(ctx, w, stream)
	if q == nil {
		return
	}
	d, err := q.Show(ctx, r.PathValue("id"))
	if err != nil {
		fail(w, err)
		return
	}
	out := shown{Letter: letters.Of(d, true), Stream: stream}
	for name, v := range out.Fields {
		switch {
		case !letters.Printable(v):
			out.Fields[name] = fmt.Sprintf("(%d bytes of binary)", len(v))
		case len(v) > maxField:
			out.Fields[name] = v[:maxField] + fmt.Sprintf(" … (%d bytes)", len(v))
		}
	}
	if out.Entry, err = s.deps.Decode(stream, d.Fields); err != nil {
		out.Entry, out.Unreadable = nil, err.Error()
	}
	answer(w, http.StatusOK, out)
}

// order is what an action asks for: letters by id, or all with a reason.
type order struct {
	Stream string   `json:"stream"`
	IDs    []string `json:"ids"`
	Reason string   `json:"reason"`
	// Confirm must be "drop" for what cannot be undone.
	Confirm string `json:"confirm"`
}

// command reads an order, or answers what is wrong with it.
func (s *Server) command(ctx context.Context, w http.ResponseWriter, r *http.Request) (*redstream.DLQ, order, bool) {
	var o order
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(&o)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		refuse(w, http.StatusRequestEntityTooLarge, "body: want at most %d bytes; name a reason in place of ids", maxBody)
		return nil, o, false
	case err != nil:
		refuse(w, http.StatusBadRequest, `body: %v: want {"stream":"…","ids":["…"]} or {"stream":"…","reason":"…"}`, err)
		return nil, o, false
	case (len(o.IDs) > 0) == (o.Reason != "") || len(o.IDs) > maxIDs:
		refuse(w, http.StatusBadRequest, "body: want either 1 to %d ids or a reason", maxIDs)
		return nil, o, false
	}
	q := s.letters(ctx, w, o.Stream)
	return q, o, q != nil
}

func (s *Server) redrive(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), actionTime)
	defer cancel()
	if q, o, ok := s.command(ctx, w, r); ok {
		n, err := q.Redrive(ctx, redstream.Filter{IDs: o.IDs, Reason: o.Reason})
		s.done(ctx, w, "redriven", o, n, err)
	}
}

func (s *Server) drop(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), actionTime)
	defer cancel()
	q, o, ok := s.command(ctx, w, r)
	if !ok {
		return
	}
	if o.Confirm != "drop" {
		refuse(w, http.StatusBadRequest, `confirm %q: dropping cannot be undone; send "confirm":"drop"`, o.Confirm)
		return
	}
	n, err := q.Drop(ctx, redstream.Filter{IDs: o.IDs, Reason: o.Reason})
	s.done(ctx, w, "dropped", o, n, err)
}

func (s *Server) done(ctx context.Context, w http.ResponseWriter, what string, o order, n int, err error) {
	s.log.InfoContext(ctx, "parked entries changed", slog.String("action", what), slog.String("stream", o.Stream), slog.String("reason", o.Reason), slog.Int("entries", n), slog.Any("err", err))
	if err != nil && n > 0 {
		err = fmt.Errorf("%d %s, then: %w", n, what, err)
	}
	if err != nil {
		fail(w, err)
		return
	}
	s.deps.Watcher.Refresh()
	answer(w, http.StatusOK, map[string]any{"stream": o.Stream, what: n})
}
