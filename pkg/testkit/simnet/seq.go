package simnet

import (
	"bytes"
	"encoding/binary"
)

// seqStep is how far the sequence numbers of relays lie apart: each relay
// counts for itself.
const seqStep = 1_000_000

// reseq returns a frame with another sequence number. It finds the number by
// its key, its value and the key after it.
func reseq(frame []byte, seq, offset int64) []byte {
	if offset == 0 {
		return frame
	}
	old := append([]byte("\x63seq"), uintHead(uint64(seq))...)
	from := 0
	for {
		at := bytes.Index(frame[from:], old)
		if at < 0 {
			return frame
		}
		at += from
		end := at + len(old)
		if next := frame[end:]; bytes.HasPrefix(next, []byte("\x64time")) || bytes.HasPrefix(next, []byte("\x64repo")) {
			out := make([]byte, 0, len(frame)+8)
			out = append(out, frame[:at+4]...)
			out = append(out, uintHead(uint64(seq+offset))...)
			return append(out, frame[end:]...)
		}
		from = end
	}
}

// uintHead is an unsigned integer of DAG-CBOR.
func uintHead(n uint64) []byte {
	switch {
	case n < 24:
		return []byte{byte(n)}
	case n < 1<<8:
		return []byte{24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{27}, n)
}
