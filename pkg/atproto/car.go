package atproto

import (
	"encoding/binary"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// maxCARHeader bounds the header of an archive.
const maxCARHeader = 4096

// blocks are those of an archive in memory; the values point into it.
type blocks map[CID][]byte

// readCAR takes an archive apart without copying, hashes each block, and
// returns its first root.
func readCAR(b []byte) (CID, blocks, error) {
	head, rest, ok := section(b)
	if !ok || len(head) > maxCARHeader {
		return CID{}, nil, event.Dropf(event.ReasonBadCAR, "archive has no header")
	}
	root, err := carRoot(head)
	if err != nil {
		return CID{}, nil, err
	}
	bs := make(blocks, 16)
	for len(rest) > 0 {
		var item []byte
		if item, rest, ok = section(rest); !ok {
			return CID{}, nil, event.Dropf(event.ReasonTruncated, "archive ends inside of a block")
		}
		c, data, err := carBlock(item)
		if err != nil {
			return CID{}, nil, err
		}
		bs[c] = data
	}
	return root, bs, nil
}

// section cuts off one length-prefixed part.
func section(b []byte) (part, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	return b[n : n+int(size)], b[n+int(size):], true
}

// carRoot reads the header of an archive: version 1, and a root that can be a
// commit.
func carRoot(head []byte) (CID, error) {
	var (
		version int64
		root    CID
		roots   int
	)
	r := dagcbor.NewReader(head)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "version":
			version, err = r.Int()
		case "roots":
			if roots, err = r.Array(); err != nil || roots == 0 {
				return err
			}
			if root, err = linkCID(r); err != nil {
				return err
			}
			for range roots - 1 {
				if _, err = r.Link(); err != nil {
					return err
				}
			}
		default:
			_, err = r.Item()
		}
		return err
	})
	switch {
	case err != nil:
		return CID{}, event.Dropf(event.ReasonBadCAR, "archive header: %w", err)
	case version != 1:
		return CID{}, event.Dropf(event.ReasonBadCAR, "archive version %d", version)
	case roots == 0:
		return CID{}, event.Dropf(event.ReasonBadCAR, "archive without root")
	}
	return root, nil
}

// carBlock splits a block from its CID and checks that they belong together.
func carBlock(item []byte) (CID, []byte, error) {
	if len(item) < len(CID{}) {
		return CID{}, nil, event.Dropf(event.ReasonBadCAR, "block of %d bytes has no cid", len(item))
	}
	c, err := cidOf(item[:len(CID{})])
	if err != nil {
		return CID{}, nil, err
	}
	data := item[len(CID{}):len(item):len(item)]
	if SumCID(data) != c {
		return CID{}, nil, event.Dropf(event.ReasonBadBlock, "block does not hash to %s", c)
	}
	return c, data, nil
}

// eachField takes a map whose values field takes; an order of the keys is not
// asked for.
func eachField(r *dagcbor.Reader, field func(key []byte) error) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	for range n {
		key, err := r.Text()
		if err != nil {
			return err
		}
		if err := field(key); err != nil {
			return err
		}
	}
	return nil
}

// linkCID takes a link that can name a block of a repository.
func linkCID(r *dagcbor.Reader) (CID, error) {
	b, err := r.Link()
	if err != nil {
		return CID{}, err
	}
	return cidOf(b)
}

// optionalCID is linkCID, with null as the zero CID.
func optionalCID(r *dagcbor.Reader) (CID, error) {
	if r.TakeNull() {
		return CID{}, nil
	}
	return linkCID(r)
}

// optionalText takes a text, or null as "".
func optionalText(r *dagcbor.Reader) (string, error) {
	if r.TakeNull() {
		return "", nil
	}
	return r.Str()
}
