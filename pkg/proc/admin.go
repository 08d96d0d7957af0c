package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin serves /metrics, /healthz, /readyz, /debug/pprof and what the program
// adds. It listens before the program is built, so that a process that waits
// for its dependencies can be seen waiting.
type admin struct {
	log    *slog.Logger
	ln     net.Listener
	mux    *http.ServeMux
	server *http.Server
	failed chan error // one error of the server

	state atomic.Pointer[readiness]
}

// readiness is the cached answer of App.Ready.
type readiness struct {
	app    App    // nil before the start and after the stop
	reason string // why app is nil

	mu   sync.Mutex
	at   time.Time
	last error
}

const (
	readyCache   = time.Second
	readyTimeout = 2 * time.Second
)

func newAdmin(port int, reg *prometheus.Registry, log *slog.Logger) (*admin, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	a := &admin{log: log.With("component", "admin"), ln: ln, mux: http.NewServeMux(), failed: make(chan error, 1)}
	a.state.Store(&readiness{reason: "starting"})
	a.mux.Handle("GET /metrics", promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg})))
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	a.mux.HandleFunc("GET /readyz", a.ready)
	a.mux.HandleFunc("/debug/pprof/", pprof.Index)
	a.mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	a.mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	a.mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	a.mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	a.server = &http.Server{
		Handler: a.mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	return a, nil
}

func (a *admin) addr() string { return a.ln.Addr().String() }

func (a *admin) handle(pattern string, h http.Handler) { a.mux.Handle(pattern, h) }

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(a.ln) }()
	select {
	case err := <-served:
		a.failed <- fmt.Errorf("serve %s: %w", a.addr(), err)
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.server.Shutdown(end); err != nil {
		_ = a.server.Close() // a long profile or stream; the process ends anyway
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (a *admin) serveReady(app App) { a.state.Store(&readiness{app: app}) }
func (a *admin) stopReady()         { a.state.Store(&readiness{reason: "stopping"}) }

func (a *admin) ready(w http.ResponseWriter, r *http.Request) {
	if err := a.state.Load().check(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

// check asks the app at most once a second, whoever asks.
func (s *readiness) check(ctx context.Context) error {
	if s.app == nil {
		return errors.New(s.reason)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < readyCache {
		return s.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	s.last = s.app.Ready(ctx)
	s.at = time.Now()
	return s.last
}
