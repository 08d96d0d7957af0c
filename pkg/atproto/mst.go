package atproto

import (
	"bytes"
	"crypto/sha256"
	"math/bits"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// maxKey bounds a key of the tree: collection, slash, record key.
const maxKey = 317 + 1 + 512

// treeEntry is one record of a node, with the subtree after it.
type treeEntry struct {
	key   []byte
	value CID
	right CID
}

// treeNode is one block of the search tree.
type treeNode struct {
	left    CID
	entries []treeEntry
}

// layerOf is the layer on which a key stands: its leading pairs of zero bits.
func layerOf(key []byte) int {
	h := sha256.Sum256(key)
	n := 0
	for _, b := range h {
		if b != 0 {
			return n + bits.LeadingZeros8(b)/2
		}
		n += 4
	}
	return n
}

func badTree(msg string) error { return event.Dropf(event.ReasonBadTree, "tree node: %s", msg) }

// parseNode reads a node. The keys are whole and in ascending order; that they
// are on the layer of the node is for layered to check.
func parseNode(raw []byte) (*treeNode, error) {
	n := new(treeNode)
	r := dagcbor.NewReader(raw)
	err := n.parse(r)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return nil, asDrop(event.ReasonBadTree, "tree node", err)
	}
	return n, nil
}

func (n *treeNode) parse(r *dagcbor.Reader) error {
	if fields, err := r.Map(); err != nil || fields != 2 {
		return orBadTree(err, "not a map of e and l")
	}
	if err := wantKey(r, "e"); err != nil {
		return err
	}
	size, err := r.Array()
	if err != nil {
		return err
	}
	n.entries = make([]treeEntry, 0, min(size, 1024))
	keys := make([]byte, 0, min(len(r.Rest()), 4096))
	var prev []byte
	for range size {
		var e treeEntry
		if keys, err = e.parse(r, keys, prev); err != nil {
			return err
		}
		prev = e.key
		n.entries = append(n.entries, e)
	}
	if err := wantKey(r, "l"); err != nil {
		return err
	}
	n.left, err = optionalCID(r)
	return err
}

// parse takes one entry and builds its key in the memory of keys.
func (e *treeEntry) parse(r *dagcbor.Reader, keys, prev []byte) ([]byte, error) {
	if fields, err := r.Map(); err != nil || fields != 4 {
		return keys, orBadTree(err, "entry is not a map of k, p, t and v")
	}
	if err := wantKey(r, "k"); err != nil {
		return keys, err
	}
	suffix, err := r.Bytes()
	if err != nil {
		return keys, err
	}
	if err := wantKey(r, "p"); err != nil {
		return keys, err
	}
	shared, err := r.Int()
	if err != nil {
		return keys, err
	}
	if shared < 0 || shared > int64(len(prev)) {
		return keys, badTree("prefix longer than the key before")
	}
	from := len(keys)
	keys = append(append(keys, prev[:shared]...), suffix...)
	e.key = keys[from:len(keys):len(keys)]
	if len(e.key) == 0 || len(e.key) > maxKey {
		return keys, badTree("key empty or too long")
	}
	if prev != nil && bytes.Compare(prev, e.key) >= 0 {
		return keys, badTree("keys not in ascending order")
	}
	if err := wantKey(r, "t"); err != nil {
		return keys, err
	}
	if e.right, err = optionalCID(r); err != nil {
		return keys, err
	}
	if err := wantKey(r, "v"); err != nil {
		return keys, err
	}
	e.value, err = linkCID(r)
	return keys, err
}

func orBadTree(err error, msg string) error {
	if err != nil {
		return err
	}
	return badTree(msg)
}

func wantKey(r *dagcbor.Reader, want string) error {
	key, err := r.Text()
	if err != nil {
		return err
	}
	if string(key) != want {
		return badTree("unexpected field")
	}
	return nil
}

// layered checks that every key belongs on the layer.
func (n *treeNode) layered(layer int) error {
	for i := range n.entries {
		if layerOf(n.entries[i].key) != layer {
			return badTree("key on a wrong layer")
		}
	}
	return nil
}

// rootLayer is the layer of a root. A root without keys is only right for an
// empty tree.
func (n *treeNode) rootLayer() (int, error) {
	if len(n.entries) > 0 {
		return layerOf(n.entries[0].key), nil
	}
	if !n.left.IsZero() {
		return 0, badTree("root without keys above a subtree")
	}
	return 0, nil
}

// appendNode encodes a node.
func appendNode(dst []byte, n *treeNode) []byte {
	dst = dagcbor.AppendMap(dst, 2)
	dst = dagcbor.AppendText(dst, "e")
	dst = dagcbor.AppendArray(dst, len(n.entries))
	var prev []byte
	for i := range n.entries {
		e := &n.entries[i]
		shared := sharedPrefix(prev, e.key)
		dst = dagcbor.AppendMap(dst, 4)
		dst = dagcbor.AppendBytes(dagcbor.AppendText(dst, "k"), e.key[shared:])
		dst = dagcbor.AppendInt(dagcbor.AppendText(dst, "p"), int64(shared))
		dst = appendOptional(dagcbor.AppendText(dst, "t"), e.right)
		dst = dagcbor.AppendLink(dagcbor.AppendText(dst, "v"), e.value[:])
		prev = e.key
	}
	return appendOptional(dagcbor.AppendText(dst, "l"), n.left)
}

func appendOptional(dst []byte, c CID) []byte {
	if c.IsZero() {
		return dagcbor.AppendNull(dst)
	}
	return dagcbor.AppendLink(dst, c[:])
}

func sharedPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
