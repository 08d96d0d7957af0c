package derive

import "strings"

// URI is an at-uri in its parts. Collection and RKey may be empty.
type URI struct{ Host, Collection, RKey string }

// ParseURI splits an at-uri; text that is none gives empty parts.
func ParseURI(s string) URI {
	rest, ok := strings.CutPrefix(s, "at://")
	if !ok {
		return URI{}
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	host, path, _ := strings.Cut(rest, "/")
	collection, rkey, _ := strings.Cut(path, "/")
	rkey, _, _ = strings.Cut(rkey, "/")
	return URI{Host: host, Collection: collection, RKey: rkey}
}

// HostOf is the authority of an at-uri.
func HostOf(uri string) string { return ParseURI(uri).Host }

// GateURI is the uri of the gate of a post: collection swapped, same key.
func GateURI(postURI string, kind Kind) string {
	u := ParseURI(postURI)
	collection := "app.bsky.feed.threadgate"
	if kind == PostGate {
		collection = "app.bsky.feed.postgate"
	}
	return "at://" + u.Host + "/" + collection + "/" + u.RKey
}

// IsPost says whether an at-uri names a post.
func IsPost(uri string) bool { return ParseURI(uri).Collection == "app.bsky.feed.post" }
