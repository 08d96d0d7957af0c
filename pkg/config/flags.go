package config

import (
	"fmt"
	"strings"
)

type flagSet struct {
	values      map[string]string
	file        string
	help, print bool
}

// parseFlags reads --name value, --name=value and, for booleans, --name.
func parseFlags(settings []*Setting, args []string) (*flagSet, error) {
	byFlag := map[string]*Setting{}
	names := []string{"config", "print-config", "help"}
	for _, s := range settings {
		byFlag[s.Flag()] = s
		names = append(names, s.Flag())
	}
	out := &flagSet{values: map[string]string{}}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, isFlag := strings.CutPrefix(arg, "-")
		name = strings.TrimPrefix(name, "-")
		if !isFlag || name == "" {
			return nil, fmt.Errorf("unexpected argument %q: settings are given as --name=value", arg)
		}
		name, value, inline := strings.Cut(name, "=")
		switch name {
		case "help", "h":
			out.help = true
			continue
		case "print-config":
			out.print = true
			continue
		}
		s := byFlag[name]
		if s == nil && name != "config" {
			return nil, fmt.Errorf("unknown flag --%s%s", name, nearestFlag(name, names))
		}
		if !inline {
			switch {
			case s != nil && s.Type == "bool":
				value = "true"
			case len(args) == 0:
				return nil, fmt.Errorf("flag --%s needs a value", name)
			default:
				value, args = args[0], args[1:]
			}
		}
		if name == "config" {
			out.file = value
			continue
		}
		out.values[name] = value
	}
	return out, nil
}
