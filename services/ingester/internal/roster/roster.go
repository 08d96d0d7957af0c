// Package roster says which relays the operator wants followed: those of a
// setting, or those in a file that may change while the process runs.
package roster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/fault"
	"sluice/services/ingester/internal/feed"
)

// maxFile bounds the file.
const maxFile = 64 << 10

// Config says where the list is.
type Config struct {
	// Relays are followed when there is no File.
	Relays []string
	// File has one relay a line; # begins a comment.
	File string
	// Every is how often the file is looked at. Default 2s.
	Every time.Duration
}

// Roster is the list of relays. Its methods are safe for concurrent use.
type Roster struct {
	cfg    Config
	log    *slog.Logger
	errors prometheus.Counter

	mu      sync.Mutex
	relays  []string
	text    []byte // of the file, as last looked at
	changed chan struct{}
}

// New reads the list. A file that cannot be used is an error here, and only
// here: later, the list stays as it was.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Roster, error) {
	if cfg.Every <= 0 {
		cfg.Every = 2 * time.Second
	}
	r := &Roster{
		cfg: cfg, log: log.With(slog.String("component", "roster")), relays: cfg.Relays, changed: make(chan struct{}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_ingester_relay_file_errors_total",
			Help: "Changes of INGESTER_RELAY_FILE that could not be used; the relays stay as they were. The log tells why.",
		}),
	}
	if reg != nil {
		reg.MustRegister(r.errors)
	}
	if cfg.File != "" {
		text, err := readFile(cfg.File)
		if err != nil {
			return nil, err
		}
		if r.relays, err = Parse(text); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.File, err)
		}
		r.text = text
	}
	if _, err := feed.ParseHosts(r.relays); err != nil {
		return nil, err
	}
	return r, nil
}

// Relays returns the list as it is, and what closes when it changes.
func (r *Roster) Relays() (relays []string, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.relays, r.changed
}

// Run looks at the file until ctx ends.
func (r *Roster) Run(ctx context.Context) error {
	if r.cfg.File == "" {
		<-ctx.Done()
		return nil
	}
	for fault.Sleep(ctx, r.cfg.Every) == nil {
		if err := r.look(ctx); err != nil {
			r.errors.Inc()
			r.log.ErrorContext(ctx, "list of relays not usable, it stays as it was", slog.String("file", r.cfg.File), slog.Any("err", err))
		}
	}
	return nil
}

// look takes the list over if the file has another one. An unusable text is
// an error once, not at every look.
func (r *Roster) look(ctx context.Context) error {
	text, err := readFile(r.cfg.File)
	if err != nil {
		text = []byte(err.Error())
	}
	if bytes.Equal(text, r.text) {
		return nil
	}
	r.text = text
	if err != nil {
		return err
	}
	relays, err := Parse(text)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(relays, r.relays) {
		return nil
	}
	r.log.InfoContext(ctx, "list of relays changes", slog.String("from", strings.Join(r.relays, ",")), slog.String("to", strings.Join(relays, ",")))
	r.relays = relays
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return text, err
}

// Parse reads a list: relays apart by line or comma, # begins a comment. There
// is at least one.
func Parse(text []byte) ([]string, error) {
	var out []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no relay in it")
	}
	_, err := feed.ParseHosts(out)
	return out, err
}
