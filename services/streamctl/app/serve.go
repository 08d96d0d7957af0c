package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/console"
	"sluice/services/streamctl/internal/road"
)

// ConsoleSettings are those of serve and top.
type ConsoleSettings struct {
	Listen string   `env:"CONSOLE_LISTEN" default:"127.0.0.1:4180" help:"host:port of the console; beyond loopback everything needs the token"`
	Token  string   `env:"CONSOLE_TOKEN" secret:"true" help:"what the actions of the console ask for, 16 characters or more; without one it only shows"`
	Hosts  []string `env:"CONSOLE_HOSTS" help:"further names under which the console may be asked for, such as that of a reverse proxy"`
	// Lag and Quiet are the limits of the verdict.
	Lag   time.Duration `env:"CONSOLE_LAG_SECS" unit:"s" default:"60" min:"1" help:"age of an unfinished live entry from which the verdict is: behind"`
	Quiet time.Duration `env:"CONSOLE_QUIET_SECS" unit:"s" default:"120" min:"0" help:"time without anything from the relays from which the verdict is: behind; 0 for a quiet network"`
}

func (s ConsoleSettings) limits() road.Limits { return road.Limits{Lag: s.Lag, Quiet: s.Quiet} }

func (t *tool) serveCmd() *cobra.Command {
	var listen, tokenFile string
	var health bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the console: one page that shows the whole road",
		Long: "Serve is a web page with the streams, their readers, what holds them up and what mends it. On\n" +
			"loopback whoever can connect may look. Actions (redrive and drop parked entries), and every other\n" +
			"address, need the token.",
		Example: "  streamctl serve\n  streamctl serve --listen 127.0.0.1:8080 --token-file secrets/console_token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if listen != "" {
				t.settings.Console.Listen = listen
			}
			if tokenFile != "" {
				b, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("--token-file: %w", err)
				}
				if t.settings.Console.Token = strings.TrimSpace(string(b)); t.settings.Console.Token == "" {
					return fmt.Errorf("--token-file=%s: is empty: want a token, such as the output of: openssl rand -hex 24", tokenFile)
				}
			}
			if health {
				return t.consoleHealth(cmd.Context())
			}
			return t.serve(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "host:port to serve at (CONSOLE_LISTEN, default 127.0.0.1:4180)")
	f.StringVar(&tokenFile, "token-file", "", "file with the token for actions (CONSOLE_TOKEN_FILE)")
	f.BoolVar(&health, "health", false, "ask a console that runs here whether it is well")
	return cmd
}

func (t *tool) serve(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(t.err, nil))
	eyes := &sight{t: t}
	c := t.settings.Console
	srv, err := console.New(console.Config{Listen: c.Listen, Token: c.Token, Hosts: c.Hosts}, console.Deps{
		Watcher: road.New(eyes, road.Config{Limits: c.limits(), Version: t.version, Past: t.past}),
		Letters: eyes.Letters, Streams: t.settings.topology().Streams(), Decode: t.readable, Log: log,
	})
	if err != nil {
		return err
	}
	l, err := srv.Listen(ctx)
	if err != nil {
		return err
	}
	actions := "with the token"
	if c.Token == "" {
		actions = "off: no token is set"
	}
	log.InfoContext(ctx, "console serves", slog.String("url", "http://"+l.Addr().String()+"/"), slog.String("actions", actions))
	return srv.Run(ctx, l)
}

// readable decodes the fields of an entry.
func (t *tool) readable(stream string, fields []redstream.Field) (any, error) {
	p := t.decode(stream, redstream.Entry{Stream: stream, Fields: fields})
	if p.Error != "" {
		return nil, errors.New(p.Error)
	}
	return p.Entry, nil
}

// consoleHealth asks /healthz of a console on this machine.
func (t *tool) consoleHealth(ctx context.Context) error {
	_, port, err := net.SplitHostPort(t.settings.Console.Listen)
	if err != nil {
		return fmt.Errorf("CONSOLE_LISTEN=%s: want host:port", t.settings.Console.Listen)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort("127.0.0.1", port) + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	return nil
}
