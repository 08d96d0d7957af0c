package replay

import (
	"bytes"
	"fmt"
	"io"

	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/atproto/repo/mst"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
)

// history is what the frames tell of a repository.
type history struct {
	root   cid.Cid
	rev    string
	blocks map[cid.Cid][]byte
	active bool
	status string
}

// rebuild gathers the blocks of all frames by repository.
func (r *Recording) rebuild() error {
	r.repos = map[string]*history{}
	for _, f := range r.Frames {
		m, err := parse(f.Data)
		if err != nil {
			return err
		}
		h := r.repos[m.DID]
		if h == nil {
			h = &history{blocks: map[cid.Cid][]byte{}, active: true}
			r.repos[m.DID] = h
		}
		switch m.kind {
		case "#account":
			h.active, h.status = m.Active, m.Status
		case "#commit", "#sync":
			root, blocks, err := repo.ReadCAR(m.Blocks)
			if err != nil {
				continue // some recordings have broken commits on purpose
			}
			for _, b := range blocks {
				h.blocks[b.CID] = b.Data
			}
			if m.Rev >= h.rev {
				h.root, h.rev = root, m.Rev
			}
		}
	}
	return nil
}

// Head returns the newest commit of a repository.
func (r *Recording) Head(did string) (root cid.Cid, rev string, found bool) {
	h := r.repos[did]
	if h == nil || !h.root.Defined() {
		return cid.Undef, "", false
	}
	return h.root, h.rev, true
}

// Export writes the newest state of a repository as a CAR file. It is an error
// if the frames do not hold all of it.
func (r *Recording) Export(w io.Writer, did string) error {
	h := r.repos[did]
	if h == nil || !h.root.Defined() {
		return fmt.Errorf("export %s: no commit was recorded", did)
	}
	var commit atrepo.Commit
	if err := commit.UnmarshalCBOR(bytes.NewReader(h.blocks[h.root])); err != nil {
		return fmt.Errorf("export %s: %w", did, err)
	}
	blocks := []repo.Block{{CID: h.root, Data: h.blocks[h.root]}}
	if err := h.walk(commit.Data, 0, &blocks); err != nil {
		return fmt.Errorf("export %s: %w", did, err)
	}
	_, err := w.Write(repo.CAR(h.root, blocks))
	return err
}

func (h *history) walk(node cid.Cid, depth int, out *[]repo.Block) error {
	data, found := h.blocks[node]
	if !found || depth > 128 {
		return fmt.Errorf("node %s was not recorded", node)
	}
	*out = append(*out, repo.Block{CID: node, Data: data})
	nd, err := mst.NodeDataFromCBOR(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if nd.Left != nil {
		if err := h.walk(*nd.Left, depth+1, out); err != nil {
			return err
		}
	}
	for _, e := range nd.Entries {
		record, found := h.blocks[e.Value]
		if !found {
			return fmt.Errorf("record %s was not recorded", e.Value)
		}
		*out = append(*out, repo.Block{CID: e.Value, Data: record})
		if e.Right != nil {
			if err := h.walk(*e.Right, depth+1, out); err != nil {
				return err
			}
		}
	}
	return nil
}
