package derive

import (
	"encoding/json"
	"errors"
	"strings"
)

var errNUL = errors.New("NUL in a text column")

func nulIn(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// embed is any of the embeds; Type says which fields count.
type embed struct {
	Type   string `json:"$type"`
	Images []struct {
		Image *blob  `json:"image"`
		Alt   string `json:"alt"`
	} `json:"images"`
	Items    []json.RawMessage `json:"items"`
	External *struct {
		URI         string `json:"uri"`
		Title       string `json:"title"`
		Description string `json:"description"`
		Thumb       *blob  `json:"thumb"`
	} `json:"external"`
	Video *blob   `json:"video"`
	Alt   *string `json:"alt"`
	// Record is a strong reference, or an embed of one in a record with media.
	Record json.RawMessage `json:"record"`
	Media  *embed          `json:"media"`
}

// UnmarshalJSON reads only embeds that are objects of a known type, so that an
// unknown one may have any fields.
func (e *embed) UnmarshalJSON(text []byte) error {
	var head struct {
		Type string `json:"$type"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	switch head.Type {
	case embedImages, embedGallery, embedExternal, embedVideo, embedRecord, embedRecordWithMedia:
		type plain embed
		return json.Unmarshal(text, (*plain)(e))
	default:
		e.Type = head.Type
		return nil
	}
}

const (
	embedImages          = "app.bsky.embed.images"
	embedGallery         = "app.bsky.embed.gallery"
	embedExternal        = "app.bsky.embed.external"
	embedVideo           = "app.bsky.embed.video"
	embedRecord          = "app.bsky.embed.record"
	embedRecordWithMedia = "app.bsky.embed.recordWithMedia"
	galleryImage         = "app.bsky.embed.gallery#image"
)

// take copies an embed into the row. A record with media is a record and a
// media embed at once.
func (p *PostRow) take(e *embed) {
	if e == nil {
		return
	}
	switch e.Type {
	case embedImages:
		for i, im := range e.Images {
			p.Images = append(p.Images, Image{Position: i, CID: deref(im.Image.cid()), Alt: im.Alt})
		}
	case embedGallery:
		p.takeGallery(e.Items)
	case embedExternal:
		if x := e.External; x != nil {
			p.External = &External{URI: x.URI, Title: x.Title, Description: x.Description, ThumbCID: x.Thumb.cid()}
		}
	case embedVideo:
		p.Video = &Video{CID: deref(e.Video.cid()), Alt: e.Alt}
	case embedRecord:
		p.takeRecord(e.Record)
	case embedRecordWithMedia:
		var inner struct {
			Record json.RawMessage `json:"record"`
		}
		if json.Unmarshal(e.Record, &inner) == nil {
			p.takeRecord(inner.Record)
		}
		// A record in the place of the media does not replace the one that is quoted.
		if e.Media != nil && e.Media.Type != embedRecordWithMedia && e.Media.Type != embedRecord {
			p.take(e.Media)
		}
	}
}

func (p *PostRow) takeRecord(text json.RawMessage) {
	var ref Ref
	if json.Unmarshal(text, &ref) == nil && ref.URI != "" {
		p.Embed = &ref
	}
}

func (p *PostRow) takeGallery(items []json.RawMessage) {
	for i, text := range items {
		var item struct {
			Type  string `json:"$type"`
			Image *blob  `json:"image"`
			Alt   string `json:"alt"`
		}
		if json.Unmarshal(text, &item) == nil && item.Type == galleryImage {
			p.Gallery = append(p.Gallery, Image{Position: i, CID: deref(item.Image.cid()), Alt: item.Alt})
		}
	}
}

// Reference is what judging a reply or a quote needs to know of the record that
// it refers to.
type Reference struct {
	// IsReply and Root: the record has a reply, and whose root.
	IsReply bool
	Root    string
	// ParentCID is the version of the parent that a reply names.
	ParentCID string
	Mentions  []string
}

// ParseReference reads a record of any kind.
func ParseReference(text string) Reference {
	var rec struct {
		Reply *struct {
			Root   Ref             `json:"root"`
			Parent json.RawMessage `json:"parent"`
		} `json:"reply"`
		Facets []facet `json:"facets"`
	}
	if json.Unmarshal(exact([]byte(text)), &rec) != nil {
		return Reference{}
	}
	ref := Reference{Mentions: mentions(rec.Facets)}
	if rec.Reply != nil {
		ref.IsReply, ref.Root = true, rec.Reply.Root.URI
		var parent Ref
		if json.Unmarshal(rec.Reply.Parent, &parent) == nil {
			ref.ParentCID = parent.CID
		}
	}
	return ref
}
