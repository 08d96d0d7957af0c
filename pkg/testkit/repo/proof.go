package repo

import (
	"bytes"

	"github.com/bluesky-social/indigo/atproto/repo/mst"
	"github.com/ipfs/go-cid"
)

// proof gathers the nodes that a reader needs to undo a commit's operations on
// a tree that it sees only in part: the way to each key, and where a key was
// put in, the edges of the two subtrees beside it, which become one without it.
type proof struct {
	blocks []Block
	has    map[cid.Cid]bool
	err    error
}

func newProof(changed []Block) *proof {
	p := &proof{blocks: changed, has: make(map[cid.Cid]bool, len(changed)+4)}
	for _, b := range changed {
		p.has[b.CID] = true
	}
	return p
}

// root adds the root, which is an old node if a deletion took away all above it.
func (p *proof) root(n *mst.Node) { p.add(n) }

func (p *proof) add(n *mst.Node) {
	if n.CID != nil && p.has[*n.CID] {
		return
	}
	nd := n.NodeData()
	data, c, err := nd.Bytes()
	if err != nil {
		p.err = err
		return
	}
	if !p.has[*c] {
		p.has[*c] = true
		p.blocks = append(p.blocks, Block{*c, data})
	}
}

// cover adds the nodes on the way from n to key.
func (p *proof) cover(n *mst.Node, key []byte) {
	p.add(n)
	var below *mst.Node // the subtree that key belongs into
	for i, e := range n.Entries {
		if e.IsChild() {
			below = e.Child
			continue
		}
		order := bytes.Compare(e.Key, key)
		if order == 0 {
			p.edge(below, false)
			if i+1 < len(n.Entries) && n.Entries[i+1].IsChild() {
				p.edge(n.Entries[i+1].Child, true)
			}
			return
		}
		if order > 0 {
			break
		}
		below = nil
	}
	if below != nil {
		p.cover(below, key)
	}
}

// edge adds the nodes on the left or the right edge of a subtree.
func (p *proof) edge(n *mst.Node, left bool) {
	for n != nil {
		p.add(n)
		at := len(n.Entries) - 1
		if left {
			at = 0
		}
		if at < 0 || !n.Entries[at].IsChild() {
			return
		}
		n = n.Entries[at].Child
	}
}
