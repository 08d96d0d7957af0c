// Package repo builds AT Protocol repositories for the simulated network:
// records as DAG-CBOR, a Merkle search tree, signed commits, CAR files and the
// frames that announce them. It rests on the protocol's reference SDK and
// shares no code with the readers under test.
package repo

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// Map is a map of the data model. Values are string, bool, int, int64, []byte,
// cid.Cid, Map, []any or nil.
type Map map[string]any

// Encode returns v as DAG-CBOR: shortest integers, map keys by length and then
// by bytes.
func Encode(v any) ([]byte, error) { return appendValue(nil, v) }

// MustEncode is Encode for values that the program itself has made.
func MustEncode(v any) []byte {
	b, err := Encode(v)
	if err != nil {
		panic(err)
	}
	return b
}

const (
	majorUint  = 0 << 5
	majorNeg   = 1 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5
	majorTag   = 6 << 5

	simpleFalse = 0xf4
	simpleTrue  = 0xf5
	simpleNull  = 0xf6
	tagCID      = 42
)

func appendHead(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n < 1<<8:
		return append(dst, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, major|27), n)
}

func appendInt(dst []byte, n int64) []byte {
	if n < 0 {
		return appendHead(dst, majorNeg, uint64(-(n + 1)))
	}
	return appendHead(dst, majorUint, uint64(n))
}

func appendText(dst []byte, s string) []byte {
	return append(appendHead(dst, majorText, uint64(len(s))), s...)
}

func appendLink(dst []byte, c cid.Cid) []byte {
	b := c.Bytes()
	dst = appendHead(dst, majorTag, tagCID)
	dst = appendHead(dst, majorBytes, uint64(len(b)+1))
	return append(append(dst, 0), b...)
}

func appendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, simpleNull), nil
	case bool:
		if v {
			return append(dst, simpleTrue), nil
		}
		return append(dst, simpleFalse), nil
	case int:
		return appendInt(dst, int64(v)), nil
	case int64:
		return appendInt(dst, v), nil
	case string:
		return appendText(dst, v), nil
	case []byte:
		return append(appendHead(dst, majorBytes, uint64(len(v))), v...), nil
	case cid.Cid:
		return appendLink(dst, v), nil
	case Map:
		return appendMap(dst, v)
	case []any:
		return appendList(dst, v)
	}
	return nil, fmt.Errorf("encode %T: not in the data model", v)
}

func appendList(dst []byte, list []any) ([]byte, error) {
	dst = appendHead(dst, majorArray, uint64(len(list)))
	var err error
	for _, v := range list {
		if dst, err = appendValue(dst, v); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func appendMap(dst []byte, m Map) ([]byte, error) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		if len(keys[i]) != len(keys[j]) {
			return len(keys[i]) < len(keys[j])
		}
		return keys[i] < keys[j]
	})
	dst = appendHead(dst, majorMap, uint64(len(m)))
	var err error
	for _, k := range keys {
		if dst, err = appendValue(appendText(dst, k), m[k]); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// CID returns the CID of a DAG-CBOR block.
func CID(block []byte) cid.Cid { return sum(cid.DagCBOR, block) }

// RawCID returns the CID of a raw block: a blob.
func RawCID(block []byte) cid.Cid { return sum(cid.Raw, block) }

func sum(codec uint64, block []byte) cid.Cid {
	h, err := multihash.Sum(block, multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // sha-256 is built in
	}
	return cid.NewCidV1(codec, h)
}
