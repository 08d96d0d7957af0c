// Package plc fills the cache of identities with an export of the PLC
// directory: a file, a stream, or the export endpoint of a directory.
package plc

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

const (
	// maxLine bounds one operation, in bytes; the directory takes none above
	// 7,500.
	maxLine = 64 << 10
	// batch is how many operations are stored at once.
	batch = 2000
	// Life is how long an imported identity may stay in the cache. How long it
	// is taken for fresh is a setting of the services, and shorter.
	Life = 30 * 24 * time.Hour
)

// Counts tell how far an import is. They may be read while it goes on.
type Counts struct {
	// Lines were read. Stored identities were written, one for each DID of a
	// batch; the rest was older than what was there.
	Lines, Stored atomic.Int64
	// Nullified operations were undone later, Bad lines could not be read.
	Nullified, Bad atomic.Int64
	// Last is the time of the latest operation, in Unix milliseconds.
	Last atomic.Int64
}

// LastTime is the time of the latest operation; zero before the first.
func (c *Counts) LastTime() time.Time {
	if ms := c.Last.Load(); ms > 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

// Importer stores what operations say. It is for one run.
type Importer struct {
	Cache atproto.BulkCache
	// Bad is told of each line that cannot be read, by its number.
	Bad    func(line int64, err error)
	Counts *Counts
}

// Read imports operations, one JSON object a line, plain or gzipped. It holds
// a few batches at a time.
func (im *Importer) Read(ctx context.Context, r io.Reader) error {
	in, err := unpacked(r)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	full := make(chan []atproto.PLCOperation, 1)
	g.Go(func() error {
		defer close(full)
		return im.parse(ctx, in, full)
	})
	g.Go(func() error {
		for ops := range full {
			if err := im.store(ctx, ops); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// unpacked reads gzip as what is in it.
func unpacked(r io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(r, maxLine)
	if magic, _ := in.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return in, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("read gzip: %w", err)
	}
	return bufio.NewReaderSize(z, maxLine), nil
}

func (im *Importer) parse(ctx context.Context, in *bufio.Reader, full chan<- []atproto.PLCOperation) error {
	ops := make([]atproto.PLCOperation, 0, batch)
	for n := int64(1); ; n++ {
		text, err := readLine(in)
		ended := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			im.bad(n, fmt.Errorf("longer than %d bytes", maxLine))
		case err != nil && !ended:
			return fmt.Errorf("read line %d: %w", n, err)
		case len(bytes.TrimSpace(text)) > 0:
			if op, ok := im.operation(n, text); ok {
				ops = append(ops, op)
			}
		}
		if len(ops) < batch && !ended {
			continue
		}
		select {
		case full <- ops:
		case <-ctx.Done():
			return ctx.Err()
		}
		if ended {
			return nil
		}
		ops = make([]atproto.PLCOperation, 0, batch)
	}
}

// readLine returns the next line, valid until the next call, or ErrBufferFull
// after one that is too long.
func readLine(r *bufio.Reader) ([]byte, error) {
	b, err := r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return b, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return nil, bufio.ErrBufferFull
}

func (im *Importer) operation(n int64, text []byte) (atproto.PLCOperation, bool) {
	im.Counts.Lines.Add(1)
	op, err := atproto.ParsePLCOperation(text)
	if ms := op.At.UnixMilli(); !op.At.IsZero() && ms > im.Counts.Last.Load() {
		im.Counts.Last.Store(ms)
	}
	switch {
	case errors.Is(err, atproto.ErrNullified):
		im.Counts.Nullified.Add(1)
		return op, false
	case err != nil:
		im.bad(n, err)
		return op, false
	}
	return op, true
}

func (im *Importer) bad(n int64, err error) {
	im.Counts.Bad.Add(1)
	im.Bad(n, err)
}

// store writes a batch; Redis being away is waited for.
func (im *Importer) store(ctx context.Context, ops []atproto.PLCOperation) error {
	return fault.Retry(ctx, fault.Backoff{Initial: 250 * time.Millisecond, Max: 5 * time.Second}, func(ctx context.Context) error {
		n, err := atproto.ImportIdentities(ctx, im.Cache, ops, Life)
		if err == nil {
			im.Counts.Stored.Add(int64(n))
		}
		return err
	})
}
