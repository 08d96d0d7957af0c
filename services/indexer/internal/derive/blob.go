package derive

import "encoding/json"

// blob is a reference to a blob: the typed form, or the first form that had
// only cid and mimeType.
type blob struct {
	Ref json.RawMessage `json:"ref"`
	CID string          `json:"cid"`
}

// cid is nil for an absent blob.
func (b *blob) cid() *string {
	if b == nil {
		return nil
	}
	if len(b.Ref) == 0 {
		if b.CID == "" {
			return nil
		}
		return &b.CID
	}
	var link struct {
		Link string `json:"$link"`
	}
	if err := json.Unmarshal(b.Ref, &link); err == nil && link.Link != "" {
		return &link.Link
	}
	var text string
	if err := json.Unmarshal(b.Ref, &text); err == nil && text != "" {
		return &text
	}
	return nil
}
