package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/config"
	"sluice/pkg/obs"
)

// Common holds the settings that every program has. A program that declares
// one of them itself sets its default.
type Common struct {
	// LogLevel is the lowest level written.
	LogLevel string `env:"LOG_LEVEL" default:"info" oneof:"debug,info,warn,error" help:"lowest level that is logged"`
	// LogFormat is json for machines, text for people.
	LogFormat string `env:"LOG_FORMAT" default:"json" oneof:"json,text" help:"form of the log lines"`
	// MetricsPort is the port of the admin server on all interfaces; 0 takes any free one.
	MetricsPort int `env:"METRICS_PORT" default:"9090" min:"0" max:"65535" help:"port of /metrics, /healthz, /readyz and /debug/pprof; 0 takes any free port"`
	// Grace is how long work in hand may take to finish after SIGTERM. It must
	// be shorter than the stop grace period of whatever sends the signal.
	Grace time.Duration `env:"SHUTDOWN_GRACE_SECS" unit:"s" default:"20" help:"time for work in hand to finish after SIGTERM"`
}

// Deps is what the shell gives to a program.
type Deps struct {
	// Log is the program's logger, to be given on with a component attribute.
	Log *slog.Logger
	// Registry is where metrics are registered.
	Registry *prometheus.Registry
	// Version is the stamped version of the build.
	Version string
	// Grace is the time for work in hand after ctx has ended; see WorkContext.
	Grace time.Duration
	// Handle adds a route to the admin server.
	Handle func(pattern string, h http.Handler)
}

// App is a program: constructed by its New, with no goroutine started yet.
type App interface {
	// Run works until ctx ends, then finishes within the grace time and returns
	// nil. Any return before ctx ends stops the process with code 1.
	Run(ctx context.Context) error
	// Ready says why the program cannot do its work now, nil when it can. It
	// is called at most once a second and may block for two.
	Ready(ctx context.Context) error
}

// Command is a subcommand of a program, run in place of the App with the same
// configuration, logger and signals, but without the admin server.
type Command struct {
	// Name is the first argument that selects it.
	Name string
	// Help is one line for people.
	Help string
	// Run does it; an error is printed and ends the process with code 1.
	Run func(ctx context.Context, d Deps) error
}

// Main runs a program and ends the process. cfg is a pointer to its settings,
// filled before build is called. Arguments: none or flags to run it;
// healthcheck, version, config, help or the name of a command.
func Main(name, version string, cfg any, build func(ctx context.Context, d Deps) (App, error), commands ...Command) {
	s := &shell{name: name, version: version, cfg: cfg, build: build, commands: commands, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	os.Exit(s.run(context.Background(), os.Args[1:]))
}

type shell struct {
	name, version string
	cfg           any
	build         func(context.Context, Deps) (App, error)
	commands      []Command
	stdout        io.Writer
	stderr        io.Writer
	environ       []string

	common Common
	log    *slog.Logger
	// onListen, if set, is told the address of the admin server.
	onListen func(addr string)
}

// stopSlack is how long after the grace time a stop may still take before the
// process is ended by force.
const stopSlack = 5 * time.Second

func (s *shell) run(ctx context.Context, args []string) int {
	word := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		word, args = args[0], args[1:]
	}
	if word == "" {
		return s.serve(ctx, args)
	}
	for _, c := range s.commands {
		if c.Name == word {
			return s.command(ctx, c, args)
		}
	}
	return s.builtin(ctx, word, args)
}

// load fills the configuration; ok is false when the process should end with code.
func (s *shell) load(args []string) (code int, ok bool) {
	l := config.Loader{Service: s.name, Environ: s.environ, Output: s.stdout}
	err := l.Load(args, s.cfg, &s.common)
	switch {
	case err == nil:
		s.log = newLogger(s.stderr, s.common.LogLevel, s.common.LogFormat).With("service", s.name)
		return 0, true
	case errors.Is(err, config.ErrDone):
		return 0, false
	default:
		s.complain(err)
		return 1, false
	}
}

// complain writes one line per error joined in err.
func (s *shell) complain(err error) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			s.complain(e)
		}
		return
	}
	_, _ = fmt.Fprintf(s.stderr, "%s: %s\n", s.name, err)
}

func (s *shell) command(ctx context.Context, c Command, args []string) int {
	code, ok := s.load(args)
	if !ok {
		return code
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mux := http.NewServeMux()
	deps := Deps{Log: s.log, Registry: obs.NewRegistry(s.name, s.version), Version: s.version, Grace: s.common.Grace, Handle: mux.Handle}
	if err := c.Run(ctx, deps); err != nil {
		s.log.ErrorContext(ctx, "command ended with an error", "command", c.Name, slog.Any("err", err))
		return 1
	}
	return 0
}

func (s *shell) serve(ctx context.Context, args []string) int {
	code, ok := s.load(args)
	if !ok {
		return code
	}
	ctx, release := s.signals(ctx)
	defer release()
	s.limitMemory(ctx)
	reg := obs.NewRegistry(s.name, s.version)
	admin, err := newAdmin(s.common.MetricsPort, reg, s.log)
	if err != nil {
		s.complain(fmt.Errorf("METRICS_PORT=%d: %w", s.common.MetricsPort, err))
		return 1
	}
	if s.onListen != nil {
		s.onListen(admin.addr())
	}
	s.log.InfoContext(ctx, "starting", "version", s.version, "admin", admin.addr())
	// The admin server outlives the stop signal, to be scraped while draining.
	adminCtx, adminEnd := context.WithCancel(context.WithoutCancel(ctx))
	adminDone := make(chan error, 1)
	go func() { adminDone <- admin.run(adminCtx) }()
	err = s.work(ctx, admin, reg)
	adminEnd()
	if adminErr := <-adminDone; err == nil {
		err = adminErr
	}
	if err != nil {
		s.log.ErrorContext(ctx, "stopped by an error", slog.Any("err", err))
		return 1
	}
	s.log.InfoContext(ctx, "stopped")
	return 0
}

func (s *shell) work(ctx context.Context, admin *admin, reg *prometheus.Registry) error {
	app, err := s.build(ctx, Deps{Log: s.log, Registry: reg, Version: s.version, Grace: s.common.Grace, Handle: admin.handle})
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // asked to stop while it was waiting for something; nothing was started
	case err != nil:
		return fmt.Errorf("start: %w", err)
	}
	g := NewGroup(ctx)
	g.Go("admin", func(ctx context.Context) error {
		admin.serveReady(app)
		select {
		case err := <-admin.failed:
			return err
		case <-ctx.Done():
			admin.stopReady()
			return nil
		}
	})
	g.Go(s.name, app.Run)
	s.log.InfoContext(ctx, "running")
	return g.Wait()
}

// signals ends the returned context on the first SIGTERM or SIGINT and the
// process on the second, or when the stop takes far longer than the grace time.
func (s *shell) signals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		select {
		case sig := <-ch:
			s.log.InfoContext(ctx, "stopping", "signal", sig.String(), "grace", s.common.Grace.String())
			cancel()
		case <-done:
			return
		}
		limit := time.NewTimer(s.common.Grace + stopSlack)
		defer limit.Stop()
		select {
		case sig := <-ch:
			s.log.WarnContext(ctx, "stopped by a second signal", "signal", sig.String())
		case <-limit.C:
			s.log.ErrorContext(ctx, "stop did not finish in time", "grace", s.common.Grace.String())
			_ = pprof.Lookup("goroutine").WriteTo(s.stderr, 1)
		case <-done:
			return
		}
		os.Exit(1)
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel()
	}
}

// limitMemory sets the soft limit of the runtime to nine tenths of the memory
// limit of the container, unless GOMEMLIMIT says otherwise.
func (s *shell) limitMemory(ctx context.Context) {
	limit, err := memlimit.Set(memlimit.WithRatio(0.9), memlimit.WithProvider(memlimit.FromCgroup))
	if err != nil {
		s.log.DebugContext(ctx, "no memory limit found", slog.Any("err", err))
		return
	}
	if limit == math.MaxInt64 {
		return // the container has none
	}
	s.log.InfoContext(ctx, "memory limit set", "bytes", limit)
}
