package feed

import (
	"fmt"
	"net/url"
	"strings"
)

// Host is a configured server of event streams.
type Host struct {
	// Name is the bare host and port: part of the cursor's key.
	Name string
	// Base is its ws:// or wss:// URL without a path.
	Base string
	// Raw is what was configured.
	Raw string
}

// ParseHosts reads a list of hosts, none of them twice.
func ParseHosts(raw []string) ([]Host, error) {
	seen := map[string]bool{}
	var out []Host
	for _, r := range raw {
		h, err := parseHost(strings.TrimSpace(r))
		if err != nil {
			return nil, err
		}
		if seen[h.Name] {
			return nil, fmt.Errorf("host %q is configured twice", h.Name)
		}
		seen[h.Name] = true
		out = append(out, h)
	}
	return out, nil
}

// LegacyKeys are where the systems before this one kept a cursor: they wrote
// the setting as it was into the key.
func (h Host) LegacyKeys(stream string) []string {
	if h.Raw == h.Name {
		return nil
	}
	return []string{stream + ":cursor:" + h.Raw}
}

// parseHost reads a host: wss, https or no scheme means TLS.
func parseHost(raw string) (Host, error) {
	scheme, host, found := strings.Cut(raw, "://")
	if !found {
		scheme, host = "wss", raw
	}
	switch scheme {
	case "wss", "https":
		scheme = "wss"
	case "ws", "http":
		scheme = "ws"
	default:
		return Host{}, fmt.Errorf("host %q: scheme %q is none of wss, ws, https, http", raw, scheme)
	}
	u, err := url.Parse(scheme + "://" + strings.TrimSuffix(host, "/"))
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return Host{}, fmt.Errorf("%q is not a host", raw)
	}
	return Host{Name: u.Host, Base: u.Scheme + "://" + u.Host, Raw: raw}, nil
}

// Clip bounds a text of the other side for a log line.
func Clip(s string) string { return fmt.Sprintf("%.200q", s) }
