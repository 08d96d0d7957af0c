package derive

// ProfileRow is the row of a profile at rkey self.
type ProfileRow struct {
	DisplayName, Description *string
	AvatarCID, BannerCID     *string
	JoinedViaStarterPack     *string
}

func (p *ProfileRow) texts() []string {
	if p == nil {
		return nil
	}
	return []string{deref(p.DisplayName), deref(p.Description), deref(p.AvatarCID), deref(p.BannerCID), deref(p.JoinedViaStarterPack)}
}

// parseProfile takes the time of the event for a profile without createdAt.
func (r *Record) parseProfile(text []byte) error {
	var rec struct {
		DisplayName *string `json:"displayName"`
		Description *string `json:"description"`
		Avatar      *blob   `json:"avatar"`
		Banner      *blob   `json:"banner"`
		Joined      *Ref    `json:"joinedViaStarterPack"`
		CreatedAt   *string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = r.IndexedAt
	if rec.CreatedAt != nil {
		r.CreatedAt = Datetime(*rec.CreatedAt)
	}
	if r.RKey != "self" {
		return nil
	}
	r.Profile = &ProfileRow{
		DisplayName: rec.DisplayName, Description: rec.Description,
		AvatarCID: rec.Avatar.cid(), BannerCID: rec.Banner.cid(),
	}
	if rec.Joined != nil {
		r.Profile.JoinedViaStarterPack = &rec.Joined.URI
	}
	return nil
}
