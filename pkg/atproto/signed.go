package atproto

import (
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// repoVersion is the only version of the repository format that is read.
const repoVersion = 3

// maxSignedCommit bounds the block of a signed commit, in bytes.
const maxSignedCommit = 8192

// SignedCommit is the object that an account signs: it names the tree of a
// revision.
type SignedCommit struct {
	DID     string
	Version int64
	Rev     string
	// Data is the root of the tree.
	Data CID
	Sig  []byte
	// CID names this object.
	CID CID

	raw []byte
	// sigFrom, sigTo: where the key and value of sig stand in raw.
	sigFrom, sigTo, fields int
}

// parseSigned reads a signed commit, which must be canonical: its signature is
// over these very bytes without sig.
func parseSigned(id CID, raw []byte) (*SignedCommit, error) {
	if len(raw) > maxSignedCommit {
		return nil, event.Dropf(event.ReasonBadCommit, "signed commit of %d bytes", len(raw))
	}
	if err := dagcbor.Validate(raw); err != nil {
		return nil, event.Dropf(event.ReasonBadCommit, "signed commit: %w", err)
	}
	c := &SignedCommit{CID: id, raw: raw}
	r := dagcbor.NewReader(raw)
	fields, err := r.Map()
	for range fields {
		if err != nil {
			break
		}
		err = c.field(r)
	}
	c.fields = fields
	if err != nil {
		return nil, asDrop(event.ReasonBadCommit, "signed commit", err)
	}
	return c, c.check()
}

func (c *SignedCommit) field(r *dagcbor.Reader) error {
	from := r.Pos()
	key, err := r.Text()
	if err != nil {
		return err
	}
	switch string(key) {
	case "did":
		c.DID, err = r.Str()
	case "version":
		c.Version, err = r.Int()
	case "rev":
		c.Rev, err = r.Str()
	case "data":
		c.Data, err = linkCID(r)
	case "sig":
		c.Sig, err = r.Bytes()
		c.sigFrom, c.sigTo = from, r.Pos()
	default:
		_, err = r.Value()
	}
	return err
}

func (c *SignedCommit) check() error {
	switch {
	case c.Version > 0 && c.Version < repoVersion:
		return event.Dropf(event.ReasonOldVersion, "repository format %d is not supported", c.Version)
	case c.Version != repoVersion:
		return event.Dropf(event.ReasonBadCommit, "signed commit of version %d", c.Version)
	case c.Data.IsZero() || len(c.Sig) == 0:
		return event.Dropf(event.ReasonBadCommit, "signed commit without data or sig")
	}
	if _, err := syntax.ParseTID(c.Rev); err != nil {
		return event.Dropf(event.ReasonBadRev, "signed commit: rev %.40q: %w", c.Rev, err)
	}
	return checkDID(c.DID)
}

// openHead finds the signed commit of an archive and checks whose it is.
func openHead(root CID, bs blocks, did, rev string) (*SignedCommit, error) {
	raw, ok := bs[root]
	if !ok {
		return nil, event.Dropf(event.ReasonMissingBlock, "commit %s is not in its archive", root)
	}
	head, err := parseSigned(root, raw)
	switch {
	case err != nil:
		return nil, err
	case head.DID != did:
		return nil, event.Dropf(event.ReasonBadCommit, "commit of %s is signed for %s", did, head.DID)
	case head.Rev != rev:
		return nil, event.Dropf(event.ReasonBadRev, "commit of %s: rev %.40q, signed %s", did, rev, head.Rev)
	}
	return head, nil
}

// Verify checks the signature.
func (c *SignedCommit) Verify(key atcrypto.PublicKey) error {
	var buf [512]byte
	unsigned := dagcbor.AppendMap(buf[:0], c.fields-1)
	unsigned = append(unsigned, c.raw[len(dagcbor.AppendMap(nil, c.fields)):c.sigFrom]...)
	unsigned = append(unsigned, c.raw[c.sigTo:]...)
	if err := key.HashAndVerify(unsigned, c.Sig); err != nil {
		return event.Dropf(event.ReasonBadSignature, "commit %s of %s: %w", c.CID, c.DID, err)
	}
	return nil
}
