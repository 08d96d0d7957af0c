package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Server serves a recording on one address: relay, directory, handles and PDS.
type Server struct {
	Recording *Recording
	// URL is the address with http://; RelayHost the same with ws://, as the
	// ingester's settings take it.
	URL, RelayHost string
	// PLCURL and HandleResolverURL are URL, named for the setting.
	PLCURL, HandleResolverURL string

	http  *httptest.Server
	done  chan struct{}
	owned sync.WaitGroup
	docs  map[string][]byte

	mu        sync.Mutex
	closed    bool // no subscription is counted in any more
	connected int
	asked     map[string]int
}

// Serve serves a recording until the test ends.
func Serve(tb testing.TB, r *Recording) *Server {
	tb.Helper()
	s := &Server{Recording: r, done: make(chan struct{}), docs: map[string][]byte{}, asked: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /xrpc/com.atproto.sync.subscribeRepos", s.subscribe)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listRepos", s.listRepos)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.listHosts", s.listHosts)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepo", s.getRepo)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getLatestCommit", s.latestCommit)
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getRepoStatus", s.repoStatus)
	mux.HandleFunc("GET /xrpc/com.atproto.identity.resolveHandle", s.resolveHandle)
	mux.HandleFunc("GET /.well-known/atproto-did", s.wellKnown)
	mux.HandleFunc("GET /{did}", s.document)
	s.http = httptest.NewServer(mux)
	s.URL = s.http.URL
	s.RelayHost = "ws" + strings.TrimPrefix(s.URL, "http")
	s.PLCURL, s.HandleResolverURL = s.URL, s.URL
	tb.Cleanup(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.done)
		s.http.CloseClientConnections()
		s.http.Close()
		s.owned.Wait()
	})
	for did, id := range r.Identities {
		doc, err := s.rehost(id.Doc)
		if err != nil {
			tb.Fatalf("document of %s: %v", did, err)
		}
		s.docs[did] = doc
	}
	return s
}

// rehost puts the server's address in the place of the recorded one.
func (s *Server) rehost(raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if s.Recording.PDS != "" {
		return bytes.ReplaceAll(raw, []byte(s.Recording.PDS+`"`), []byte(s.URL+`"`)), nil
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	services, _ := doc["service"].([]any)
	for _, v := range services {
		if service, ok := v.(map[string]any); ok && service["type"] == "AtprotoPersonalDataServer" {
			service["serviceEndpoint"] = s.URL
		}
	}
	return json.Marshal(doc)
}

// Env returns the settings of the services for this server.
func (s *Server) Env() map[string]string {
	return map[string]string{
		"PLC_URL": s.URL, "INGESTER_RELAY_HOSTS": s.RelayHost, "HANDLE_RESOLVER_URL": s.URL,
		"ALLOW_PRIVATE_NETWORK": "127.0.0.0/8",
	}
}

// Asked is how often a method or a DID document ("did") was asked for.
func (s *Server) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// Connected is how many subscriptions are open.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

// enter counts a subscription in, unless the server is closing.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.owned.Add(1)
	}
	return !s.closed
}

func (s *Server) count(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[name]++
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

func (s *Server) subscribe(w http.ResponseWriter, r *http.Request) {
	cursor := s.Recording.LastSeq()
	if text := r.URL.Query().Get("cursor"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			refuse(w, http.StatusBadRequest, "InvalidRequest")
			return
		}
		cursor = n
	}
	if !s.enter() {
		return
	}
	defer s.owned.Done()
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	gone := make(chan struct{})
	s.owned.Go(func() {
		select {
		case <-s.done:
			_ = conn.Close()
		case <-gone:
		}
	})
	s.owned.Go(func() {
		defer close(gone)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
	s.mu.Lock()
	s.connected++
	s.mu.Unlock()
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		s.connected--
		s.mu.Unlock()
	}()
	s.send(conn, cursor, gone)
}

func (s *Server) send(conn *websocket.Conn, cursor int64, gone <-chan struct{}) {
	frames := s.Recording.Frames
	first := sort.Search(len(frames), func(i int) bool { return frames[i].Seq > cursor })
	for _, f := range frames[first:] {
		_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
		if conn.WriteMessage(websocket.BinaryMessage, f.Data) != nil {
			return
		}
	}
	select {
	case <-gone:
	case <-s.done:
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, name string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": name, "message": name})
}

func (s *Server) document(w http.ResponseWriter, r *http.Request) {
	s.count("did")
	did := r.PathValue("did")
	if doc := s.docs[did]; doc != nil {
		w.Header().Set("Content-Type", "application/did+ld+json")
		_, _ = w.Write(doc)
		return
	}
	status := http.StatusNotFound
	if id, known := s.Recording.Identities[did]; known && id.PLCStatus != 0 {
		status = id.PLCStatus
	}
	refuse(w, status, "DIDNotRegistered")
}

func (s *Server) resolve(handle string) string {
	for _, did := range s.Recording.DIDs() {
		if id := s.Recording.Identities[did]; strings.EqualFold(id.Handle, handle) && id.Resolves != "" {
			return id.Resolves
		}
	}
	return ""
}

func (s *Server) resolveHandle(w http.ResponseWriter, r *http.Request) {
	s.count("resolveHandle")
	did := s.resolve(r.URL.Query().Get("handle"))
	if did == "" {
		refuse(w, http.StatusBadRequest, "HandleNotFound")
		return
	}
	answer(w, map[string]string{"did": did})
}

func (s *Server) wellKnown(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	did := s.resolve(host)
	if did == "" {
		http.Error(w, "User not found", http.StatusNotFound)
		return
	}
	_, _ = fmt.Fprint(w, did)
}
