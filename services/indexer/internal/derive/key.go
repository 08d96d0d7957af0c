package derive

// MaxKey is how many bytes the uris and DIDs of one index entry may have
// together. PostgreSQL refuses entries above 2,704 bytes, with what else is in
// them.
const MaxKey = 2600

// longestKey is the length of the longest index entry that the uris and DIDs of
// a record make.
func (r *Record) longestKey() int {
	n := len(r.URI)
	switch {
	case r.Post != nil:
		n = max(n, r.Post.longestKey(r))
	case r.Edge != nil:
		n = max(n, len(r.Edge.List)+len(r.Edge.Subject), len(r.DID)+len(r.Edge.Subject))
	case r.Profile != nil:
		n = max(n, len(deref(r.Profile.JoinedViaStarterPack)))
	}
	return n
}

func (p *PostRow) longestKey(r *Record) int {
	n := 0
	if p.ReplyParent != nil {
		n = max(n, len(p.ReplyParent.URI)+len(r.URI))
	}
	if p.ReplyRoot != nil && HostOf(p.ReplyRoot.URI) == r.DID {
		n = max(n, len(p.ReplyRoot.URI)+len(r.URI))
	}
	if p.Embed != nil {
		n = max(n, len(p.Embed.URI)+len(r.URI))
	}
	return n
}
