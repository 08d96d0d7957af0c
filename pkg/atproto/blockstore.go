package atproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"

	"sluice/pkg/event"
)

// maxBlock bounds one block of an archive, in bytes.
const maxBlock = 2 << 20

const (
	chunkSize  = 4 << 20
	firstChunk = 64 << 10
	digestSize = 32
	// lenBits of a place hold the length of an item, the rest its offset.
	lenBits = 24
)

// blockStore keeps the blocks of one archive: in memory up to a limit, after
// that in a temporary file without a name. The index takes 16 bytes a slot,
// whatever the size of the blocks. One goroutine uses it.
type blockStore struct {
	limit     int64
	maxBlocks int
	dir       string

	// seed keeps an archive from being made so that its blocks share slots.
	seed  uint64
	slots []slot
	count int

	// chunks hold the items, digest and block, of offsets below inMemory; the
	// file has the rest.
	chunks   [][]byte
	inMemory int64
	held     int64
	file     *os.File
	out      *bufio.Writer
	written  int64
	buf      []byte
}

// slot says where the item with this hash is; place 0 is a free slot.
type slot struct{ hash, place uint64 }

func newBlockStore(limit int64, maxBlocks int, dir string) *blockStore {
	return &blockStore{limit: limit, maxBlocks: maxBlocks, dir: dir, seed: rand.Uint64(), slots: make([]slot, 256)}
}

// close gives back the file. Blocks that were returned from memory stay valid.
func (s *blockStore) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *blockStore) hash(c *CID) uint64 { return binary.BigEndian.Uint64(c[len(cidPrefix):]) }

// first is the slot at which the search for a hash begins.
func (s *blockStore) first(hash uint64) int {
	return int(((hash ^ s.seed) * 0x9e3779b97f4a7c15) >> 32 & uint64(len(s.slots)-1))
}

// put stores a block; one that is there already is not stored again.
func (s *blockStore) put(c CID, data []byte) error {
	if s.count >= s.maxBlocks {
		return event.Dropf(event.ReasonTooBig, "archive with more than %d blocks", s.maxBlocks)
	}
	if 4*(s.count+1) > 3*len(s.slots) {
		s.grow()
	}
	hash := s.hash(&c)
	i := s.first(hash)
	for ; s.slots[i].place != 0; i = (i + 1) & (len(s.slots) - 1) {
		if s.slots[i].hash != hash {
			continue
		}
		item, err := s.item(s.slots[i].place)
		if err != nil {
			return err
		}
		if bytes.Equal(item[:digestSize], c[len(cidPrefix):]) {
			return nil
		}
	}
	offset, err := s.append(c[len(cidPrefix):], data)
	if err != nil {
		return err
	}
	s.slots[i] = slot{hash: hash, place: uint64(offset)<<lenBits | uint64(digestSize+len(data))}
	s.count++
	return nil
}

func (s *blockStore) grow() {
	old := s.slots
	s.slots = make([]slot, 2*len(old))
	for _, x := range old {
		if x.place == 0 {
			continue
		}
		i := s.first(x.hash)
		for s.slots[i].place != 0 {
			i = (i + 1) & (len(s.slots) - 1)
		}
		s.slots[i] = x
	}
}

// append stores an item and returns its offset.
func (s *blockStore) append(digest, data []byte) (int64, error) {
	size := len(digest) + len(data)
	if s.file == nil && s.held+int64(size) > s.limit {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	if s.file != nil {
		offset := s.inMemory + s.written
		for _, part := range [][]byte{digest, data} {
			if _, err := s.out.Write(part); err != nil {
				return 0, fmt.Errorf("write temporary file: %w", err)
			}
		}
		s.written += int64(size)
		return offset, nil
	}
	last := len(s.chunks) - 1
	if last < 0 || len(s.chunks[last])+size > chunkSize {
		s.chunks = append(s.chunks, make([]byte, 0, max(size, firstChunk)))
		last++
	}
	offset := int64(last)*chunkSize + int64(len(s.chunks[last]))
	s.chunks[last] = append(append(s.chunks[last], digest...), data...)
	s.held += int64(size)
	return offset, nil
}

// spill begins the file. It has no name from then on, so nothing is left of it
// however the process ends.
func (s *blockStore) spill() error {
	f, err := os.CreateTemp(s.dir, "sluice-repo-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return fmt.Errorf("unlink temporary file: %w", err)
	}
	s.file, s.out = f, bufio.NewWriterSize(f, 256<<10)
	s.inMemory = int64(len(s.chunks)) * chunkSize
	return nil
}

// find returns the place of a block. Of blocks in the file it looks at the
// first eight bytes of the digest only.
func (s *blockStore) find(c *CID) (uint64, bool) {
	hash := s.hash(c)
	for i := s.first(hash); s.slots[i].place != 0; i = (i + 1) & (len(s.slots) - 1) {
		if s.slots[i].hash == hash {
			return s.slots[i].place, true
		}
	}
	return 0, false
}

// get returns a block. What comes from the file is valid until the next get.
func (s *blockStore) get(c CID) ([]byte, error) {
	hash := s.hash(&c)
	for i := s.first(hash); s.slots[i].place != 0; i = (i + 1) & (len(s.slots) - 1) {
		if s.slots[i].hash != hash {
			continue
		}
		item, err := s.item(s.slots[i].place)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(item[:digestSize], c[len(cidPrefix):]) {
			return item[digestSize:], nil
		}
	}
	return nil, event.Dropf(event.ReasonMissingBlock, "block %s", c)
}

// item reads digest and block at a place.
func (s *blockStore) item(place uint64) ([]byte, error) {
	offset, size := int64(place>>lenBits), int(place&(1<<lenBits-1))
	if s.file == nil || offset < s.inMemory {
		at := offset % chunkSize
		return s.chunks[offset/chunkSize][at : at+int64(size) : at+int64(size)], nil
	}
	if s.out.Buffered() > 0 {
		if err := s.out.Flush(); err != nil {
			return nil, fmt.Errorf("write temporary file: %w", err)
		}
	}
	if cap(s.buf) < size {
		s.buf = make([]byte, size, 2*size)
	}
	s.buf = s.buf[:size]
	if _, err := s.file.ReadAt(s.buf, offset-s.inMemory); err != nil {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	return s.buf, nil
}
