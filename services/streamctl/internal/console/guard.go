package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// policy lets the page load what comes from here and nothing else, and run
// nothing that is written into it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guarded sets the headers that every answer has and refuses names that are not
// ours: a page elsewhere whose name was pointed at this machine must not read.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store")
		if !s.knownHost(r.Host) {
			refuse(w, http.StatusMisdirectedRequest, "Host %q is not a name of this console: ask for 127.0.0.1 or localhost, or add the name to CONSOLE_HOSTS", r.Host)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knownHost says whether a request may name this host. Beyond loopback any name
// may, since nothing is told without the token.
func (s *Server) knownHost(hostport string) bool {
	host := bare(hostport)
	return loopback(host) || !s.local || slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// bare is a host without its port and brackets.
func bare(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// read lets those in who may look.
func (s *Server) read(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if why := foreign(r); why != "" {
			refuse(w, http.StatusForbidden, "%s", why)
			return
		}
		if !s.open(r) && !s.authorized(w, r) {
			return
		}
		next(w, r)
	}
}

// act lets those in who may change something: the token, always, and no page
// but ours.
func (s *Server) act(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if why := foreign(r); why != "" {
			refuse(w, http.StatusForbidden, "%s", why)
			return
		}
		if !s.authorized(w, r) {
			return
		}
		if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(ct), "application/json") {
			refuse(w, http.StatusUnsupportedMediaType, "Content-Type %q: want application/json", ct)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next(w, r)
	}
}

// open says that reading needs no token: on loopback, asked for by a name of
// loopback, and not through a proxy that carries others here.
func (s *Server) open(r *http.Request) bool {
	if !s.local || !loopback(bare(r.Host)) {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	return true
}

// authorized compares the token, and answers when it is not the right one.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if s.cfg.Token == "" {
		refuse(w, http.StatusForbidden, "no token is set: this console only shows; start it with CONSOLE_TOKEN_FILE to allow actions")
		return false
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(s.cfg.Token))
	if bearer && subtle.ConstantTimeCompare(a[:], b[:]) == 1 {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="sluice console"`)
	if given == "" {
		refuse(w, http.StatusUnauthorized, "the token is missing: send Authorization: Bearer with the content of CONSOLE_TOKEN_FILE")
	} else {
		refuse(w, http.StatusUnauthorized, "the token is not the right one: it is the content of CONSOLE_TOKEN_FILE")
	}
	return false
}

// foreign says why a request comes from another page, "" if it does not.
func foreign(r *http.Request) string {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return fmt.Sprintf("Sec-Fetch-Site %s: another page may not ask; use the console's own", site)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return ""
	}
	if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
		return fmt.Sprintf("Origin %q is not this console (%s): another page may not ask", origin, r.Host)
	}
	return ""
}

// refuse answers with one line of JSON that says what is wrong and what would
// be right.
func refuse(w http.ResponseWriter, code int, format string, args ...any) {
	answer(w, code, map[string]string{"error": strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
