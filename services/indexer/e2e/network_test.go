package e2e_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// network is one recorded network of the shared fixtures.
type network struct {
	name       string
	dir        string
	meta       networkMeta
	identities map[string]networkIdentity
	events     []event.Event
}

type networkMeta struct {
	PDS               string         `json:"pds"`
	Oddities          map[string]int `json:"oddities"`
	RecordsNotIndexed []string       `json:"records_not_indexed"`
	DeletedAccounts   []string       `json:"deleted_accounts"`
	Excluded          []struct {
		Table   string   `json:"table"`
		Columns []string `json:"columns"`
		Rows    string   `json:"rows"`
	} `json:"excluded"`
}

type networkIdentity struct {
	Doc             json.RawMessage `json:"doc"`
	PLCStatus       int             `json:"plc_status"`
	Handle          string          `json:"handle"`
	Resolves        *string         `json:"resolves"`
	GetLatestCommit *struct {
		Status int    `json:"status"`
		Error  string `json:"error"`
	} `json:"get_latest_commit"`
}

// networks lists the names of all recorded networks.
func networks(t *testing.T) []string {
	t.Helper()
	metas, err := filepath.Glob(filepath.Join(testkit.Shared(t, "fixtures/network"), "*", "meta.json"))
	if err != nil || len(metas) == 0 {
		t.Fatalf("no networks: %v", err)
	}
	names := make([]string, len(metas))
	for i, m := range metas {
		names[i] = filepath.Base(filepath.Dir(m))
	}
	return names
}

func loadNetwork(t *testing.T, name string) *network {
	t.Helper()
	n := &network{name: name, dir: testkit.Shared(t, "fixtures/network/"+name)}
	readJSON(t, filepath.Join(n.dir, "meta.json"), &n.meta)
	readJSON(t, filepath.Join(n.dir, "identities.json"), &n.identities)
	n.events = readFrames(t, filepath.Join(n.dir, "frames.bin"))
	return n
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	text, err := io.ReadAll(openPlain(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// openPlain opens name, or name.gz unpacked.
func openPlain(t *testing.T, name string) io.Reader {
	t.Helper()
	if f, err := os.Open(name); err == nil {
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	f, err := os.Open(name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// readFrames turns recorded frames into the events that an ingester makes of them.
func readFrames(t *testing.T, name string) []event.Event {
	t.Helper()
	in := bufio.NewReaderSize(openPlain(t, name), 1<<20)
	var events []event.Event
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); errors.Is(err, io.EOF) {
			return events
		} else if err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, binary.LittleEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, frame); err != nil {
			t.Fatal(err)
		}
		more, err := frameEvents(frame)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		events = append(events, more...)
	}
}

func frameEvents(raw []byte) ([]event.Event, error) {
	f, err := atproto.ParseFrame(raw)
	if err != nil {
		return nil, err
	}
	switch f.Kind {
	case atproto.KindCommit:
		return commitEvents(f.Commit)
	case atproto.KindSync:
		if err := f.Sync.Open(); err != nil {
			return nil, err
		}
		s := f.Sync
		return []event.Event{{Type: event.Repo, Seq: f.Seq, Time: s.Time, DID: s.DID, Commit: s.Head().CID.String(), Rev: s.Rev}}, nil
	case atproto.KindAccount:
		a := f.Account
		return []event.Event{{Type: event.Account, Seq: a.Seq, Time: a.Time, DID: a.DID, Active: a.Active, Status: a.Status}}, nil
	case atproto.KindIdentity:
		i := f.Identity
		return []event.Event{{Type: event.Identity, Seq: i.Seq, Time: i.Time, DID: i.DID, Handle: i.Handle}}, nil
	default:
		return nil, nil
	}
}

// commitEvents keeps what an ingester keeps by default.
func commitEvents(c *atproto.Commit) ([]event.Event, error) {
	if err := c.Open(); err != nil {
		return nil, err
	}
	var dropped error
	events, err := c.Events(nil, kept, func(op *atproto.Op, err error) { dropped = errors.Join(dropped, fmt.Errorf("%s: %w", op.Path, err)) })
	if err != nil || dropped != nil {
		return nil, errors.Join(err, dropped)
	}
	if len(events) == 0 {
		events = []event.Event{{Type: event.Repo, Seq: c.Seq, Time: c.Time, DID: c.DID, Commit: c.Commit.String(), Rev: c.Rev}}
	}
	return events, nil
}

// kept says whether an ingester keeps a collection by default.
func kept(collection string) bool {
	return strings.HasPrefix(collection, "app.bsky.") || strings.HasPrefix(collection, "chat.bsky.") ||
		collection == "com.germnetwork.declaration"
}

// serve answers for the PLC directory, the resolver of handles and the PDS of
// the network, as its identities are at the end.
func (n *network) serve(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{did}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := n.identities[r.PathValue("did")]
		if !ok || len(id.Doc) == 0 || string(id.Doc) == "null" {
			http.Error(w, `{"message":"DID not registered"}`, max(id.PLCStatus, http.StatusNotFound))
			return
		}
		doc := bytes.ReplaceAll(id.Doc, []byte(n.meta.PDS), []byte("http://"+r.Host))
		w.Header().Set("Content-Type", "application/did+ld+json")
		_, _ = w.Write(doc)
	})
	mux.HandleFunc("GET /xrpc/com.atproto.identity.resolveHandle", func(w http.ResponseWriter, r *http.Request) {
		for _, id := range n.identities {
			if id.Handle == r.FormValue("handle") && id.Resolves != nil {
				answer(w, http.StatusOK, map[string]any{"did": *id.Resolves})
				return
			}
		}
		answer(w, http.StatusBadRequest, map[string]any{"error": "HandleNotFound", "message": "Unable to resolve handle"})
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getLatestCommit", func(w http.ResponseWriter, r *http.Request) {
		id := n.identities[r.FormValue("did")]
		if c := id.GetLatestCommit; c != nil && c.Error != "" {
			answer(w, c.Status, map[string]any{"error": c.Error, "message": c.Error})
			return
		}
		answer(w, http.StatusOK, map[string]any{"cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a", "rev": "3jzfcijpj2z2a"})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
