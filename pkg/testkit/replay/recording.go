// Package replay serves recorded frames: a relay, a directory, a handle
// resolver and a personal data server for what was once seen of a real network.
package replay

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Frame is one recorded message.
type Frame struct {
	Seq  int64
	Data []byte
}

// Identity is what was known of an account at the end.
type Identity struct {
	// Doc is the DID document; null where the directory had none, and then
	// PLCStatus is its answer (0: 404).
	Doc       json.RawMessage `json:"doc"`
	PLCStatus int             `json:"plc_status"`
	Handle    string          `json:"handle"`
	// Resolves is the DID that the handle resolves to; empty: to none.
	Resolves string `json:"resolves"`
	// LatestCommit is what the server answered to getLatestCommit after the
	// account was deleted; nil: the usual.
	LatestCommit *Refusal `json:"get_latest_commit"`
}

// Refusal is an error of a server.
type Refusal struct {
	Status int    `json:"status"`
	Error  string `json:"error"`
}

// Recording is a piece of a network's past.
type Recording struct {
	Name       string
	Frames     []Frame
	Identities map[string]Identity
	// PDS is the address that documents name and that a server's own takes the
	// place of. Empty: every server of an account is replaced.
	PDS string
	// Dir has the other files of the recording.
	Dir   string
	repos map[string]*history
}

// LastSeq is the sequence number of the last frame.
func (r *Recording) LastSeq() int64 {
	if len(r.Frames) == 0 {
		return 0
	}
	return r.Frames[len(r.Frames)-1].Seq
}

// DIDs returns the accounts, sorted.
func (r *Recording) DIDs() []string {
	out := make([]string, 0, len(r.Identities))
	for did := range r.Identities {
		out = append(out, did)
	}
	sort.Strings(out)
	return out
}

// LoadFirehose reads a folder with frames.bin and did_docs.json: frames of a
// relay and the documents of their accounts. Handles resolve as the documents
// have them.
func LoadFirehose(dir string) (*Recording, error) {
	var docs map[string]json.RawMessage
	if err := readJSON(filepath.Join(dir, "did_docs.json"), &docs); err != nil {
		return nil, err
	}
	r := &Recording{Name: filepath.Base(dir), Dir: dir, Identities: map[string]Identity{}}
	for did, raw := range docs {
		var doc struct{ AlsoKnownAs []string }
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("document of %s: %w", did, err)
		}
		id := Identity{Doc: raw, Resolves: did}
		if len(doc.AlsoKnownAs) > 0 {
			id.Handle = strings.TrimPrefix(doc.AlsoKnownAs[0], "at://")
		}
		r.Identities[did] = id
	}
	return r, r.load()
}

// LoadNetwork reads a folder with frames.bin, identities.json and meta.json.
func LoadNetwork(dir string) (*Recording, error) {
	r := &Recording{Name: filepath.Base(dir), Dir: dir}
	if err := readJSON(filepath.Join(dir, "identities.json"), &r.Identities); err != nil {
		return nil, err
	}
	var meta struct {
		PDS string `json:"pds"`
	}
	if err := readJSON(filepath.Join(dir, "meta.json"), &meta); err != nil {
		return nil, err
	}
	r.PDS = meta.PDS
	return r, r.load()
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (r *Recording) load() error {
	f, err := os.Open(filepath.Join(r.Dir, "frames.bin"))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		data, err := readFrame(f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read frames of %s: %w", r.Name, err)
		}
		m, err := parse(data)
		if err != nil {
			return fmt.Errorf("read frame %d of %s: %w", len(r.Frames), r.Name, err)
		}
		r.Frames = append(r.Frames, Frame{m.Seq, data})
	}
	return r.rebuild()
}

func readFrame(f io.Reader) ([]byte, error) {
	var size uint32
	if err := binary.Read(f, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	if size > 16<<20 {
		return nil, fmt.Errorf("frame of %d bytes", size)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(f, data)
	return data, err
}

// message is what serving needs of a frame.
type message struct {
	kind   string
	Seq    int64  `cbor:"seq"`
	DID    string `cbor:"did"`
	Repo   string `cbor:"repo"`
	Rev    string `cbor:"rev"`
	Blocks []byte `cbor:"blocks"`
	Active bool   `cbor:"active"`
	Status string `cbor:"status"`
}

func parse(data []byte) (*message, error) {
	var header struct {
		Op int    `cbor:"op"`
		T  string `cbor:"t"`
	}
	rest, err := cbor.UnmarshalFirst(data, &header)
	if err != nil {
		return nil, err
	}
	m := &message{}
	if err := cbor.Unmarshal(rest, m); err != nil {
		return nil, err
	}
	m.kind = header.T
	if m.DID == "" {
		m.DID = m.Repo
	}
	return m, nil
}
