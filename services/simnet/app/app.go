package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"sluice/pkg/proc"
	"sluice/pkg/testkit/simnet"
)

// App serves a world that was made ahead, and lets it go on for a while.
type App struct {
	cfg Config
	log *slog.Logger
	net *simnet.Network
}

// New makes the world and opens its addresses.
func New(ctx context.Context, cfg Config, d proc.Deps) (*App, error) {
	o, err := cfg.options()
	if err != nil {
		return nil, err
	}
	o.Log = d.Log.With("component", "simnet")
	began := time.Now()
	n, err := simnet.New(o)
	if err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, log: o.Log, net: n}
	if err := a.writeEnv(); err != nil {
		n.Close()
		return nil, err
	}
	first, last := n.World.Seqs()
	counts := n.World.Counts()
	a.log.InfoContext(ctx, "network is up", "plc", n.PLCURL, "relays", n.RelayHosts, "labeler", n.LabelerHost, "pds", n.PDSURLs,
		"control", n.PLCURL+"/_sim/status", "accounts", cfg.Accounts, "records", counts["record"],
		"frames", n.World.Len(), "first_seq", first, "last_seq", last, "seconds", time.Since(began).Seconds())
	return a, nil
}

// writeEnv leaves the settings of the services for others to source. The file
// appears whole or not at all.
func (a *App) writeEnv() error {
	if a.cfg.EnvFile == "" {
		return nil
	}
	env := a.net.Env()
	env["SIMNET_URL"] = a.net.PLCURL
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%s\n", name, env[name])
	}
	part := filepath.Join(filepath.Dir(a.cfg.EnvFile), "."+filepath.Base(a.cfg.EnvFile)+".part")
	if err := os.WriteFile(part, []byte(b.String()), 0o644); err != nil { //nolint:gosec // addresses are no secret
		return fmt.Errorf("write SIMNET_ENV_FILE: %w", err)
	}
	if err := os.Rename(part, a.cfg.EnvFile); err != nil {
		return fmt.Errorf("write SIMNET_ENV_FILE: %w", err)
	}
	return nil
}

// Run lets things happen for the configured time and serves until ctx ends.
func (a *App) Run(ctx context.Context) error {
	defer a.net.Close()
	if a.cfg.Live > 0 {
		if err := a.net.Live(ctx, a.cfg.LiveRate, a.cfg.Live); err != nil {
			return fmt.Errorf("go on live: %w", err)
		}
		a.log.InfoContext(ctx, "nothing more will happen", "frames", a.net.World.Len())
	}
	<-ctx.Done()
	return nil
}

// Ready implements proc.App: what is served is there from the start.
func (a *App) Ready(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("stopping")
	}
	return nil
}

// Close ends the network of an App that was never run.
func (a *App) Close() { a.net.Close() }
