package derive

import "encoding/json"

// ListRow is the row of a list.
type ListRow struct {
	Name, Purpose     string
	Description       *string
	DescriptionFacets *string
	AvatarCID         *string
}

func (l *ListRow) texts() []string {
	if l == nil {
		return nil
	}
	return []string{l.Name, l.Purpose, deref(l.Description), deref(l.DescriptionFacets), deref(l.AvatarCID)}
}

func (r *Record) parseList(text []byte) error {
	var rec struct {
		Name        string          `json:"name"`
		Purpose     string          `json:"purpose"`
		Description *string         `json:"description"`
		Facets      json.RawMessage `json:"descriptionFacets"`
		Avatar      *blob           `json:"avatar"`
		CreatedAt   string          `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.List = &ListRow{
		Name: rec.Name, Purpose: rec.Purpose, Description: rec.Description,
		DescriptionFacets: rawText(rec.Facets), AvatarCID: rec.Avatar.cid(),
	}
	return nil
}

// rawText is the JSON text of a value, nil when it is absent.
func rawText(raw json.RawMessage) *string {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	s := string(raw)
	return &s
}
