package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Setting describes one setting of a struct.
type Setting struct {
	// Name is the canonical environment variable.
	Name string
	// Aliases are older names, read when Name is absent.
	Aliases []string
	// Default is the value when nothing is given, as written in the tag.
	Default string
	// OneOf lists the values allowed; empty allows all.
	OneOf []string
	// Unit is "s" or "ms" for a duration that may be given as a bare number.
	Unit string
	// Min and Max bound a number, or a duration in Unit; empty is no bound.
	Min, Max string
	// Help is one line for people.
	Help string
	// Secret values are redacted and may come from the file NAME_FILE.
	Secret bool
	// Required settings have no default and must be given.
	Required bool
	// Type names the kind of value: string, list, bool, int, float, duration.
	Type string

	fields []reflect.Value
}

// Key is the name of the setting in the YAML file.
func (s *Setting) Key() string { return strings.ToLower(s.Name) }

// Flag is the name of the setting on the command line, without dashes in front.
func (s *Setting) Flag() string { return strings.ReplaceAll(s.Key(), "_", "-") }

func (s *Setting) names() []string { return append([]string{s.Name}, s.Aliases...) }

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Settings lists the settings of the structs that the pointers cfgs point to,
// in the order of their fields. A setting declared twice is one setting, as
// first declared, that fills both fields.
func Settings(cfgs ...any) ([]*Setting, error) {
	c := &collector{byName: map[string]*Setting{}}
	for _, cfg := range cfgs {
		v := reflect.ValueOf(cfg)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("config: %T is not a pointer to a struct", cfg)
		}
		if err := c.walk(v.Elem()); err != nil {
			return nil, err
		}
	}
	return c.list, nil
}

type collector struct {
	list   []*Setting
	byName map[string]*Setting
}

func (c *collector) walk(v reflect.Value) error {
	t := v.Type()
	for i := range t.NumField() {
		f, fv := t.Field(i), v.Field(i)
		if !f.IsExported() && !f.Anonymous {
			continue
		}
		tag, tagged := f.Tag.Lookup("env")
		if !tagged {
			if fv.Kind() == reflect.Struct {
				if err := c.walk(fv); err != nil {
					return err
				}
			}
			continue
		}
		if err := c.add(tag, f, fv); err != nil {
			return fmt.Errorf("config: %s.%s: %w", t, f.Name, err)
		}
	}
	return nil
}

func (c *collector) add(tag string, f reflect.StructField, fv reflect.Value) error {
	names := splitList(tag)
	if len(names) == 0 {
		return fmt.Errorf("env tag names no variable")
	}
	kind, err := kindOf(fv)
	if err != nil {
		return err
	}
	if known := c.byName[names[0]]; known != nil {
		if known.Type != kind {
			return fmt.Errorf("%s is a %s elsewhere", names[0], known.Type)
		}
		known.fields = append(known.fields, fv)
		for _, alias := range names[1:] {
			if c.byName[alias] == nil {
				known.Aliases = append(known.Aliases, alias)
				c.byName[alias] = known
			}
		}
		return nil
	}
	s := &Setting{
		Name: names[0], Aliases: names[1:], Default: f.Tag.Get("default"), OneOf: splitList(f.Tag.Get("oneof")),
		Unit: f.Tag.Get("unit"), Min: f.Tag.Get("min"), Max: f.Tag.Get("max"), Help: f.Tag.Get("help"),
		Secret: f.Tag.Get("secret") == "true", Required: f.Tag.Get("required") == "true", Type: kind, fields: []reflect.Value{fv},
	}
	if s.Unit != "" && s.Unit != "s" && s.Unit != "ms" {
		return fmt.Errorf("unit %q is neither s nor ms", s.Unit)
	}
	for _, name := range names {
		if c.byName[name] != nil {
			return fmt.Errorf("%s is declared twice", name)
		}
		c.byName[name] = s
	}
	c.list = append(c.list, s)
	return nil
}

func kindOf(v reflect.Value) (string, error) {
	switch {
	case v.Type() == durationType:
		return "duration", nil
	case v.Addr().Type().Implements(textType):
		return "string", nil
	}
	switch v.Kind() {
	case reflect.String:
		return "string", nil
	case reflect.Bool:
		return "bool", nil
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "int", nil
	case reflect.Float64:
		return "float", nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String {
			return "list", nil
		}
	default:
	}
	return "", fmt.Errorf("type %s cannot be a setting", v.Type())
}

func splitList(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
