package derive

// parseLike reads likes and reposts, which have the same form.
func (r *Record) parseLike(text []byte) error {
	var rec struct {
		Subject   Ref    `json:"subject"`
		Via       *Ref   `json:"via"`
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Edge = &EdgeRow{Subject: rec.Subject.URI, SubjectCID: &rec.Subject.CID}
	if rec.Via != nil {
		r.Edge.Via, r.Edge.ViaCID = &rec.Via.URI, &rec.Via.CID
	}
	return nil
}
