package derive

// parseLabeler reads a labeler service; only the one at rkey self has a row.
func (r *Record) parseLabeler(text []byte) error {
	var rec struct {
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Labeler = r.RKey == "self"
	return nil
}
