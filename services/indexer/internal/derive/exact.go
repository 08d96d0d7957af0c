package derive

import (
	"bytes"
	"encoding/json"
	"strings"
)

// fields are the names that records are read by. encoding/json takes names of
// other case for them too; in a record those are other fields.
var fields = []string{
	"$type", "text", "reply", "root", "parent", "uri", "cid", "langs", "tags", "facets", "features", "did", "embed", "images", "image",
	"alt", "items", "external", "title", "description", "thumb", "video", "record", "media", "ref", "$link", "subject", "list", "handle",
	"displayName", "createdAt", "via", "post", "allow", "hiddenReplies", "embeddingRules", "name", "purpose", "descriptionFacets",
	"avatar", "banner", "joinedViaStarterPack",
}

// plain are names that are known not to be mistaken for a field.
var plain = names("index", "byteStart", "byteEnd", "size", "mimeType", "aspectRatio", "width", "height", "tag", "labels", "values", "val",
	"$bytes", "feeds", "policies", "captions", "lang", "file", "pinnedPost", "website", "pronouns")

var exactNames = names(fields...)

func names(list ...string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, n := range list {
		m[n] = true
	}
	return m
}

// mistaken says whether a name would be taken for a field that it is not.
func mistaken(name string) bool {
	if exactNames[name] || plain[name] {
		return false
	}
	for _, f := range fields {
		if strings.EqualFold(f, name) {
			return true
		}
	}
	return false
}

// exact drops members whose names differ from a field's in case only. Nearly
// always there are none, and the text is returned as it is.
func exact(text []byte) []byte {
	if !anyMistaken(text) {
		return text
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if d.Decode(&value) != nil {
		return text
	}
	dropMistaken(value)
	out, err := json.Marshal(value)
	if err != nil {
		return text
	}
	return out
}

// anyMistaken looks at every string that is followed by a colon.
func anyMistaken(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		start := i + 1
		escaped := false
		for i++; i < len(text) && text[i] != '"'; i++ {
			if text[i] == '\\' {
				escaped = true
				i++
			}
		}
		if i >= len(text) {
			return false
		}
		name := text[start:i]
		if rest := bytes.TrimLeft(text[i+1:min(i+9, len(text))], " \t\r\n"); len(rest) == 0 || rest[0] != ':' {
			continue
		}
		if escaped || mistaken(string(name)) {
			return true
		}
	}
	return false
}

func dropMistaken(value any) {
	switch v := value.(type) {
	case map[string]any:
		for k, member := range v {
			switch {
			case mistaken(k):
				delete(v, k)
			case k != "descriptionFacets": // stored as they are
				dropMistaken(member)
			}
		}
	case []any:
		for _, member := range v {
			dropMistaken(member)
		}
	}
}
