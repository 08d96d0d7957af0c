package derive

import "encoding/json"

// FeedGeneratorRow is the row of a feed generator.
type FeedGeneratorRow struct {
	FeedDID, DisplayName string
	Description          *string
	DescriptionFacets    *string
	AvatarCID            *string
}

func (f *FeedGeneratorRow) texts() []string {
	if f == nil {
		return nil
	}
	return []string{f.FeedDID, f.DisplayName, deref(f.Description), deref(f.DescriptionFacets), deref(f.AvatarCID)}
}

func (r *Record) parseFeedGenerator(text []byte) error {
	var rec struct {
		DID         string          `json:"did"`
		DisplayName string          `json:"displayName"`
		Description *string         `json:"description"`
		Facets      json.RawMessage `json:"descriptionFacets"`
		Avatar      *blob           `json:"avatar"`
		CreatedAt   string          `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.FeedGenerator = &FeedGeneratorRow{
		FeedDID: rec.DID, DisplayName: rec.DisplayName, Description: rec.Description,
		DescriptionFacets: rawText(rec.Facets), AvatarCID: rec.Avatar.cid(),
	}
	return nil
}
