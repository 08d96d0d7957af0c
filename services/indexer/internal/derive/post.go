package derive

import (
	"encoding/json"
	"slices"
)

// PostRow is the row of a post with everything that hangs on it.
type PostRow struct {
	Text                   string
	ReplyRoot, ReplyParent *Ref
	// Langs and Tags are JSON arrays, nil when absent or empty.
	Langs, Tags *string
	// Mentions are the DIDs of mention facets, in order, repeats kept.
	Mentions []string
	Images   []Image
	Gallery  []Image
	External *External
	Video    *Video
	// Embed is the record embedded, also that of a record with media.
	Embed *Ref
}

// Image is one image; Position is its index in the record.
type Image struct {
	Position int
	CID, Alt string
}

// External is a link card.
type External struct {
	URI, Title, Description string
	ThumbCID                *string
}

// Video is a video.
type Video struct {
	CID string
	Alt *string
}

// Quotes is the uri and the CID of the post that this post quotes.
func (p *PostRow) Quotes() (uri, cid string, ok bool) {
	if p.Embed == nil || !IsPost(p.Embed.URI) {
		return "", "", false
	}
	return p.Embed.URI, p.Embed.CID, true
}

func (p *PostRow) texts() []string {
	if p == nil {
		return nil
	}
	out := []string{p.Text, deref(p.Langs), deref(p.Tags)}
	for _, ref := range []*Ref{p.ReplyRoot, p.ReplyParent, p.Embed} {
		if ref != nil {
			out = append(out, ref.URI, ref.CID)
		}
	}
	for _, list := range [][]Image{p.Images, p.Gallery} {
		for _, im := range list {
			out = append(out, im.CID, im.Alt)
		}
	}
	if x := p.External; x != nil {
		out = append(out, x.URI, x.Title, x.Description, deref(x.ThumbCID))
	}
	if p.Video != nil {
		out = append(out, p.Video.CID, deref(p.Video.Alt))
	}
	return out
}

type facet struct {
	Features []struct {
		Type string `json:"$type"`
		DID  string `json:"did"`
	} `json:"features"`
}

const mentionFeature = "app.bsky.richtext.facet#mention"

func mentions(facets []facet) []string {
	var out []string
	for _, f := range facets {
		for _, feature := range f.Features {
			if feature.Type == mentionFeature {
				out = append(out, feature.DID)
			}
		}
	}
	return out
}

func (r *Record) parsePost(text []byte) error {
	var rec struct {
		Text  string `json:"text"`
		Reply *struct {
			Root   Ref `json:"root"`
			Parent Ref `json:"parent"`
		} `json:"reply"`
		Langs     []string `json:"langs"`
		Tags      []string `json:"tags"`
		Facets    []facet  `json:"facets"`
		Embed     *embed   `json:"embed"`
		CreatedAt string   `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	p := &PostRow{Text: rec.Text, Langs: jsonArray(rec.Langs), Tags: jsonArray(rec.Tags), Mentions: mentions(rec.Facets)}
	if rec.Reply != nil {
		p.ReplyRoot, p.ReplyParent = &rec.Reply.Root, &rec.Reply.Parent
	}
	p.take(rec.Embed)
	for _, list := range [][]string{rec.Langs, rec.Tags} {
		if slices.ContainsFunc(list, nulIn) {
			return &RejectError{Reason: BadText, Err: errNUL}
		}
	}
	r.Post = p
	return nil
}

// jsonArray is the text of a JSON array, nil for an empty list.
func jsonArray(list []string) *string {
	if len(list) == 0 {
		return nil
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil
	}
	s := string(text)
	return &s
}
