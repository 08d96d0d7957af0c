package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
)

// Block is a block of a CAR file.
type Block struct {
	CID  cid.Cid
	Data []byte
}

// AppendCARHeader appends the header of a version 1 CAR file.
func AppendCARHeader(dst []byte, root cid.Cid) []byte {
	header := MustEncode(Map{"roots": []any{root}, "version": 1})
	return append(binary.AppendUvarint(dst, uint64(len(header))), header...)
}

// AppendCARBlock appends one block.
func AppendCARBlock(dst []byte, c cid.Cid, data []byte) []byte {
	id := c.Bytes()
	dst = binary.AppendUvarint(dst, uint64(len(id)+len(data)))
	return append(append(dst, id...), data...)
}

// CAR returns a CAR file of the blocks, in their order.
func CAR(root cid.Cid, blocks []Block) []byte {
	size := 64
	for _, b := range blocks {
		size += len(b.Data) + 44
	}
	out := AppendCARHeader(make([]byte, 0, size), root)
	for _, b := range blocks {
		out = AppendCARBlock(out, b.CID, b.Data)
	}
	return out
}

// ReadCAR splits a CAR file into its blocks without checking their hashes. It
// serves the faults, which take files apart to spoil them.
func ReadCAR(car []byte) (root cid.Cid, blocks []Block, err error) {
	r := bytes.NewReader(car)
	header, err := readSection(r)
	if err != nil {
		return cid.Undef, nil, fmt.Errorf("read car header: %w", err)
	}
	// {"roots": [link], "version": 1} in canonical form: the link is the only
	// 36-byte CID in it.
	at := bytes.Index(header, []byte{1, 0x71, 0x12, 0x20})
	if at < 0 || len(header) < at+36 {
		return cid.Undef, nil, fmt.Errorf("read car header: no root")
	}
	if root, err = cid.Cast(header[at : at+36]); err != nil {
		return cid.Undef, nil, fmt.Errorf("read car header: %w", err)
	}
	for {
		section, err := readSection(r)
		if errors.Is(err, io.EOF) {
			return root, blocks, nil
		}
		if err != nil {
			return cid.Undef, nil, fmt.Errorf("read car block: %w", err)
		}
		n, c, err := cid.CidFromBytes(section)
		if err != nil {
			return cid.Undef, nil, fmt.Errorf("read car block: %w", err)
		}
		blocks = append(blocks, Block{CID: c, Data: section[n:]})
	}
}

func readSection(r *bytes.Reader) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if size > uint64(r.Len()) {
		return nil, io.ErrUnexpectedEOF
	}
	section := make([]byte, size)
	_, err = io.ReadFull(r, section)
	return section, err
}
