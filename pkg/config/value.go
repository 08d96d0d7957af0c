package config

import (
	"encoding"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// set parses raw and stores it in every field of s. The error says what would
// have been right; the caller names the setting and the value.
func (s *Setting) set(raw string) error {
	for _, f := range s.fields {
		if err := s.setField(f, raw); err != nil {
			return err
		}
	}
	return nil
}

func (s *Setting) setField(f reflect.Value, raw string) error {
	if f.Type() == durationType {
		d, err := s.duration(raw)
		if err == nil {
			f.SetInt(int64(d))
		}
		return err
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](f.Addr()); ok {
		return u.UnmarshalText([]byte(raw))
	}
	switch f.Kind() {
	case reflect.String:
		if err := s.allowed(raw); err != nil {
			return err
		}
		f.SetString(raw)
	case reflect.Slice:
		return s.setSlice(f, raw)
	case reflect.Bool:
		b, err := parseBool(raw)
		if err != nil {
			return err
		}
		f.SetBool(b)
	case reflect.Float64:
		x, err := strconv.ParseFloat(raw, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("want a number")
		}
		if err := s.inRange(x); err != nil {
			return err
		}
		f.SetFloat(x)
	default:
		return s.setInt(f, raw)
	}
	return nil
}

func (s *Setting) setSlice(f reflect.Value, raw string) error {
	items := splitList(raw)
	for _, item := range items {
		if err := s.allowed(item); err != nil {
			return err
		}
	}
	out := reflect.MakeSlice(f.Type(), len(items), len(items))
	for i, item := range items {
		out.Index(i).SetString(item)
	}
	f.Set(out)
	return nil
}

func (s *Setting) setInt(f reflect.Value, raw string) error {
	digits := strings.ReplaceAll(raw, "_", "")
	if f.CanUint() {
		n, err := strconv.ParseUint(digits, 10, f.Type().Bits())
		if err != nil {
			return fmt.Errorf("want a whole number of at least 0")
		}
		if err := s.inRange(float64(n)); err != nil {
			return err
		}
		f.SetUint(n)
		return nil
	}
	n, err := strconv.ParseInt(digits, 10, f.Type().Bits())
	if err != nil {
		return fmt.Errorf("want a whole number")
	}
	if err := s.inRange(float64(n)); err != nil {
		return err
	}
	f.SetInt(n)
	return nil
}

func (s *Setting) unit() time.Duration {
	if s.Unit == "ms" {
		return time.Millisecond
	}
	return time.Second
}

func (s *Setting) duration(raw string) (time.Duration, error) {
	d, err := time.ParseDuration(raw)
	if n, numErr := strconv.ParseFloat(raw, 64); numErr == nil && s.Unit != "" {
		if math.Abs(n*float64(s.unit())) > math.MaxInt64 {
			return 0, fmt.Errorf("too long")
		}
		d, err = time.Duration(n*float64(s.unit())), nil
	}
	if err != nil {
		if s.Unit != "" {
			return 0, fmt.Errorf("want a number of %s or a duration such as 30s", s.Unit)
		}
		return 0, fmt.Errorf("want a duration such as 500ms, 30s or 5m")
	}
	if d < 0 {
		return 0, fmt.Errorf("want a duration of at least 0")
	}
	return d, s.inRange(float64(d) / float64(s.unit()))
}

func (s *Setting) inRange(x float64) error {
	lo, hi := math.Inf(-1), math.Inf(1)
	if n, err := strconv.ParseFloat(s.Min, 64); err == nil {
		lo = n
	}
	if n, err := strconv.ParseFloat(s.Max, 64); err == nil {
		hi = n
	}
	switch {
	case x >= lo && x <= hi:
		return nil
	case s.Max == "":
		return fmt.Errorf("must be at least %s%s", s.Min, s.Unit)
	case s.Min == "":
		return fmt.Errorf("must be at most %s%s", s.Max, s.Unit)
	default:
		return fmt.Errorf("must be between %s and %s%s", s.Min, s.Max, s.Unit)
	}
}

func (s *Setting) allowed(v string) error {
	if len(s.OneOf) == 0 || slices.Contains(s.OneOf, v) {
		return nil
	}
	return fmt.Errorf("must be one of %s", strings.Join(s.OneOf, ", "))
}

func parseBool(raw string) (bool, error) {
	switch strings.ToLower(raw) {
	case "1", "t", "true", "yes", "on":
		return true, nil
	case "0", "f", "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("want true or false")
}

// show is raw as it may be printed.
func (s *Setting) show(raw string) string {
	if !s.Secret || raw == "" {
		return raw
	}
	return Redact(raw)
}

// Redact hides what is secret in a value: the password of a URL, else all of it.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return "[redacted]"
	}
	q := u.Query()
	for _, key := range []string{"password", "sslpassword", "token"} {
		if q.Has(key) {
			q.Set(key, "xxxxx")
			u.RawQuery = q.Encode()
		}
	}
	return u.Redacted()
}
