package atproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"

	"sluice/pkg/dagcbor"
)

// What tests of other packages' form need to see, and a maker of repositories
// that shares no code with the reader of trees but the encoding of a node.

var (
	LayerOf      = layerOf
	ValidRKey    = validRKey
	CheckDID     = checkDID
	ParseKey     = parseKey
	ParseNode    = func(b []byte) error { _, err := parseNode(b); return err }
	ReadCAR      = func(b []byte) error { _, _, err := readCAR(b); return err }
	RetryAfter   = retryAfter
	DocHandle    = documentHandle
	RefreshEvery = refreshEvery
)

// TreeEntry is an entry of a node that a test makes.
type TreeEntry struct {
	Key          string
	Value, Right CID
}

// NodeBytes encodes a node, whatever is wrong with it.
func NodeBytes(left CID, entries ...TreeEntry) []byte {
	n := treeNode{left: left}
	for _, e := range entries {
		n.entries = append(n.entries, treeEntry{key: []byte(e.Key), value: e.Value, right: e.Right})
	}
	return appendNode(nil, &n)
}

// Store is a set of blocks.
type Store map[CID][]byte

// Put adds a block.
func (s Store) Put(b []byte) CID {
	c := SumCID(b)
	s[c] = b
	return c
}

// Tree adds the nodes of the tree of leaves, made from the definition: keys by
// layer, from the top.
func (s Store) Tree(leaves map[string]CID) CID {
	keys := slices.Sorted(maps.Keys(leaves))
	top := 0
	for _, k := range keys {
		top = max(top, layerOf([]byte(k)))
	}
	if len(keys) == 0 {
		return s.Put(NodeBytes(CID{}))
	}
	return s.subtree(keys, leaves, top)
}

func (s Store) subtree(keys []string, leaves map[string]CID, layer int) CID {
	if len(keys) == 0 {
		return CID{}
	}
	var n treeNode
	gap := 0
	flush := func(end int) {
		c := s.subtree(keys[gap:end], leaves, layer-1)
		if len(n.entries) == 0 {
			n.left = c
		} else {
			n.entries[len(n.entries)-1].right = c
		}
	}
	for i, k := range keys {
		if layerOf([]byte(k)) == layer {
			flush(i)
			n.entries = append(n.entries, treeEntry{key: []byte(k), value: leaves[k]})
			gap = i + 1
		}
	}
	flush(len(keys))
	return s.Put(appendNode(nil, &n))
}

// Commit adds a signed commit.
func (s Store) Commit(did, rev string, data CID, key atcrypto.PrivateKey) CID {
	return s.Put(SignedBytes(did, rev, 3, data, key))
}

// SignedBytes makes a signed commit of any version.
func SignedBytes(did, rev string, version int64, data CID, key atcrypto.PrivateKey) []byte {
	encode := func(sig []byte) []byte {
		n := 5
		if sig != nil {
			n++
		}
		b := dagcbor.AppendMap(nil, n)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "did"), did)
		b = dagcbor.AppendText(dagcbor.AppendText(b, "rev"), rev)
		if sig != nil {
			b = dagcbor.AppendBytes(dagcbor.AppendText(b, "sig"), sig)
		}
		b = dagcbor.AppendLink(dagcbor.AppendText(b, "data"), data[:])
		b = dagcbor.AppendNull(dagcbor.AppendText(b, "prev"))
		return dagcbor.AppendInt(dagcbor.AppendText(b, "version"), version)
	}
	sig, err := key.HashAndSign(encode(nil))
	if err != nil {
		panic(err)
	}
	return encode(sig)
}

// CAR makes an archive: the root's block first, then the others.
func (s Store) CAR(root CID) []byte {
	b := CARHeader(root)
	if raw, ok := s[root]; ok {
		b = AppendBlock(b, root, raw)
	}
	keys := slices.SortedFunc(maps.Keys(s), func(a, b CID) int { return bytes.Compare(a[:], b[:]) })
	for _, c := range keys {
		if c != root {
			b = AppendBlock(b, c, s[c])
		}
	}
	return b
}

// CARHeader is the header of an archive with its length.
func CARHeader(root CID) []byte {
	h := dagcbor.AppendMap(nil, 2)
	h = dagcbor.AppendArray(dagcbor.AppendText(h, "roots"), 1)
	h = dagcbor.AppendLink(h, root[:])
	h = dagcbor.AppendInt(dagcbor.AppendText(h, "version"), 1)
	return append(binary.AppendUvarint(nil, uint64(len(h))), h...)
}

// AppendBlock adds a block to an archive.
func AppendBlock(b []byte, c CID, raw []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c)+len(raw)))
	return append(append(b, c[:]...), raw...)
}

// Frame encodes a commit as the message that has it.
func (c *Commit) Frame() []byte {
	b := FrameHeader(1, "#commit")
	b = dagcbor.AppendMap(b, 13)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "ops"), len(c.Ops))
	for _, op := range c.Ops {
		b = appendOp(b, &op)
	}
	b = dagcbor.AppendInt(dagcbor.AppendText(b, "seq"), c.Seq)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "rev"), c.Rev)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "repo"), c.DID)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "time"), c.Time)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "blobs"), 0)
	b = dagcbor.AppendNull(dagcbor.AppendText(b, "since"))
	b = dagcbor.AppendBytes(dagcbor.AppendText(b, "blocks"), c.Blocks)
	b = appendOptional(dagcbor.AppendText(b, "commit"), c.Commit)
	b = dagcbor.AppendBool(dagcbor.AppendText(b, "rebase"), false)
	b = dagcbor.AppendBool(dagcbor.AppendText(b, "tooBig"), c.TooBig)
	b = appendOptional(dagcbor.AppendText(b, "prevData"), c.PrevData)
	return dagcbor.AppendInt(dagcbor.AppendText(b, "extension"), 1)
}

func appendOp(b []byte, op *Op) []byte {
	n := 3
	if !op.Prev.IsZero() {
		n++
	}
	b = dagcbor.AppendMap(b, n)
	b = appendOptional(dagcbor.AppendText(b, "cid"), op.CID)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "path"), op.Path)
	if n == 4 {
		b = dagcbor.AppendLink(dagcbor.AppendText(b, "prev"), op.Prev[:])
	}
	return dagcbor.AppendText(dagcbor.AppendText(b, "action"), string(op.Action))
}

// FrameHeader makes the header of a message.
func FrameHeader(op int64, kind string) []byte {
	if kind == "" {
		return dagcbor.AppendInt(dagcbor.AppendText(dagcbor.AppendMap(nil, 1), "op"), op)
	}
	b := dagcbor.AppendText(dagcbor.AppendText(dagcbor.AppendMap(nil, 2), "t"), kind)
	return dagcbor.AppendInt(dagcbor.AppendText(b, "op"), op)
}

// WithKey gives an identity a signing key.
func WithKey(i Identity, key atcrypto.PublicKey) Identity {
	i.key, i.SigningKey = key, key.DIDKey()
	return i
}

// Edit is a tree in memory, for tests of its operations.
type Edit struct{ t tree }

// NewEdit is an empty tree, or one over a store.
func NewEdit(root CID, s Store) (*Edit, error) {
	if root.IsZero() {
		return &Edit{tree{root: link{node: &branch{kids: make([]link, 1)}}}}, nil
	}
	t, err := openTree(root, blocks(s))
	if err != nil {
		return nil, err
	}
	return &Edit{*t}, nil
}

func (e *Edit) Insert(key string, c CID) error { return e.t.insert([]byte(key), c) }
func (e *Edit) Remove(key string) error        { return e.t.remove([]byte(key)) }
func (e *Edit) Set(key string, c CID) error    { return e.t.set([]byte(key), c) }
func (e *Edit) Get(key string) (CID, error)    { return e.t.get([]byte(key)) }
func (e *Edit) Hash() CID                      { return e.t.hash() }
func (e *Edit) Invert(ops []Op) error          { return e.t.invert(ops) }
func (e *Edit) Check(ops []Op) error           { return e.t.check(ops, false) }

// Keys is a KeySource of known identities.
type Keys map[string]Identity

// Identity implements KeySource.
func (k Keys) Identity(_ context.Context, did string) (Identity, error) {
	id, ok := k[did]
	if !ok {
		return id, &goneError{"not here"}
	}
	return id, nil
}

// Refresh implements KeySource.
func (k Keys) Refresh(ctx context.Context, did string) (Identity, error) { return k.Identity(ctx, did) }

// Age makes what a directory remembers of a DID older.
func (d *Directory) Age(did string, by time.Duration) {
	if k, ok := d.memory.GetIfPresent(did); ok {
		k.at = k.at.Add(-by)
		d.memory.Set(did, k)
	}
}
