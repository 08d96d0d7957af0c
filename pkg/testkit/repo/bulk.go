package repo

import (
	"fmt"
	"io"

	"github.com/bluesky-social/indigo/atproto/repo/mst"
	"github.com/ipfs/go-cid"
)

// Bulk is a repository of any size that is never held in memory: its records
// are made twice, for the root and for the blocks.
type Bulk struct {
	DID string
	Rev string
	Key *Key
	// N is the number of records.
	N int
	// Record makes the i-th one. Paths must ascend.
	Record func(i int) (path string, record []byte)
}

// Write writes the CAR file: the commit, then the tree from its leaves up, with
// each record before the node that names it.
func (b Bulk) Write(w io.Writer) error {
	dry := bulkTree{emit: func(cid.Cid, []byte) error { return nil }}
	root, err := b.build(&dry)
	if err != nil {
		return err
	}
	r := New(b.DID, b.Key)
	c := Commit{Rev: b.Rev, Data: root}
	if err := r.sign(&c, b.Key); err != nil {
		return err
	}
	if _, err := w.Write(AppendCARBlock(AppendCARHeader(nil, c.CID), c.CID, c.Block)); err != nil {
		return err
	}
	buf := make([]byte, 0, 128<<10)
	wet := bulkTree{emit: func(id cid.Cid, data []byte) error {
		if buf = AppendCARBlock(buf, id, data); len(buf) < 64<<10 {
			return nil
		}
		_, err := w.Write(buf)
		buf = buf[:0]
		return err
	}}
	if _, err := b.build(&wet); err != nil {
		return err
	}
	_, err = w.Write(buf)
	return err
}

func (b Bulk) build(t *bulkTree) (cid.Cid, error) {
	for i := range b.N {
		path, record := b.Record(i)
		c := CID(record)
		if c != t.last {
			if err := t.emit(c, record); err != nil {
				return cid.Undef, err
			}
			t.last = c
		}
		if err := t.put(path, c); err != nil {
			return cid.Undef, fmt.Errorf("add record %d of %s: %w", i, b.DID, err)
		}
	}
	return t.finish()
}

// bulkTree builds a tree from ascending keys. It holds one open node a layer.
type bulkTree struct {
	emit   func(cid.Cid, []byte) error
	layers []bulkNode
	last   cid.Cid // the last record that was emitted
}

type bulkNode struct {
	left    *cid.Cid
	entries []mst.EntryData
	prev    string
}

func (n *bulkNode) empty() bool { return n.left == nil && len(n.entries) == 0 }

func (t *bulkTree) put(path string, value cid.Cid) error {
	height := mst.HeightForKey([]byte(path))
	for len(t.layers) <= height {
		t.layers = append(t.layers, bulkNode{})
	}
	if err := t.closeBelow(height); err != nil {
		return err
	}
	n := &t.layers[height]
	shared := mst.CountPrefixLen([]byte(n.prev), []byte(path))
	n.entries = append(n.entries, mst.EntryData{
		PrefixLen: int64(shared), KeySuffix: []byte(path[shared:]), Value: value,
	})
	n.prev = path
	return nil
}

// closeBelow makes the open nodes under a layer subtrees of it.
func (t *bulkTree) closeBelow(layer int) error {
	for l := range layer {
		if t.layers[l].empty() {
			continue
		}
		id, err := t.seal(l)
		if err != nil {
			return err
		}
		above := &t.layers[l+1]
		if len(above.entries) == 0 {
			above.left = &id
		} else {
			above.entries[len(above.entries)-1].Right = &id
		}
	}
	return nil
}

func (t *bulkTree) seal(layer int) (cid.Cid, error) {
	n := t.layers[layer]
	t.layers[layer] = bulkNode{}
	if n.entries == nil {
		n.entries = []mst.EntryData{}
	}
	nd := mst.NodeData{Left: n.left, Entries: n.entries}
	data, id, err := nd.Bytes()
	if err != nil {
		return cid.Undef, err
	}
	return *id, t.emit(*id, data)
}

func (t *bulkTree) finish() (cid.Cid, error) {
	if len(t.layers) == 0 {
		t.layers = append(t.layers, bulkNode{})
	}
	top := len(t.layers) - 1
	if err := t.closeBelow(top); err != nil {
		return cid.Undef, err
	}
	return t.seal(top)
}
