package world

import (
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
)

// copyValue returns a record's value, to be changed and written again in the
// open commit, and its facts.
func (g *generator) copyValue(r *Record) (repo.Map, facts) {
	decoded, err := atdata.UnmarshalCBOR(r.CBOR)
	if err != nil {
		panic(err) // of our own making
	}
	g.blobs = append(g.blobs, r.blobs...)
	value, _ := plain(decoded).(repo.Map)
	return value, r.facts
}

// plain turns what the SDK decodes into what this package encodes.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(repo.Map, len(v))
		for k, member := range v {
			out[k] = plain(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = plain(member)
		}
		return out
	case atdata.CIDLink:
		return cid.Cid(v)
	case atdata.Bytes:
		return []byte(v)
	case atdata.Blob:
		return repo.Map{"$type": "blob", "ref": cid.Cid(v.Ref), "mimeType": v.MimeType, "size": v.Size}
	}
	return v
}
