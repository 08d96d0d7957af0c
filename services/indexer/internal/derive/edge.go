package derive

import "errors"

// EdgeRow is the row of a kind that is unique by a key.
type EdgeRow struct {
	// Subject is the uri or the DID that the record is about; for a list item
	// the DID on the list, for a gate the post.
	Subject     string
	SubjectCID  *string
	Via, ViaCID *string
	// List: list items only.
	List string
	// Handle, DisplayName: verifications only.
	Handle, DisplayName *string
}

func (e *EdgeRow) texts() []string {
	if e == nil {
		return nil
	}
	return []string{e.Subject, deref(e.SubjectCID), deref(e.Via), deref(e.ViaCID), e.List, deref(e.Handle), deref(e.DisplayName)}
}

// EdgeKey is what at most one row of the kind may have.
func (r *Record) EdgeKey() string {
	if r.Kind == ListItem {
		return Key(r.Kind, r.Edge.List, r.Edge.Subject)
	}
	return Key(r.Kind, r.DID, r.Edge.Subject)
}

// Key joins the parts of a key: creator and subject, but list and subject for a
// list item. A gate is unique by its post, which names the creator already.
func Key(_ Kind, a, b string) string { return a + " " + b }

// Ref is a reference to one version of a record.
type Ref struct {
	URI string `json:"uri"`
	CID string `json:"cid"`
}

func (r *Record) parseFollow(text []byte) error {
	var rec struct {
		Subject   string `json:"subject"`
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Edge = &EdgeRow{Subject: rec.Subject}
	return nil
}

func (r *Record) parseListBlock(text []byte) error { return r.parseFollow(text) }

func (r *Record) parseListItem(text []byte) error {
	var rec struct {
		Subject   string `json:"subject"`
		List      string `json:"list"`
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	if HostOf(rec.List) != r.DID {
		return &RejectError{Reason: BadSubject, Err: errors.New("list item on the list of another account")}
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Edge = &EdgeRow{Subject: rec.Subject, List: rec.List}
	return nil
}

func (r *Record) parseVerification(text []byte) error {
	var rec struct {
		Subject     string `json:"subject"`
		Handle      string `json:"handle"`
		DisplayName string `json:"displayName"`
		CreatedAt   string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Edge = &EdgeRow{Subject: rec.Subject, Handle: &rec.Handle, DisplayName: &rec.DisplayName}
	return nil
}
