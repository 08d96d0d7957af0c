package simnet

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/testkit/world"
)

const listLimit = 1000

func (n *Network) relayMux(r *relay) *http.ServeMux {
	mux := http.NewServeMux()
	n.common(mux)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.subscribeRepos", r.subscribe)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listRepos", func(w http.ResponseWriter, req *http.Request) {
		n.listRepos(w, req, func(*world.Account, world.State) bool { return true })
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listReposByCollection", n.listByCollection)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listHosts", n.listHosts)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getLatestCommit", func(w http.ResponseWriter, req *http.Request) {
		n.latestCommit(w, req, -1)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepoStatus", func(w http.ResponseWriter, req *http.Request) {
		n.repoStatus(w, req, -1)
	})
	// A relay keeps no repositories: it sends the reader to the account's server.
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepo", func(w http.ResponseWriter, req *http.Request) {
		if a := n.accountOf(w, req); a != nil {
			http.Redirect(w, req, n.PDSURLs[n.World.State(a).PDS]+req.URL.RequestURI(), http.StatusFound)
		}
	})
	return mux
}

func (n *Network) labelerMux() *http.ServeMux {
	mux := http.NewServeMux()
	n.common(mux)
	mux.HandleFunc("GET /xrpc/com.atproto.label.subscribeLabels", n.subscribeLabels)
	return mux
}

func (n *Network) pdsMux(index int) *http.ServeMux {
	mux := http.NewServeMux()
	n.common(mux)
	here := func(_ *world.Account, s world.State) bool { return s.PDS == index }
	r := newRelay(n, 0)
	r.mine = func(a *world.Account) bool { return here(a, n.World.State(a)) }
	mux.HandleFunc("GET /xrpc/com.atproto.sync.subscribeRepos", r.subscribe)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listRepos", func(w http.ResponseWriter, req *http.Request) {
		n.listRepos(w, req, here)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getLatestCommit", func(w http.ResponseWriter, req *http.Request) {
		n.latestCommit(w, req, index)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepoStatus", func(w http.ResponseWriter, req *http.Request) {
		n.repoStatus(w, req, index)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepo", func(w http.ResponseWriter, req *http.Request) {
		n.getRepo(w, req, index)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.server.describeServer", func(w http.ResponseWriter, req *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{
			"did": "did:web:" + strings.ReplaceAll(req.Host, ":", "%3A"), "availableUserDomains": []string{".test"},
			"inviteCodeRequired": false, "links": map[string]string{},
		})
	})
	return mux
}

func (n *Network) listRepos(w http.ResponseWriter, r *http.Request, here func(*world.Account, world.State) bool) {
	if n.limited(w, "", FaultList429, "", FaultList5xx) {
		return
	}
	limit, start, ok := page(w, r)
	if !ok {
		return
	}
	type row struct {
		DID    string `json:"did"`
		Head   string `json:"head"`
		Rev    string `json:"rev"`
		Active bool   `json:"active"`
		Status string `json:"status,omitempty"`
	}
	out := struct {
		Cursor string `json:"cursor,omitempty"`
		Repos  []row  `json:"repos"`
	}{Repos: []row{}}
	accounts := n.World.Accounts()
	for i := start; i < len(accounts); i++ {
		a := accounts[i]
		s, head := n.World.State(a), a.Repo.Head()
		if !here(a, s) || s.Status == "deleted" || !head.CID.Defined() {
			continue
		}
		if len(out.Repos) == limit {
			out.Cursor = strconv.Itoa(i)
			break
		}
		out.Repos = append(out.Repos, row{a.DID, head.CID.String(), head.Rev, s.Active(), s.Status})
	}
	writeJSON(w, http.StatusOK, out)
}

// listByCollection lists the accounts with records of ?collection=.
func (n *Network) listByCollection(w http.ResponseWriter, r *http.Request) {
	if n.limited(w, "", FaultList429, "", FaultList5xx) {
		return
	}
	collection := r.URL.Query().Get("collection")
	if collection == "" {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", "Error: Params must have the property \"collection\"")
		return
	}
	limit, start, ok := page(w, r)
	if !ok {
		return
	}
	repos, cursor := []map[string]string{}, ""
	accounts := n.World.Accounts()
	for i := start; i < len(accounts); i++ {
		a := accounts[i]
		if n.World.State(a).Status == "deleted" || !slices.Contains(a.Repo.Collections(), collection) {
			continue
		}
		if len(repos) == limit {
			cursor = strconv.Itoa(i)
			break
		}
		repos = append(repos, map[string]string{"did": a.DID})
	}
	out := map[string]any{"repos": repos}
	if cursor != "" {
		out["cursor"] = cursor
	}
	writeJSON(w, http.StatusOK, out)
}

func page(w http.ResponseWriter, r *http.Request) (limit, start int, ok bool) {
	limit = 500
	q := r.URL.Query()
	var err error
	if v := q.Get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > listLimit {
			xrpcError(w, http.StatusBadRequest, "InvalidRequest", "limit must be 1 to 1000")
			return 0, 0, false
		}
	}
	if v := q.Get("cursor"); v != "" {
		if start, err = strconv.Atoi(v); err != nil || start < 0 {
			xrpcError(w, http.StatusBadRequest, "InvalidRequest", "cursor is not one of ours")
			return 0, 0, false
		}
	}
	return limit, start, true
}

func (n *Network) listHosts(w http.ResponseWriter, r *http.Request) {
	limit, start, ok := page(w, r)
	if !ok {
		return
	}
	counts := make([]int, len(n.PDSURLs))
	for _, a := range n.World.Accounts() {
		counts[n.World.State(a).PDS]++
	}
	_, last := n.World.Seqs()
	hosts, cursor := []any{}, ""
	for i := start; i < len(n.PDSURLs); i++ {
		if len(hosts) == limit {
			cursor = strconv.Itoa(i)
			break
		}
		hosts = append(hosts, map[string]any{
			"hostname": strings.TrimPrefix(n.PDSURLs[i], "http://"), "seq": last, "accountCount": counts[i], "status": "active",
		})
	}
	out := map[string]any{"hosts": hosts}
	if cursor != "" {
		out["cursor"] = cursor
	}
	writeJSON(w, http.StatusOK, out)
}

// available answers what a host says of an account that it does not serve.
// Index -1 is a relay.
func (n *Network) available(w http.ResponseWriter, a *world.Account, index int) bool {
	s := n.World.State(a)
	status := s.Status
	if index >= 0 && s.PDS != index {
		status = "deleted"
		for _, old := range s.OldPDS {
			if old == index {
				status = "deactivated"
			}
		}
	}
	if status == "" && a.Repo.Head().CID.Defined() {
		return true
	}
	name := map[string]string{
		"deactivated": "RepoDeactivated", "suspended": "RepoSuspended", "takendown": "RepoTakendown",
	}[status]
	if name == "" {
		name = "RepoNotFound"
	}
	xrpcError(w, http.StatusBadRequest, name, "Repo is not available: "+a.DID)
	return false
}

func (n *Network) latestCommit(w http.ResponseWriter, r *http.Request, index int) {
	a := n.accountOf(w, r)
	if a == nil || !n.available(w, a, index) {
		return
	}
	head := a.Repo.Head()
	writeJSON(w, http.StatusOK, map[string]string{"cid": head.CID.String(), "rev": head.Rev})
}

func (n *Network) repoStatus(w http.ResponseWriter, r *http.Request, index int) {
	a := n.accountOf(w, r)
	if a == nil {
		return
	}
	s := n.World.State(a)
	if s.Status == "deleted" || (index >= 0 && s.PDS != index) {
		xrpcError(w, http.StatusBadRequest, "RepoNotFound", "Could not find repo for DID: "+a.DID)
		return
	}
	out := map[string]any{"did": a.DID, "active": s.Active(), "rev": a.Repo.Head().Rev}
	if s.Status != "" {
		out["status"] = s.Status
	}
	writeJSON(w, http.StatusOK, out)
}

func (n *Network) getRepo(w http.ResponseWriter, r *http.Request, index int) {
	a := n.accountOf(w, r)
	if a == nil || !n.available(w, a, index) {
		return
	}
	if a.Hostile != "" {
		n.hostile(w, r, a)
		return
	}
	if n.limited(w, a.DID, FaultPDS429, FaultPDS429Bare, FaultPDS5xx) {
		return
	}
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", a.DID+".car"))
	since := r.URL.Query().Get("since")
	if !n.Faults.armed(RepoFaults()) {
		_ = a.Repo.Export(w, since)
		return
	}
	var car bytes.Buffer
	if err := a.Repo.Export(&car, since); err != nil {
		xrpcError(w, http.StatusInternalServerError, "InternalServerError", err.Error())
		return
	}
	n.sendTroubled(w, a, car.Bytes())
}

var repoSpoils = map[string]string{
	FaultPDSTruncatedCAR: FaultTruncatedCAR, FaultPDSMissingBlock: FaultMissingBlock,
	FaultPDSWrongSignature: FaultWrongSignature, FaultPDSWrongCID: FaultWrongCID,
}

func (n *Network) sendTroubled(w http.ResponseWriter, a *world.Account, car []byte) {
	for _, name := range RepoFaults() {
		how := repoSpoils[name]
		if how == "" || !n.Faults.fire(name, a.DID) {
			continue
		}
		spoiled, _, err := spoilCAR(how, a, car)
		if err != nil {
			n.log.Error("repository not spoiled", "fault", name, "err", err)
			continue
		}
		_, _ = w.Write(spoiled)
		return
	}
	switch {
	case n.Faults.fire(FaultPDSCut, a.DID):
		w.Header().Set("Content-Length", strconv.Itoa(len(car)))
		_, _ = w.Write(car[:len(car)/2])
		panic(http.ErrAbortHandler)
	case n.Faults.fire(FaultPDSSlow, a.DID):
		n.dripBody(w, car)
	default:
		_, _ = w.Write(car)
	}
}

func (n *Network) dripBody(w http.ResponseWriter, body []byte) {
	size := max(1, len(body)/20)
	flusher, _ := w.(http.Flusher)
	tick := time.NewTicker(n.opts.SlowPause)
	defer tick.Stop()
	for len(body) > 0 {
		k := min(size, len(body))
		if _, err := w.Write(body[:k]); err != nil {
			return
		}
		flusher.Flush()
		body = body[k:]
		select {
		case <-tick.C:
		case <-n.done:
			return
		}
	}
}
