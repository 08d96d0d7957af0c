package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// FileEnv names the configuration file when --config does not.
const FileEnv = "SLUICE_CONFIG"

// ErrDone is returned when the arguments asked for output (--help,
// --print-config) that has been written: the caller exits with code 0.
var ErrDone = errors.New("config: output was asked for and written")

// Loader is Load with its surroundings.
type Loader struct {
	// Service is the name of the program, "ingester".
	Service string
	// Environ is the environment as of os.Environ.
	Environ []string
	// Output takes what --help and --print-config write.
	Output io.Writer
}

// Load fills cfg, a pointer to a struct, for the service from the file named
// by --config or SLUICE_CONFIG, the environment of the process and the flags
// in args. It returns ErrDone when args asked for output, or one error that
// joins everything that is wrong.
func Load(service string, cfg any, args []string) error {
	l := Loader{Service: service, Environ: os.Environ(), Output: os.Stdout}
	return l.Load(args, cfg)
}

// given is one value and where it came from.
type given struct {
	value  string
	source string // "environment", "flag --x", a file
	name   string // as the user wrote it
}

// Load fills the structs that cfgs point to. A setting that two of them
// declare has the default of the first.
func (l *Loader) Load(args []string, cfgs ...any) error {
	settings, err := Settings(cfgs...)
	if err != nil {
		return err
	}
	in := &input{settings: settings, store: viper.New(), from: map[string]given{}, env: environMap(l.Environ), service: l.Service}
	flags, err := parseFlags(settings, args)
	if err != nil {
		return err
	}
	if flags.help {
		return errors.Join(l.help(settings), ErrDone)
	}
	in.defaults()
	in.file(flags.file)
	in.environment()
	in.flags(flags.values)
	in.unknownVariables()
	if in.apply(); len(in.errs) == 0 {
		in.validate(cfgs)
	}
	if len(in.errs) > 0 {
		return errors.Join(in.errs...)
	}
	if flags.print {
		return errors.Join(in.print(l.Output), ErrDone)
	}
	return nil
}

// input gathers the values; viper keeps the order of precedence.
type input struct {
	service  string
	settings []*Setting
	store    *viper.Viper
	from     map[string]given
	env      map[string]string
	errs     []error
}

func (in *input) fail(format string, args ...any) {
	in.errs = append(in.errs, fmt.Errorf(format, args...))
}

func (in *input) defaults() {
	for _, s := range in.settings {
		in.store.SetDefault(s.Key(), s.Default)
	}
}

// file merges the YAML file, whose nested keys are joined with underscores.
func (in *input) file(path string) {
	if path == "" {
		path = in.env[FileEnv]
	}
	if path == "" {
		return
	}
	v := viper.New()
	v.SetConfigFile(path)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		in.fail("read the configuration file %s: %w", path, err)
		return
	}
	byKey := map[string]*Setting{}
	for _, s := range in.settings {
		for _, name := range s.names() {
			byKey[strings.ToLower(name)] = s
		}
	}
	known := knownNames(in.settings)
	for _, dotted := range slices.Sorted(slices.Values(v.AllKeys())) {
		key := strings.NewReplacer(".", "_", "-", "_").Replace(dotted)
		s := byKey[key]
		if s == nil {
			if !slices.Contains(known, strings.ToUpper(key)) {
				in.fail("%s: unknown key %s%s", path, dotted, nearestKey(key, known))
			}
			continue
		}
		if text, ok := fileValue(v.Get(dotted)); ok {
			in.put(s, given{value: text, source: path, name: dotted})
		} else {
			in.fail("%s: %s: want a single value or a list", path, dotted)
		}
	}
}

func fileValue(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case []any:
		parts := make([]string, 0, len(v))
		for _, item := range v {
			parts = append(parts, fmt.Sprint(item))
		}
		return strings.Join(parts, ","), true
	case map[string]any:
		return "", false
	default:
		return fmt.Sprint(v), true
	}
}

// put records a value of higher precedence than all before it.
func (in *input) put(s *Setting, g given) {
	in.store.Set(s.Key(), g.value)
	in.from[s.Name] = g
}

func (in *input) environment() {
	for _, s := range in.settings {
		for _, name := range s.names() {
			value, fromFile := in.env[name], in.env[name+"_FILE"]
			if value != "" && fromFile != "" && s.Secret {
				in.fail("%s and %s_FILE are both set: give one of them", name, name)
			}
			if value != "" {
				in.put(s, given{value: value, source: "environment", name: name})
				break
			}
			if fromFile != "" && s.Secret {
				in.secretFile(s, name+"_FILE", fromFile)
				break
			}
		}
	}
}

func (in *input) secretFile(s *Setting, name, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		in.fail("%s=%s: %w", name, path, err)
		return
	}
	value := strings.TrimRight(string(b), "\r\n")
	if value == "" {
		in.fail("%s=%s: the file is empty", name, path)
		return
	}
	in.put(s, given{value: value, source: path, name: name})
}

func (in *input) flags(values map[string]string) {
	for _, s := range in.settings {
		if v, ok := values[s.Flag()]; ok {
			in.put(s, given{value: v, source: "flag", name: "--" + s.Flag()})
		}
	}
}

func (in *input) apply() {
	for _, s := range in.settings {
		raw := in.store.GetString(s.Key())
		g, found := in.from[s.Name]
		if raw == "" && !found {
			if s.Required {
				in.fail("%s is not set: %s", s.Name, s.Help)
			}
			continue
		}
		if raw == "" && s.Type != "string" && s.Type != "list" {
			continue
		}
		if err := s.set(raw); err != nil {
			name := s.Name
			if found {
				name = g.name
			}
			in.fail("%s=%s: %w", name, s.show(raw), err)
		}
	}
}

func (in *input) validate(cfgs []any) {
	for _, cfg := range cfgs {
		if v, ok := cfg.(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				in.errs = append(in.errs, err)
			}
		}
	}
}

func environMap(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			m[name] = value
		}
	}
	return m
}

func (in *input) unknownVariables() {
	known := knownNames(in.settings)
	prefixes := []string{"INGESTER_", "INDEXER_", "BACKFILLER_", "CONSOLE_", "SLUICE_", strings.ToUpper(in.service) + "_"}
	for _, name := range slices.Sorted(maps.Keys(in.env)) {
		isOurs := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !isOurs || strings.HasPrefix(name, "SLUICE_TEST_") || slices.Contains(known, name) {
			continue
		}
		if base, ok := strings.CutSuffix(name, "_FILE"); ok && slices.Contains(known, base) {
			continue
		}
		in.fail("unknown variable %s%s", name, nearestName(name, known))
	}
}
