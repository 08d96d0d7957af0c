package simnet

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/testkit/world"
)

func (n *Network) plcMux() *http.ServeMux {
	mux := http.NewServeMux()
	n.common(mux)
	mux.HandleFunc("GET /export", n.export)
	mux.HandleFunc("GET /_health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"version": "simnet"})
	})
	mux.HandleFunc("GET /{did}", n.document)
	return mux
}

func (n *Network) document(w http.ResponseWriter, r *http.Request) {
	did := r.PathValue("did")
	if n.limited(w, did, FaultPLC429, "", FaultPLC5xx) {
		return
	}
	if n.oddDocument(w, r, did) {
		return
	}
	a := n.World.Account(did)
	if a == nil {
		writeJSON(w, http.StatusNotFound, map[string]string{"message": "DID not registered: " + did})
		return
	}
	s := n.World.State(a)
	if s.Tombstoned {
		writeJSON(w, http.StatusGone, map[string]string{"message": "DID not available: " + did})
		return
	}
	w.Header().Set("Content-Type", "application/did+ld+json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(n.doc(a, s))
}

// oddDocument answers like a directory that is not one.
func (n *Network) oddDocument(w http.ResponseWriter, r *http.Request, did string) bool {
	switch {
	case r.URL.Query().Has("hop"), n.Faults.fire(FaultPLCRedirect, did):
		http.Redirect(w, r, r.URL.Path+"?hop=1", http.StatusFound)
	case n.Faults.fire(FaultPLCGarbage, did):
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Sign in to this network to go on</html>"))
	case n.Faults.fire(FaultPLCEndless, did):
		_, _ = w.Write([]byte(`{"id":"` + did + `","alsoKnownAs":["at://`))
		spaces := bytes.Repeat([]byte("a"), 64<<10)
		for {
			if _, err := w.Write(spaces); err != nil {
				return true
			}
			select {
			case <-n.done:
				return true
			default:
			}
		}
	default:
		return false
	}
	return true
}

func (n *Network) doc(a *world.Account, s world.State) map[string]any {
	return a.Document(s, n.PDSURLs[s.PDS], "http://"+strings.TrimPrefix(n.LabelerHost, "ws://"))
}

// export answers like the directory's bulk export: one operation a line.
func (n *Network) export(w http.ResponseWriter, r *http.Request) {
	count := 1000
	if c, err := strconv.Atoi(r.URL.Query().Get("count")); err == nil && c > 0 && c < count {
		count = c
	}
	after, _ := time.Parse(time.RFC3339, r.URL.Query().Get("after"))
	start := n.World.Options.End.AddDate(-1, 0, 0)
	enc := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/jsonlines")
	for i, a := range n.World.Accounts() {
		at := start.Add(time.Duration(i) * time.Second)
		if !at.After(after) {
			continue
		}
		if count--; count < 0 {
			return
		}
		if enc.Encode(n.operation(a, at)) != nil {
			return
		}
	}
}

func (n *Network) operation(a *world.Account, at time.Time) map[string]any {
	s := n.World.State(a)
	op := map[string]any{"type": "plc_tombstone", "prev": a.Repo.Head().CID.String(), "sig": "AA"}
	if !s.Tombstoned {
		methods := map[string]string{"atproto": a.Key.Public().DIDKey()}
		services := map[string]any{"atproto_pds": map[string]string{
			"type": "AtprotoPersonalDataServer", "endpoint": n.PDSURLs[s.PDS],
		}}
		if a.LabelKey != nil {
			methods["atproto_label"] = a.LabelKey.Public().DIDKey()
			services["atproto_labeler"] = map[string]string{
				"type": "AtprotoLabeler", "endpoint": "http://" + strings.TrimPrefix(n.LabelerHost, "ws://"),
			}
		}
		op = map[string]any{
			"type": "plc_operation", "rotationKeys": []string{a.Key.Public().DIDKey()}, "verificationMethods": methods,
			"alsoKnownAs": []string{"at://" + s.Handle}, "services": services, "prev": nil, "sig": "AA",
		}
	}
	return map[string]any{
		"did": a.DID, "operation": op, "cid": a.Repo.Head().CID.String(), "nullified": false,
		"createdAt": at.Format("2006-01-02T15:04:05.000Z"),
	}
}
