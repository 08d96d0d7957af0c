package simnet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/testkit/world"
)

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func xrpcError(w http.ResponseWriter, status int, name, message string) {
	writeJSON(w, status, map[string]string{"error": name, "message": message})
}

// common are the routes that every server has.
func (n *Network) common(mux *http.ServeMux) {
	mux.HandleFunc("GET /xrpc/com.atproto.identity.resolveHandle", n.resolveHandle)
	mux.HandleFunc("GET /.well-known/atproto-did", n.wellKnown)
	mux.HandleFunc("GET /xrpc/_health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"version": "simnet"})
	})
	mux.HandleFunc("GET /_sim/truth", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.Truth())
	})
	mux.HandleFunc("GET /_sim/counts", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.World.Counts())
	})
	mux.HandleFunc("GET /_sim/status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.Status())
	})
	mux.HandleFunc("GET /_sim/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"names": n.Faults.Names(), "fired": n.Faults.Counts()})
	})
	mux.HandleFunc("POST /_sim/faults", n.setFaults)
	mux.HandleFunc("POST /_sim/step", n.step)
}

// setFaults takes {"name": {"every": n, "times": n}, ...}, or a list like
// Options.Faults as text/plain.
func (n *Network) setFaults(w http.ResponseWriter, r *http.Request) {
	body := http.MaxBytesReader(w, r.Body, 1<<16)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain") {
		var b strings.Builder
		buf := make([]byte, 4096)
		for {
			k, err := body.Read(buf)
			b.Write(buf[:k])
			if err != nil {
				break
			}
		}
		if err := n.Faults.Apply(b.String()); err != nil {
			xrpcError(w, http.StatusBadRequest, "InvalidRequest", err.Error())
			return
		}
		writeJSON(w, http.StatusOK, n.Faults.Counts())
		return
	}
	rules := map[string]Rule{}
	if err := json.NewDecoder(body).Decode(&rules); err != nil {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", err.Error())
		return
	}
	for name, rule := range rules {
		if err := n.Faults.Set(name, rule); err != nil {
			xrpcError(w, http.StatusBadRequest, "InvalidRequest", err.Error())
			return
		}
	}
	writeJSON(w, http.StatusOK, n.Faults.Counts())
}

// step lets ?n= more things happen now.
func (n *Network) step(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || count < 1 || count > 100_000 {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", "n must be 1 to 100000")
		return
	}
	if err := n.World.Step(count, time.Now); err != nil {
		xrpcError(w, http.StatusInternalServerError, "InternalServerError", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, n.Status())
}

func (n *Network) resolveHandle(w http.ResponseWriter, r *http.Request) {
	handle := strings.ToLower(r.URL.Query().Get("handle"))
	a := n.World.Resolve(handle)
	if a == nil {
		xrpcError(w, http.StatusBadRequest, "HandleNotFound", "Unable to resolve handle")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"did": a.DID})
}

func (n *Network) wellKnown(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	a := n.World.Resolve(strings.ToLower(host))
	if a == nil {
		http.Error(w, "User not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = fmt.Fprint(w, a.DID)
}

// limited answers a 429 or a 5xx if a fault says so.
func (n *Network) limited(w http.ResponseWriter, subject, limit, bare, broken string) bool {
	switch {
	case limit != "" && n.Faults.fire(limit, subject):
		h := w.Header()
		seconds := int(n.opts.RetryAfter.Seconds())
		h.Set("RateLimit-Limit", "3000")
		h.Set("RateLimit-Remaining", "0")
		h.Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(n.opts.RetryAfter).Unix(), 10))
		h.Set("RateLimit-Policy", "3000;w=300")
		h.Set("Retry-After", strconv.Itoa(seconds))
		xrpcError(w, http.StatusTooManyRequests, "RateLimitExceeded", "Rate Limit Exceeded")
	case bare != "" && n.Faults.fire(bare, subject):
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = fmt.Fprint(w, "<html><head><title>429 Too Many Requests</title></head><body><center><h1>429 Too Many Requests</h1></center></body></html>")
	case broken != "" && n.Faults.fire(broken, subject):
		http.Error(w, "upstream connect error", []int{500, 502, 503, 504}[n.Faults.Fired(broken)%4])
	default:
		return false
	}
	return true
}

// accountOf finds the account of ?did=.
func (n *Network) accountOf(w http.ResponseWriter, r *http.Request) *world.Account {
	did := r.URL.Query().Get("did")
	if !strings.HasPrefix(did, "did:") {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", "Error: Params must have the property \"did\"")
		return nil
	}
	a := n.World.Account(did)
	if a == nil {
		xrpcError(w, http.StatusBadRequest, "RepoNotFound", "Could not find repo for DID: "+did)
	}
	return a
}
