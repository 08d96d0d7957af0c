package atproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// RepoOptions say how ReadRepo reads.
type RepoOptions struct {
	// DID is whose repository it must be; empty: anyone's.
	DID string
	// Verify checks the signature of the commit, as Verifier.Signature does, as
	// soon as it has come; nil: it is not checked.
	Verify func(ctx context.Context, head *SignedCommit) error
	// Keep says which collections are emitted; nil: all. The records of the
	// others are counted and must be there, and are not looked into.
	Keep func(collection string) bool
	// MemoryLimit is how many bytes of blocks stay in memory; what is beyond
	// goes to a temporary file. Default 32 MiB.
	MemoryLimit int64
	// MaxBytes bounds the archive. Default 16 GiB.
	MaxBytes int64
	// MaxBlocks bounds the blocks of the archive, and with them the index, which
	// takes 21 to 43 bytes a block. Default 5,000,000.
	MaxBlocks int
	// TempDir is where the temporary file is; empty: that of the system.
	TempDir string
}

// Record is one record of a repository.
type Record struct {
	Collection string
	RKey       string
	CID        CID
	// Value is the record as DAG-CBOR, valid during the call only.
	Value []byte
}

// RepoInfo is what ReadRepo has read. Emitted, Filtered and all Rejected
// together are the leaves of the tree.
type RepoInfo struct {
	DID    string
	Rev    string
	Commit CID
	// Data is the root of the tree.
	Data     CID
	Emitted  int64
	Filtered int64
	// Rejected are records that cannot be used: a malformed path, a value that
	// is not canonical.
	Rejected map[event.Reason]int64
	Blocks   int64
	Bytes    int64
	// Spilled: a temporary file was needed.
	Spilled bool
}

// Leaves is the number of records in the tree.
func (i *RepoInfo) Leaves() int64 {
	n := i.Emitted + i.Filtered
	for _, r := range i.Rejected {
		n += r
	}
	return n
}

// ReadRepo reads a whole archive, hashes every block, and then walks the tree
// in order, emitting each kept record. It returns without error only when the
// tree was complete and sound to its last record.
//
// An archive that ends early, or that lacks a block, is Transient: another try
// may bring it whole. Anything else that is wrong with it is Permanent. Both
// have a reason. Errors of r, of emit, and of the temporary file come back
// wrapped. On an error RepoInfo has what was read so far.
func ReadRepo(ctx context.Context, r io.Reader, o RepoOptions, emit func(Record) error) (info RepoInfo, err error) {
	o.defaults()
	w := &repoReader{
		o: o, emit: emit, info: &info,
		in:    bufio.NewReaderSize(r, 64<<10),
		store: newBlockStore(o.MemoryLimit, o.MaxBlocks, o.TempDir),
	}
	info.Rejected = map[event.Reason]int64{}
	defer func() {
		info.Spilled = w.store.file != nil
		err = retryable(errors.Join(err, w.store.close()))
	}()
	if err := w.load(ctx); err != nil {
		return info, err
	}
	return info, w.walkTree(ctx)
}

func (o *RepoOptions) defaults() {
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = 32 << 20
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 30
	}
	if o.MaxBlocks <= 0 {
		o.MaxBlocks = 5_000_000
	}
	if o.Keep == nil {
		o.Keep = func(string) bool { return true }
	}
}

// retryable makes those reasons Transient that a broken transfer gives.
func retryable(err error) error {
	if r := ReasonOf(err); r == event.ReasonTruncated || r == event.ReasonMissingBlock {
		return fault.As(fault.Transient, err)
	}
	return err
}

type repoReader struct {
	o     RepoOptions
	emit  func(Record) error
	info  *RepoInfo
	in    *bufio.Reader
	store *blockStore
	head  *SignedCommit
	buf   []byte

	// The collection of the record before: in a walk in order, mostly that of
	// the next one too.
	collection string
	known      bool
	keep       bool
	last       []byte
}

// load reads the archive to its end.
func (w *repoReader) load(ctx context.Context) error {
	head, err := w.section(maxCARHeader)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = event.Dropf(event.ReasonTruncated, "archive is empty")
		}
		return err
	}
	root, err := carRoot(head)
	if err != nil {
		return err
	}
	for {
		item, err := w.section(maxBlock)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := w.block(ctx, root, item); err != nil {
			return err
		}
		if w.info.Blocks%256 == 0 && ctx.Err() != nil {
			return fmt.Errorf("read archive: %w", ctx.Err())
		}
	}
	if w.head == nil {
		return event.Dropf(event.ReasonMissingBlock, "commit %s is not in the archive", root)
	}
	return nil
}

// section reads one length-prefixed part; io.EOF is the end between two.
func (w *repoReader) section(limit int) ([]byte, error) {
	size, err := binary.ReadUvarint(w.in)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, event.Dropf(event.ReasonTruncated, "archive ends inside of a length")
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("read archive: %w", err)
	case err != nil:
		return nil, io.EOF
	case size > uint64(limit):
		return nil, event.Dropf(event.ReasonBadCAR, "part of %d bytes in an archive", size)
	}
	if w.info.Bytes += int64(size); w.info.Bytes > w.o.MaxBytes {
		return nil, event.Dropf(event.ReasonTooBig, "archive of more than %d bytes", w.o.MaxBytes)
	}
	if cap(w.buf) < int(size) {
		w.buf = make([]byte, size, 2*size)
	}
	w.buf = w.buf[:size]
	switch _, err := io.ReadFull(w.in, w.buf); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, event.Dropf(event.ReasonTruncated, "archive ends inside of a block")
	case err != nil:
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return w.buf, nil
}

func (w *repoReader) block(ctx context.Context, root CID, item []byte) error {
	if !bytes.HasPrefix(item, cidPrefix) {
		return otherBlock(item)
	}
	c, data, err := carBlock(item)
	if err != nil {
		return err
	}
	w.info.Blocks++
	if err := w.store.put(c, data); err != nil {
		return err
	}
	if c == root && w.head == nil {
		return w.commit(ctx, c, bytes.Clone(data))
	}
	return nil
}

// otherBlock passes over a block that no tree can refer to, if it is one.
func otherBlock(item []byte) error {
	n, _, err := cid.CidFromBytes(item)
	if err != nil {
		return event.Dropf(event.ReasonBadCAR, "block without cid: %w", err)
	}
	if c := item[:n]; len(c) == dagcbor.SumSize && c[2] == cidPrefix[2] && !dagcbor.Equal(c, item[n:]) {
		return event.Dropf(event.ReasonBadBlock, "block does not hash to its cid")
	}
	return nil
}

func (w *repoReader) commit(ctx context.Context, c CID, raw []byte) error {
	head, err := parseSigned(c, raw)
	if err != nil {
		return err
	}
	if w.o.DID != "" && head.DID != w.o.DID {
		return event.Dropf(event.ReasonBadCommit, "repository of %s is signed for %s", w.o.DID, head.DID)
	}
	if w.o.Verify != nil {
		if err := w.o.Verify(ctx, head); err != nil {
			return err
		}
	}
	w.head = head
	w.info.DID, w.info.Rev, w.info.Commit, w.info.Data = head.DID, head.Rev, c, head.Data
	return nil
}

// walkTree visits the records in order.
func (w *repoReader) walkTree(ctx context.Context) error {
	n, err := w.node(w.head.Data)
	if err != nil {
		return err
	}
	layer, err := n.rootLayer()
	if err != nil {
		return err
	}
	return w.walk(ctx, n, layer)
}

func (w *repoReader) node(c CID) (*treeNode, error) {
	raw, err := w.store.get(c)
	if err != nil {
		return nil, err
	}
	return parseNode(raw)
}

// walk visits the records below a node. It ends: layers go down, and the keys
// of the whole walk go up, so that no node can come twice.
func (w *repoReader) walk(ctx context.Context, n *treeNode, layer int) error {
	if err := n.layered(layer); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("walk tree: %w", err)
	}
	if err := w.descend(ctx, n.left, layer); err != nil {
		return err
	}
	for i := range n.entries {
		e := &n.entries[i]
		if bytes.Compare(w.last, e.key) >= 0 {
			return badTree("keys of subtrees not in ascending order")
		}
		w.last = e.key
		if err := w.record(e); err != nil {
			return err
		}
		if err := w.descend(ctx, e.right, layer); err != nil {
			return err
		}
	}
	return nil
}

func (w *repoReader) descend(ctx context.Context, c CID, layer int) error {
	if c.IsZero() {
		return nil
	}
	if layer == 0 {
		return badTree("subtree below the lowest layer")
	}
	n, err := w.node(c)
	if err != nil {
		return err
	}
	if len(n.entries) == 0 && n.left.IsZero() {
		return badTree("empty subtree")
	}
	return w.walk(ctx, n, layer-1)
}

// record emits, counts or rejects one record, which must be in the archive in
// any case.
func (w *repoReader) record(e *treeEntry) error {
	rkey, ok := w.path(e.key)
	if !ok || !w.keep {
		if _, there := w.store.find(&e.value); !there {
			return event.Dropf(event.ReasonMissingBlock, "record %s is not in the archive", e.value)
		}
		if !ok {
			w.info.Rejected[event.ReasonBadPath]++
		} else {
			w.info.Filtered++
		}
		return nil
	}
	value, err := w.store.get(e.value)
	if err != nil {
		return err
	}
	if err := checkRecord(value); err != nil {
		w.info.Rejected[ReasonOf(err)]++
		return nil
	}
	w.info.Emitted++
	return w.emit(Record{Collection: w.collection, RKey: string(rkey), CID: e.value, Value: value})
}

// path splits a key; w.collection and w.keep are then those of the record.
func (w *repoReader) path(key []byte) (rkey []byte, ok bool) {
	before, rkey, ok := bytes.Cut(key, []byte{'/'})
	if !ok {
		return nil, false
	}
	if w.known && string(before) == w.collection {
		return rkey, validRKey(string(rkey))
	}
	collection, _, err := SplitPath(string(key))
	if err != nil {
		return nil, false
	}
	w.collection, w.known, w.keep = collection, true, w.o.Keep(collection)
	return rkey, true
}
