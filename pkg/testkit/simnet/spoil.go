package simnet

import (
	"bytes"
	"fmt"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/bluesky-social/indigo/atproto/syntax"
	lexutil "github.com/bluesky-social/indigo/lex/util"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"
)

// spoil returns the frame of a commit with a fault in it.
func spoil(name string, f *world.Frame) ([]byte, error) {
	kind, message, err := repo.Message(f.Data)
	if err != nil || kind != "#commit" {
		return nil, fmt.Errorf("spoil %s frame: %w", kind, err)
	}
	if name == FaultDuplicateKeys {
		header := f.Data[:len(f.Data)-len(message)]
		return append(bytes.Clone(header), twiceKeyed(message)...), nil
	}
	var m comatproto.SyncSubscribeRepos_Commit
	if err := m.UnmarshalCBOR(bytes.NewReader(message)); err != nil {
		return nil, fmt.Errorf("spoil frame: %w", err)
	}
	if err := spoilCommit(name, f.Account, &m); err != nil {
		return nil, fmt.Errorf("spoil frame: %w", err)
	}
	return repo.Frame("#commit", &m)
}

func spoilCommit(name string, a *world.Account, m *comatproto.SyncSubscribeRepos_Commit) error {
	other := repo.CID([]byte(name + m.Rev))
	switch name {
	case FaultWrongCommit:
		m.Commit = lexutil.LexLink(other)
		return nil
	case FaultWrongPrev:
		link := lexutil.LexLink(other)
		m.PrevData = &link
		return nil
	case FaultTooBig:
		m.TooBig, m.Ops = true, []*comatproto.SyncSubscribeRepos_RepoOp{}
	}
	car, root, err := spoilCAR(name, a, m.Blocks)
	if err != nil {
		return err
	}
	m.Blocks, m.Commit = car, lexutil.LexLink(root)
	if name == FaultFutureRev {
		m.Rev = futureRev()
	}
	return nil
}

// futureRev is a rev of three years from now, the same for a year.
func futureRev() string {
	then := time.Date(time.Now().Year()+3, 1, 1, 0, 0, 0, 0, time.UTC)
	return syntax.NewTID(then.UnixMicro(), 7).String()
}

// spoilCAR puts a fault into a CAR file whose first block is the commit.
func spoilCAR(name string, a *world.Account, car []byte) (out []byte, root cid.Cid, err error) {
	root, blocks, err := repo.ReadCAR(car)
	if err != nil {
		return nil, root, err
	}
	last := len(blocks) - 1
	switch name {
	case FaultTruncatedCAR:
		return car[:len(car)*2/3], root, nil
	case FaultMissingBlock:
		return repo.CAR(root, blocks[:last]), root, nil
	case FaultTooBig:
		return repo.CAR(root, blocks[:1]), root, nil
	case FaultWrongCID:
		data := bytes.Clone(blocks[last].Data)
		data[len(data)-1] ^= 1
		blocks[last].Data = data
		return repo.CAR(root, blocks), root, nil
	case FaultWrongSignature, FaultFutureRev:
		if blocks[0].Data, err = spoilSigned(name, a, blocks[0].Data); err != nil {
			return nil, root, err
		}
		blocks[0].CID = repo.CID(blocks[0].Data)
		return repo.CAR(blocks[0].CID, blocks), blocks[0].CID, nil
	}
	return nil, root, fmt.Errorf("fault %q does not concern blocks", name)
}

func spoilSigned(name string, a *world.Account, block []byte) ([]byte, error) {
	var c atrepo.Commit
	if err := c.UnmarshalCBOR(bytes.NewReader(block)); err != nil {
		return nil, err
	}
	if name == FaultFutureRev {
		c.Rev, c.Sig = futureRev(), nil
		unsigned, err := c.UnsignedBytes()
		if err != nil {
			return nil, err
		}
		if c.Sig, err = a.Key.Sign(unsigned); err != nil {
			return nil, err
		}
	} else {
		c.Sig = bytes.Clone(c.Sig)
		c.Sig[5] ^= 0x40
	}
	var buf bytes.Buffer
	err := c.MarshalCBOR(&buf)
	return buf.Bytes(), err
}

// twiceKeyed returns a map of up to 22 keys with its first key once more.
func twiceKeyed(message []byte) []byte {
	out := bytes.Clone(message)
	out[0]++
	return append(append(out, repo.MustEncode("tooBig")...), repo.MustEncode(true)...)
}
