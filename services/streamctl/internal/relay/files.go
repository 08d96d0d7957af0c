package relay

import (
	"encoding/binary"
	"fmt"
	"io"
)

// WriteFrame writes a frame as the recordings have it: its length as four bytes,
// little endian, and the message as it was sent.
func WriteFrame(w io.Writer, raw []byte) error {
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(raw)))
	if _, err := w.Write(head[:]); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	return nil
}
