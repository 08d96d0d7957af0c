package replay

import (
	"bytes"
	"net/http"
	"strings"
)

func (s *Server) listHosts(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"hosts": []any{map[string]any{
		"hostname": strings.TrimPrefix(s.URL, "http://"), "seq": s.Recording.LastSeq(),
		"accountCount": len(s.Recording.Identities), "status": "active",
	}}})
}

func (s *Server) listRepos(w http.ResponseWriter, r *http.Request) {
	s.count("listRepos")
	cursor := r.URL.Query().Get("cursor")
	const limit = 20 // small, so that readers page
	repos, next := []any{}, ""
	for _, did := range s.Recording.DIDs() {
		root, rev, found := s.Recording.Head(did)
		if did <= cursor || !found || s.refusal(did) != nil {
			continue
		}
		if len(repos) == limit {
			break
		}
		h := s.Recording.repos[did]
		row := map[string]any{"did": did, "head": root.String(), "rev": rev, "active": h.active}
		if !h.active && h.status != "" {
			row["status"] = h.status
		}
		repos = append(repos, row)
		next = did
	}
	out := map[string]any{"repos": repos}
	if len(repos) == limit {
		out["cursor"] = next
	}
	answer(w, out)
}

// refusal is what the server says instead of the repository; nil: it has it.
func (s *Server) refusal(did string) *Refusal {
	if id, known := s.Recording.Identities[did]; known && id.LatestCommit != nil && id.LatestCommit.Status >= http.StatusBadRequest {
		return id.LatestCommit
	}
	if _, _, found := s.Recording.Head(did); !found {
		return &Refusal{http.StatusBadRequest, "RepoNotFound"}
	}
	return nil
}

func (s *Server) inactive(did string) *Refusal {
	h := s.Recording.repos[did]
	if h == nil || h.active {
		return nil
	}
	name := map[string]string{
		"deactivated": "RepoDeactivated", "suspended": "RepoSuspended", "takendown": "RepoTakendown",
	}[h.status]
	if name == "" {
		name = "RepoNotFound"
	}
	return &Refusal{http.StatusBadRequest, name}
}

func (s *Server) latestCommit(w http.ResponseWriter, r *http.Request) {
	s.count("getLatestCommit")
	did := r.URL.Query().Get("did")
	if no := s.refusal(did); no != nil {
		refuse(w, no.Status, no.Error)
		return
	}
	if no := s.inactive(did); no != nil {
		refuse(w, no.Status, no.Error)
		return
	}
	root, rev, _ := s.Recording.Head(did)
	answer(w, map[string]string{"cid": root.String(), "rev": rev})
}

func (s *Server) repoStatus(w http.ResponseWriter, r *http.Request) {
	did := r.URL.Query().Get("did")
	if no := s.refusal(did); no != nil {
		refuse(w, no.Status, no.Error)
		return
	}
	h := s.Recording.repos[did]
	out := map[string]any{"did": did, "active": h.active, "rev": h.rev}
	if !h.active && h.status != "" {
		out["status"] = h.status
	}
	answer(w, out)
}

func (s *Server) getRepo(w http.ResponseWriter, r *http.Request) {
	s.count("getRepo")
	did := r.URL.Query().Get("did")
	for _, no := range []*Refusal{s.refusal(did), s.inactive(did)} {
		if no != nil {
			refuse(w, no.Status, no.Error)
			return
		}
	}
	var car bytes.Buffer
	if err := s.Recording.Export(&car, did); err != nil {
		refuse(w, http.StatusBadRequest, "RepoNotFound") // only parts of it were recorded
		return
	}
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	_, _ = w.Write(car.Bytes())
}
