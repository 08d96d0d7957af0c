package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/pkg/atproto"
	"sluice/pkg/config"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/road"
	"sluice/services/streamctl/internal/store"
)

// tool is one run of streamctl.
type tool struct {
	version  string
	settings Settings
	environ  []string
	in       io.Reader
	out, err io.Writer
	json     bool
	yes      bool

	redis *redstream.Client
	db    *store.Store
	dir   *atproto.Directory

	// past is the lag that a watcher begins with, for tests.
	past road.History
}

// errFound ends with code 2: the command worked, and what it found is bad.
var errFound = errors.New("found something")

// Main runs the command line and returns the exit code: 0 for good, 1 for an
// error, 2 when a check found something.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	t := &tool{version: version, environ: os.Environ(), in: os.Stdin, out: os.Stdout, err: os.Stderr}
	return t.run(ctx, os.Args[1:])
}

func (t *tool) run(ctx context.Context, args []string) int {
	root := t.root()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	err := root.ExecuteContext(ctx)
	t.close()
	switch {
	case err == nil, errors.Is(err, config.ErrDone):
		return 0
	case errors.Is(err, errFound):
		return 2
	default:
		_, _ = fmt.Fprintf(t.err, "streamctl: %s\n", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n  "))
		return 1
	}
}

func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "streamctl",
		Short: "Show the streams of a sluice, find what is wrong, and mend it",
		Long: "Streamctl looks at the streams, the groups on them and the database, says what is wrong and\n" +
			"what to do, and does it. It takes the settings of the services from the environment, from\n" +
			"--config, or as flags. Nothing is changed without a question; --yes answers it.\n\n" +
			"Exit codes: 0 it was done, and nothing is wrong; 1 it could not be done, and a line says why;\n" +
			"2 it was done, and what was looked for is wrong, as the command says of itself.",
		Example: "  streamctl status --watch\n  streamctl doctor\n  streamctl doctor --json | jq .worst\n" +
			"  eval \"$(streamctl completion bash)\"",
		Version:       t.version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.HasSubCommands() || cmd.Name() == "help" || cmd.HasParent() && cmd.Parent().Name() == "completion" || strings.HasPrefix(cmd.Name(), "__") {
				return nil
			}
			return t.load(cmd.Flags())
		},
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&t.json, "json", false, "write JSON")
	flags.BoolVarP(&t.yes, "yes", "y", false, "do it without a question")
	flags.String("config", "", "YAML file with settings")
	flags.Bool("print-config", false, "print the effective settings, secrets redacted")
	settings, err := config.Settings(&t.settings)
	if err != nil {
		panic(err) // a mistake in the struct above
	}
	for _, s := range settings {
		flags.String(s.Flag(), "", s.Help+" ("+s.Name+")")
	}
	root.AddCommand(t.statusCmd(), t.doctorCmd(), t.trimCmd(), t.dlqCmd(), t.cursorCmd(), t.peekCmd(), t.whyCmd(), t.verifyCmd(), t.backfillCmd(), t.identityCmd(), t.repairCmd(), t.configCmd(), t.serveCmd(), t.topCmd())
	root.AddCommand(t.replayCmd(), t.incidentCmd())
	root.SetHelpTemplate(helpTemplate)
	hideSettings(flags, settings)
	strict(root)
	return root
}

// strict makes every command refuse arguments that it has no use for, in words
// that say what it wants.
func strict(cmd *cobra.Command) {
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return fmt.Errorf("unknown command %q of %s: there are %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
		}
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w: want %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// hideSettings keeps the settings out of the help of each command; "streamctl
// config" lists them.
func hideSettings(flags *pflag.FlagSet, settings []*config.Setting) {
	for _, s := range settings {
		_ = flags.MarkHidden(s.Flag()) // it was added a line before
	}
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}{{if not .HasParent}}
Every setting of the services is a flag too (--redis-url, --database-url, …): streamctl config.
{{end}}`

// load reads the settings, from the flags that were given among others.
func (t *tool) load(flags *pflag.FlagSet) error {
	settings, err := config.Settings(&t.settings)
	if err != nil {
		return err
	}
	var args []string
	names := []string{"config"}
	for _, s := range settings {
		names = append(names, s.Flag())
	}
	for _, name := range names {
		if f := flags.Lookup(name); f != nil && f.Changed {
			args = append(args, "--"+name+"="+f.Value.String())
		}
	}
	if f := flags.Lookup("print-config"); f != nil && f.Changed {
		args = append(args, "--print-config")
	}
	l := config.Loader{Service: "streamctl", Environ: t.environ, Output: t.out}
	return l.Load(args, &t.settings)
}

// client opens Redis on first use.
func (t *tool) client(ctx context.Context) (*redstream.Client, error) {
	if t.redis != nil {
		return t.redis, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := redstream.Open(ctx, redstream.Config{URL: t.settings.RedisURL, KeyPrefix: t.settings.KeyPrefix}, t.log(), nil)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL=%s: %w", config.Redact(t.settings.RedisURL), err)
	}
	t.redis = c
	return c, nil
}

// database opens PostgreSQL on first use.
func (t *tool) database(ctx context.Context) (*store.Store, error) {
	if t.db != nil {
		return t.db, nil
	}
	db, err := store.Open(ctx, store.Config{URL: t.settings.DatabaseURL, Schema: t.settings.DatabaseSchema, Pooler: t.settings.Pooler})
	if err != nil {
		return nil, err
	}
	t.db = db
	return db, nil
}

func (t *tool) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(t.err, &slog.HandlerOptions{Level: slog.LevelError}))
}

func (t *tool) close() {
	if t.redis != nil {
		t.redis.Close()
	}
	if t.db != nil {
		t.db.Close()
	}
}

// say writes one line of text, or nothing when JSON was asked for.
func (t *tool) say(format string, args ...any) {
	if !t.json {
		_, _ = fmt.Fprintf(t.out, format+"\n", args...)
	}
}

// dump writes v as JSON.
func (t *tool) dump(v any) error {
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// confirm asks before something that deletes or moves data.
func (t *tool) confirm(question string) error {
	if t.yes {
		return nil
	}
	_, _ = fmt.Fprintf(t.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return errors.New("not confirmed: nothing was changed (--yes answers the question)")
	}
	return nil
}

// stream checks the name of a stream.
func (t *tool) stream(name string) (string, error) {
	known := t.settings.topology().Streams()
	if slices.Contains(known, name) {
		return name, nil
	}
	return "", fmt.Errorf("unknown stream %q: there are %s", name, strings.Join(known, ", "))
}
