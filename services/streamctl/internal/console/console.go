// Package console serves one page that shows the whole road and what holds it
// up, and lets whoever has the token drive parked entries back. Everything the
// page needs is in the binary.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/road"
)

// Config says where to serve and who may do what.
type Config struct {
	// Listen is host:port. On a loopback host whoever can connect may read;
	// on any other the token is needed for everything, and must be there.
	Listen string
	// Token is what actions ask for; without one there are none.
	Token string
	// Hosts are further names under which the console may be asked for, such as
	// that of a reverse proxy. They need the token.
	Hosts []string
	// Clients is how many may follow at the same time. Default 32.
	Clients int
}

// minToken is the shortest token that nobody guesses.
const minToken = 16

// Validate says what is wrong, naming the settings.
func (c Config) Validate() error {
	var errs []error
	host, port, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil || port == "":
		errs = append(errs, fmt.Errorf("CONSOLE_LISTEN=%s: want host:port, such as 127.0.0.1:4180", c.Listen))
	case c.Token == "" && !loopback(host):
		errs = append(errs, fmt.Errorf("CONSOLE_LISTEN=%s: others than this machine could read: set CONSOLE_TOKEN_FILE, or listen at 127.0.0.1:%s", c.Listen, port))
	}
	if c.Token != "" && len(c.Token) < minToken {
		errs = append(errs, fmt.Errorf("CONSOLE_TOKEN: want at least %d characters, such as the output of: openssl rand -hex 24", minToken))
	}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/ *") {
			errs = append(errs, fmt.Errorf("CONSOLE_HOSTS=%s: want names of hosts without scheme and path", h))
		}
	}
	return errors.Join(errs...)
}

// Deps is what the console shows and what it acts on.
type Deps struct {
	Watcher *road.Watcher
	// Letters opens the dead letters of a stream, one of Streams.
	Letters func(ctx context.Context, stream string) (*redstream.DLQ, error)
	Streams []string
	// Decode makes the fields of an entry of a stream readable; its result is
	// shown as JSON, an error as the reason why it cannot be.
	Decode func(stream string, fields []redstream.Field) (any, error)
	Log    *slog.Logger
}

// Server is the console.
type Server struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	// local: it listens on loopback, where reading needs no token.
	local bool
	// seats holds a value for each client that follows.
	seats chan struct{}
	stop  chan struct{} // closed when the server stops
}

// New checks the configuration.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Clients <= 0 {
		cfg.Clients = 32
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("CONSOLE_LISTEN=%s: %w", cfg.Listen, err)
	}
	return &Server{
		cfg: cfg, deps: deps, log: deps.Log.With(slog.String("component", "console")), local: loopback(host),
		seats: make(chan struct{}, cfg.Clients), stop: make(chan struct{}),
	}, nil
}

// Listen binds the address.
func (s *Server) Listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("CONSOLE_LISTEN=%s: %w", s.cfg.Listen, err)
	}
	return l, nil
}

// stopGrace is how long answers in hand may take when the server stops.
const stopGrace = 5 * time.Second

// Run serves on l and watches, until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      2 * actionTime, // events set their own
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.deps.Watcher.Run(ctx) })
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve at %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		close(s.stop)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if err := srv.Shutdown(limited); err != nil {
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

// loopback says whether a host can only be reached from this machine.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
