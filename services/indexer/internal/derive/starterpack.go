package derive

// StarterPackRow is the row of a starter pack.
type StarterPackRow struct{ Name string }

func (s *StarterPackRow) texts() []string {
	if s == nil {
		return nil
	}
	return []string{s.Name}
}

func (r *Record) parseStarterPack(text []byte) error {
	var rec struct {
		Name      string `json:"name"`
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.StarterPack = &StarterPackRow{Name: rec.Name}
	return nil
}
