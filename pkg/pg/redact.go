package pg

import (
	"net/url"
	"regexp"
)

var passwordPair = regexp.MustCompile(`(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)`)

// Redact hides the password of a connection string in either form.
func Redact(conn string) string {
	u, err := url.Parse(conn)
	if err == nil && u.Scheme != "" && u.Host != "" {
		q := u.Query()
		if q.Has("password") {
			q.Set("password", "xxxxx")
			u.RawQuery = q.Encode()
		}
		return u.Redacted()
	}
	if err != nil {
		return "[unreadable]" // the password may be anywhere in it
	}
	return passwordPair.ReplaceAllString(conn, "${1}xxxxx")
}
