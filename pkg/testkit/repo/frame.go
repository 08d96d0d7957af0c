package repo

import (
	"bytes"
	"fmt"
	"io"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	lexutil "github.com/bluesky-social/indigo/lex/util"
	"github.com/ipfs/go-cid"
)

type marshaler interface{ MarshalCBOR(w io.Writer) error }

// Frame returns a frame of a subscription: the header of a message of type t
// ("#commit") and the message.
func Frame(t string, message marshaler) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, 1024))
	if c, ok := message.(*comatproto.SyncSubscribeRepos_Commit); ok {
		buf.Grow(len(c.Blocks) + 200*len(c.Ops))
	}
	buf.Write(MustEncode(Map{"op": 1, "t": t}))
	if err := message.MarshalCBOR(buf); err != nil {
		return nil, fmt.Errorf("encode %s: %w", t, err)
	}
	return buf.Bytes(), nil
}

// ErrorFrame returns an error frame.
func ErrorFrame(name, message string) []byte {
	return append(MustEncode(Map{"op": -1}), MustEncode(Map{"error": name, "message": message})...)
}

// Message splits a frame into the type of its header and its message.
func Message(frame []byte) (t string, message []byte, err error) {
	for _, name := range []string{"#commit", "#sync", "#identity", "#account", "#info", "#labels"} {
		if header := MustEncode(Map{"op": 1, "t": name}); bytes.HasPrefix(frame, header) {
			return name, frame[len(header):], nil
		}
	}
	return "", nil, fmt.Errorf("frame of unknown type")
}

// CommitMessage describes a commit for subscribers.
func CommitMessage(did string, c *Commit, seq int64, time string) *comatproto.SyncSubscribeRepos_Commit {
	m := &comatproto.SyncSubscribeRepos_Commit{
		Blobs: []lexutil.LexLink{}, Blocks: c.CAR, Commit: lexutil.LexLink(c.CID),
		Ops: make([]*comatproto.SyncSubscribeRepos_RepoOp, 0, len(c.Ops)), Repo: did, Rev: c.Rev, Seq: seq, Time: time,
	}
	if c.Since != "" {
		m.Since = &c.Since
	}
	m.PrevData = link(c.PrevData)
	for _, op := range c.Ops {
		m.Ops = append(m.Ops, &comatproto.SyncSubscribeRepos_RepoOp{
			Action: string(op.Action), Path: op.Path, Cid: link(op.CID), Prev: link(op.Prev),
		})
		for _, b := range op.Blobs {
			m.Blobs = append(m.Blobs, lexutil.LexLink(b))
		}
	}
	return m
}

// SyncMessage describes the state of a repository without its blocks.
func SyncMessage(did string, c *Commit, seq int64, time string) *comatproto.SyncSubscribeRepos_Sync {
	return &comatproto.SyncSubscribeRepos_Sync{
		Blocks: CAR(c.CID, []Block{{c.CID, c.Block}}), Did: did, Rev: c.Rev, Seq: seq, Time: time,
	}
}

func link(c cid.Cid) *lexutil.LexLink {
	if !c.Defined() {
		return nil
	}
	l := lexutil.LexLink(c)
	return &l
}
