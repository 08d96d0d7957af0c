package world

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sluice/pkg/testkit/repo"
)

var words = []string{
	"harbor", "lantern", "moss", "copper", "quiet", "river", "paper", "salt", "violet", "thread", "cedar", "ember",
	"gravel", "meadow", "orbit", "plume", "quartz", "ripple", "saffron", "tundra", "umber", "velvet", "willow", "yarrow",
}

var extras = []string{"naïve", "日本", "🌊", "über", "Привет", "\u200d", "a\\b", "\"quoted\"", "<b>&amp;"}

func sentence(r *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		if r.IntN(12) == 0 {
			b.WriteString(extras[r.IntN(len(extras))])
			continue
		}
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String()
}

// richText makes a text with facets: mentions of the DIDs, a link, a tag.
func richText(r *rand.Rand, mentions []*Account) (text string, facets []any) {
	text = sentence(r, 3+r.IntN(20))
	for _, a := range mentions {
		text += " "
		start := len(text)
		text += "@" + a.state.Handle
		facets = append(facets, facet(start, len(text), repo.Map{"$type": "app.bsky.richtext.facet#mention", "did": a.DID}))
	}
	if r.IntN(6) == 0 {
		text += " "
		start := len(text)
		text += "example.com/page"
		uri := fmt.Sprintf("https://example.com/page?a=%d&b=<c>", r.IntN(1000))
		facets = append(facets, facet(start, len(text), repo.Map{"$type": "app.bsky.richtext.facet#link", "uri": uri}))
	}
	if r.IntN(8) == 0 {
		text += " "
		start := len(text)
		tag := words[r.IntN(len(words))]
		text += "#" + tag
		facets = append(facets, facet(start, len(text), repo.Map{"$type": "app.bsky.richtext.facet#tag", "tag": tag}))
	}
	return text, facets
}

func facet(start, end int, feature repo.Map) repo.Map {
	return repo.Map{
		"$type":    "app.bsky.richtext.facet",
		"index":    repo.Map{"byteStart": start, "byteEnd": end},
		"features": []any{feature},
	}
}

// blob makes a blob reference; the bytes behind it are its seed.
func (g *generator) blob(mime string, size int) repo.Map {
	c := repo.RawCID(fmt.Appendf(nil, "blob %d %d", g.opts.Seed, g.rng.Uint32()))
	g.blobs = append(g.blobs, c)
	return repo.Map{"$type": "blob", "ref": c, "mimeType": mime, "size": size}
}
