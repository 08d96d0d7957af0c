package config

import (
	"fmt"
	"io"
	"strings"
)

// print writes the effective values as a YAML file with their origin.
func (in *input) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# effective configuration of %s; secrets are redacted\n", in.service)
	for _, s := range in.settings {
		raw := in.store.GetString(s.Key())
		origin := "default"
		if g, ok := in.from[s.Name]; ok {
			origin = g.source
			if g.source == "environment" {
				origin = "environment " + g.name
			}
		}
		fmt.Fprintf(&b, "%s: %s # %s\n", s.Key(), yamlScalar(s.show(raw)), origin)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func yamlScalar(v string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./"
	if v == "" || strings.Trim(v, plain) != "" {
		return fmt.Sprintf("%q", v)
	}
	return v
}

func (l *Loader) help(settings []*Setting) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Settings of %s. Each is a variable, a flag (--%s) or a key of the YAML file named by\n--config or %s; flag beats variable beats file.\n\n",
		l.Service, settings[0].Flag(), FileEnv)
	for _, s := range settings {
		fmt.Fprintf(&b, "  %s%s\n", s.Name, aliasNote(s))
		fmt.Fprintf(&b, "      %s\n", describe(s))
	}
	b.WriteString("\n  --config FILE     read settings from a YAML file\n  --print-config    print the effective settings, secrets redacted\n  --help            print this\n")
	_, err := io.WriteString(l.Output, b.String())
	return err
}

func aliasNote(s *Setting) string {
	if len(s.Aliases) == 0 {
		return ""
	}
	return " (also " + strings.Join(s.Aliases, ", ") + ")"
}

func describe(s *Setting) string {
	parts := []string{s.Help}
	if len(s.OneOf) > 0 {
		parts = append(parts, "one of "+strings.Join(s.OneOf, ", "))
	}
	if s.Unit != "" {
		parts = append(parts, "in "+s.Unit)
	}
	if s.Default != "" {
		parts = append(parts, "default "+s.Default)
	}
	if s.Required {
		parts = append(parts, "required")
	}
	if s.Secret {
		parts = append(parts, s.Name+"_FILE reads it from a file")
	}
	return strings.TrimPrefix(strings.Join(parts, "; "), "; ")
}

// Reference writes a Markdown table of the settings of cfgs.
func Reference(w io.Writer, cfgs ...any) error {
	settings, err := Settings(cfgs...)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("| Variable | Default | Meaning |\n|---|---|---|\n")
	for _, s := range settings {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, codeOrDash(s.Default), strings.ReplaceAll(meaning(s), "|", "\\|"))
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func meaning(s *Setting) string {
	text := s.Help
	add := func(format string, args ...any) { text += fmt.Sprintf(format, args...) }
	if len(s.OneOf) > 0 {
		add("; one of `%s`", strings.Join(s.OneOf, "`, `"))
	}
	switch s.Unit {
	case "s":
		add("; seconds or a duration")
	case "ms":
		add("; milliseconds or a duration")
	}
	if s.Min != "" || s.Max != "" {
		add("; range %s to %s", orDots(s.Min), orDots(s.Max))
	}
	if len(s.Aliases) > 0 {
		add("; alias `%s`", strings.Join(s.Aliases, "`, `"))
	}
	if s.Secret {
		add("; `%s_FILE` reads it from a file", s.Name)
	}
	return text
}

func orDots(s string) string {
	if s == "" {
		return "…"
	}
	return s
}

func codeOrDash(s string) string {
	if s == "" {
		return "empty"
	}
	return "`" + s + "`"
}
