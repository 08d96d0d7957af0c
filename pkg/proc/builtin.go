package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"sluice/pkg/config"
)

func (s *shell) builtin(ctx context.Context, word string, args []string) int {
	var err error
	switch word {
	case "healthcheck":
		err = s.healthcheck(ctx, args)
	case "version":
		_, err = fmt.Fprintf(s.stdout, "%s %s\n", s.name, s.version)
	case "config":
		err = s.config(args)
	case "help":
		err = s.help()
	default:
		err = fmt.Errorf("unknown command %q; there are %s", word, strings.Join(s.words(), ", "))
	}
	if err != nil {
		s.complain(err)
		return 1
	}
	return 0
}

func (s *shell) words() []string {
	words := []string{"healthcheck", "version", "config", "help"}
	for _, c := range s.commands {
		words = append(words, c.Name)
	}
	return words
}

func (s *shell) help() error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\n  %s [--setting=value ...]      run\n", s.name, s.version, s.name)
	for _, c := range s.commands {
		fmt.Fprintf(&b, "  %s %s      %s\n", s.name, c.Name, c.Help)
	}
	fmt.Fprintf(&b, "  %[1]s healthcheck [--ready]     ask the running process on METRICS_PORT\n"+
		"  %[1]s config print|check|reference|names\n  %[1]s version\n  %[1]s --help                    list the settings\n", s.name)
	_, err := io.WriteString(s.stdout, b.String())
	return err
}

// healthcheck asks the process that runs on METRICS_PORT of this host; it is
// the HEALTHCHECK of an image without a shell.
func (s *shell) healthcheck(ctx context.Context, args []string) error {
	path := "/healthz"
	if i := slices.Index(args, "--ready"); i >= 0 {
		path, args = "/readyz", slices.Delete(slices.Clone(args), i, i+1)
	}
	l := config.Loader{Service: s.name, Environ: s.environ, Output: s.stdout}
	if err := l.Load(args, s.cfg, &s.common); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d%s", s.common.MetricsPort, path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("read %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, res.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// config prints or checks the configuration. reference and names serve the
// generated documentation and list of variables.
func (s *shell) config(args []string) error {
	what := "print"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		what, args = args[0], args[1:]
	}
	l := config.Loader{Service: s.name, Environ: s.environ, Output: s.stdout}
	switch what {
	case "print":
		if err := l.Load(append(slices.Clone(args), "--print-config"), s.cfg, &s.common); !errors.Is(err, config.ErrDone) {
			return err
		}
		return nil
	case "check":
		return l.Load(args, s.cfg, &s.common)
	case "reference":
		return config.Reference(s.stdout, s.cfg, &s.common)
	case "names":
		settings, err := config.Settings(s.cfg, &s.common)
		if err != nil {
			return err
		}
		for _, st := range settings {
			if _, err := fmt.Fprintln(s.stdout, strings.Join(append([]string{st.Name}, st.Aliases...), "\n")); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("config %s: want print, check, reference or names", what)
}
