package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/atproto/repo/mst"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	blockstore "github.com/ipfs/go-ipfs-blockstore"
)

// Action of a write.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Write is one change of a repository.
type Write struct {
	Action Action
	// Path is collection/rkey.
	Path string
	// Record is the DAG-CBOR of the new value and CID its CID; empty in a
	// delete.
	Record []byte
	CID    cid.Cid
	// Blobs are the blobs that the new value refers to.
	Blobs []cid.Cid
}

// Op is a Write with the value that it replaced.
type Op struct {
	Write
	// Prev is the CID of the replaced value; undefined in a create.
	Prev cid.Cid
}

// Commit is what a repository became by some writes.
type Commit struct {
	CID cid.Cid
	Rev string
	// Since is the rev before; empty in the first commit.
	Since string
	// Data is the root of the tree; PrevData the one before, undefined in the
	// first commit.
	Data, PrevData cid.Cid
	Ops            []Op
	// CAR has the commit, the changed nodes with those that prove the change,
	// and the new records.
	CAR []byte
	// Block is the signed commit itself.
	Block []byte
}

type leaf struct {
	data []byte
	rev  string
}

// Repo is one repository in memory. Its methods may be called concurrently.
type Repo struct {
	DID string

	mu      sync.RWMutex
	key     *Key
	tree    mst.Tree
	records map[cid.Cid]leaf
	size    int
	head    Commit
}

// New returns a repository without a commit.
func New(did string, key *Key) *Repo {
	return &Repo{DID: did, key: key, tree: mst.NewEmptyTree(), records: map[cid.Cid]leaf{}}
}

// Head returns the last commit; its CID is undefined before the first. Ops and
// CAR are not kept.
func (r *Repo) Head() Commit {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head
}

// Len is the number of records.
func (r *Repo) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.size
}

// Apply makes the commit rev of the writes, which must name different paths.
func (r *Repo) Apply(rev string, writes []Write) (*Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, changed, err := r.change(rev, writes)
	if err != nil {
		return nil, err
	}
	if err := r.sign(c, r.key); err != nil {
		return nil, err
	}
	out := make([]Block, 0, len(changed)+len(writes)+1)
	out = append(out, Block{c.CID, c.Block})
	out = append(out, changed...)
	for _, w := range writes {
		if w.Action != Delete {
			out = append(out, Block{w.CID, w.Record})
		}
	}
	c.CAR = CAR(c.CID, out)
	r.keep(c)
	return c, nil
}

// Load is Apply for history that is not announced: no CAR is made.
func (r *Repo) Load(rev string, writes []Write) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, _, err := r.change(rev, writes)
	if err != nil {
		return err
	}
	if err := r.sign(c, r.key); err != nil {
		return err
	}
	r.keep(c)
	return nil
}

func (r *Repo) keep(c *Commit) {
	r.head = *c
	r.head.CAR, r.head.Ops = nil, nil
}

func (r *Repo) change(rev string, writes []Write) (*Commit, []Block, error) {
	c := &Commit{Rev: rev, Since: r.head.Rev, PrevData: r.head.Data, Ops: make([]Op, 0, len(writes))}
	for _, w := range writes {
		op, err := r.write(rev, w)
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s of %s: %w", w.Action, w.Path, r.DID, err)
		}
		c.Ops = append(c.Ops, op)
	}
	var changed collector
	root, err := r.tree.WriteDiffBlocks(context.Background(), &changed)
	if err != nil {
		return nil, nil, fmt.Errorf("write tree of %s: %w", r.DID, err)
	}
	c.Data = *root
	proof := newProof(changed.blocks)
	proof.root(r.tree.Root)
	for _, w := range writes {
		proof.cover(r.tree.Root, []byte(w.Path))
	}
	if proof.err != nil {
		return nil, nil, fmt.Errorf("prove writes of %s: %w", r.DID, proof.err)
	}
	return c, proof.blocks, nil
}

func (r *Repo) write(rev string, w Write) (Op, error) {
	op := Op{Write: w}
	var value *cid.Cid
	if w.Action != Delete {
		value = &w.CID
	}
	done, err := atrepo.ApplyOp(&r.tree, w.Path, value)
	if err != nil {
		return op, err
	}
	if exists := done.Prev != nil; exists == (w.Action == Create) {
		return op, errors.New("the record's presence contradicts the action")
	}
	if done.Prev != nil {
		op.Prev = *done.Prev
	}
	switch w.Action {
	case Create:
		r.size++
	case Delete:
		r.size--
	case Update:
	}
	if w.Action != Delete {
		r.records[w.CID] = leaf{w.Record, rev}
	}
	return op, nil
}

func (r *Repo) sign(c *Commit, key *Key) error {
	block, err := SignCommit(r.DID, c.Rev, c.Data, key)
	if err != nil {
		return err
	}
	c.Block, c.CID = block, CID(block)
	return nil
}

// SignCommit returns the commit of a tree.
func SignCommit(did, rev string, data cid.Cid, key *Key) ([]byte, error) {
	block := atrepo.Commit{DID: did, Version: atrepo.ATPROTO_REPO_VERSION, Data: data, Rev: rev}
	unsigned, err := block.UnsignedBytes()
	if err != nil {
		return nil, fmt.Errorf("encode commit of %s: %w", did, err)
	}
	if block.Sig, err = key.Sign(unsigned); err != nil {
		return nil, fmt.Errorf("sign commit of %s: %w", did, err)
	}
	var buf bytes.Buffer
	if err := block.MarshalCBOR(&buf); err != nil {
		return nil, fmt.Errorf("encode commit of %s: %w", did, err)
	}
	return buf.Bytes(), nil
}

// Record returns the DAG-CBOR of the record at a path.
func (r *Repo) Record(path string) (c cid.Cid, record []byte, found bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	value, err := r.tree.Get([]byte(path))
	if err != nil || value == nil {
		return cid.Undef, nil, false
	}
	return *value, r.records[*value].data, true
}

// Export writes the repository as a CAR file: the commit, then the tree in
// depth-first order with each record after its node. With since only records
// of a later rev are in it; the nodes always all are.
func (r *Repo) Export(w io.Writer, since string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.head.CID.Defined() {
		return fmt.Errorf("export %s: no commit", r.DID)
	}
	e := exporter{w: w, repo: r, since: since}
	e.buf = AppendCARHeader(e.buf, r.head.CID)
	e.block(r.head.CID, r.head.Block)
	if err := e.node(r.tree.Root); err != nil {
		return fmt.Errorf("export %s: %w", r.DID, err)
	}
	return e.flush()
}

type exporter struct {
	w     io.Writer
	repo  *Repo
	since string
	buf   []byte
	err   error
}

func (e *exporter) block(c cid.Cid, data []byte) {
	e.buf = AppendCARBlock(e.buf, c, data)
	if len(e.buf) > 64<<10 {
		_ = e.flush()
	}
}

func (e *exporter) flush() error {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
	return e.err
}

func (e *exporter) node(n *mst.Node) error {
	if e.err != nil {
		return e.err
	}
	nd := n.NodeData()
	data, c, err := nd.Bytes()
	if err != nil {
		return err
	}
	e.block(*c, data)
	for _, entry := range n.Entries {
		if entry.IsChild() {
			if err := e.node(entry.Child); err != nil {
				return err
			}
			continue
		}
		if l := e.repo.records[*entry.Value]; l.rev > e.since {
			e.block(*entry.Value, l.data)
		}
	}
	return e.err
}

// Collections returns the collections of the repository, sorted.
func (r *Repo) Collections() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []string
	_ = r.tree.Walk(func(key []byte, _ cid.Cid) error {
		name, _, _ := strings.Cut(string(key), "/")
		if len(out) == 0 || out[len(out)-1] != name {
			out = append(out, name)
		}
		return nil
	})
	return out
}

// collector is the part of a block store that writing a tree needs: it keeps
// the blocks in the order of writing.
type collector struct {
	blockstore.Blockstore
	blocks []Block
}

// Put implements blockstore.Blockstore.
func (c *collector) Put(_ context.Context, b blocks.Block) error {
	c.blocks = append(c.blocks, Block{b.Cid(), b.RawData()})
	return nil
}
