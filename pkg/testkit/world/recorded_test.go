package world

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
	"sluice/pkg/testkit/replay"
	"sluice/pkg/testkit/repo"
)

// networkMeta is what a recording says of itself. An oddity is how many rows
// of the reference indexer are known to be odd in some way.
type networkMeta struct {
	Oddities map[string]int `json:"oddities"`
	Missing  []string       `json:"records_not_indexed"`
}

// beyond are the networks about what the tables are meant to do better: other
// rows are right there.
var beyond = map[string]bool{"net_quirks": true, "net_deletion": true, "net_mutes": true, "net_invalid": true}

// TestModelAgreesWithRecordedNetworks takes the frames of real servers through
// the model and compares it with the rows that the reference indexer made of
// them.
func TestModelAgreesWithRecordedNetworks(t *testing.T) {
	t.Parallel()
	root := testkit.Shared(t, "fixtures/network")
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	compared := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(root, e.Name())
		var meta networkMeta
		data, err := os.ReadFile(filepath.Join(dir, "meta.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &meta))
		if beyond[e.Name()] {
			continue
		}
		compared++
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			compareRecorded(t, dir, meta)
		})
	}
	require.Greater(t, compared, 10)
}

func compareRecorded(t *testing.T, dir string, meta networkMeta) {
	t.Helper()
	w := replayed(t, dir, meta.Missing)
	counts := w.counts()
	for _, table := range []string{
		"record", "post", "like", "repost", "follow", "actor_block", "list", "list_item", "list_block", "feed_generator",
		"starter_pack", "labeler", "thread_gate", "post_gate", "verification", "profile", "quote", "feed_item",
		"op_thread_reply", "post_embed_image", "post_embed_gallery_image", "post_embed_video",
		"post_embed_external", "post_embed_record",
	} {
		require.Len(t, rows(t, dir, table), int(counts[table]), table)
	}
	// The reference keeps the entry of a duplicate that it promoted.
	require.Len(t, rows(t, dir, "duplicate_record"), int(counts["duplicate_record"])+meta.Oddities["duplicate_of_something_gone"])
	truth := &Truth{Posts: map[string]PostCounts{}, Actors: map[string]ActorCounts{}, Flags: map[string]PostFlags{}}
	w.gen.tables.aggregate(truth)
	stale := 0
	for _, row := range rows(t, dir, "post_agg") {
		uri, _ := row["uri"].(string)
		if w.gen.tables.indexed(uri) == nil {
			continue
		}
		got := truth.Posts[uri]
		want := PostCounts{number(row["likeCount"]), number(row["replyCount"]), number(row["repostCount"]), number(row["quoteCount"])}
		if want != got {
			stale++
			t.Logf("%s: %+v, recorded %+v", uri, got, want)
		}
	}
	require.LessOrEqual(t, stale, meta.Oddities["post_agg_not_recounted"])
	for _, row := range rows(t, dir, "profile_agg") {
		did, _ := row["did"].(string)
		want := ActorCounts{number(row["postsCount"]), number(row["followsCount"]), number(row["followersCount"])}
		require.Equal(t, want, truth.Actors[did], did)
	}
	for _, row := range rows(t, dir, "post") {
		uri, _ := row["uri"].(string)
		f := truth.Flags[uri]
		require.Equal(t, row["violatesThreadGate"] == true, f.ViolatesThreadGate, "thread gate of %s", uri)
		require.Equal(t, row["violatesEmbeddingRules"] == true, f.ViolatesEmbeddingRule, "embedding of %s", uri)
		require.Equal(t, row["invalidReplyRoot"] == true, w.gen.tables.posts[uri].invalidRoot, "root of %s", uri)
	}
}

func number(v any) int64 {
	f, _ := v.(float64)
	return int64(f)
}

func rows(t *testing.T, dir, table string) []map[string]any {
	t.Helper()
	path := filepath.Join(dir, "expected", table+".jsonl")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var packed []byte
		packed, err = os.ReadFile(path + ".gz")
		require.NoError(t, err)
		unpacked, zerr := gzip.NewReader(bytes.NewReader(packed))
		require.NoError(t, zerr)
		data, err = io.ReadAll(unpacked)
	}
	require.NoError(t, err)
	var out []map[string]any
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var row map[string]any
		require.NoError(t, json.Unmarshal(lines.Bytes(), &row))
		out = append(out, row)
	}
	return out
}

// replayed applies the recorded frames to a model.
func replayed(t *testing.T, dir string, rejected []string) *World {
	t.Helper()
	rec, err := replay.LoadNetwork(dir)
	require.NoError(t, err)
	g := &generator{tables: newTables()}
	w := &World{gen: g, labelled: newLabelBook(), byDID: map[string]*Account{}}
	for _, f := range rec.Frames {
		kind, message, err := repo.Message(f.Data)
		require.NoError(t, err)
		switch kind {
		case "#commit":
			var c comatproto.SyncSubscribeRepos_Commit
			require.NoError(t, c.UnmarshalCBOR(bytes.NewReader(message)))
			if w.byDID[c.Repo] == nil {
				w.byDID[c.Repo] = &Account{DID: c.Repo}
			}
			applyCommit(t, g.tables, w.byDID[c.Repo], &c, rejected)
		case "#account":
			var m comatproto.SyncSubscribeRepos_Account
			require.NoError(t, m.UnmarshalCBOR(bytes.NewReader(message)))
			refused := rec.Identities[m.Did].LatestCommit
			if m.Status != nil && *m.Status == "deleted" && refused != nil && refused.Status >= 400 {
				g.tables.deleteAccount(w.byDID[m.Did])
			}
		}
	}
	return w
}

func applyCommit(t *testing.T, tables *tables, a *Account, c *comatproto.SyncSubscribeRepos_Commit, rejected []string) {
	t.Helper()
	_, blocks, err := repo.ReadCAR(c.Blocks)
	require.NoError(t, err)
	data := map[cid.Cid][]byte{}
	for _, b := range blocks {
		data[b.CID] = b.Data
	}
	for _, op := range c.Ops {
		collection, rkey, _ := strings.Cut(op.Path, "/")
		r := &Record{Account: a, Collection: collection, RKey: rkey, URI: "at://" + a.DID + "/" + op.Path}
		if op.Action == "delete" {
			if old := tables.records[r.URI]; old != nil {
				tables.delete(old)
			}
			continue
		}
		r.CID = cid.Cid(*op.Cid)
		r.CBOR = data[r.CID]
		value, err := atdata.UnmarshalCBOR(r.CBOR)
		require.NoError(t, err)
		r.facts = factsOf(collection, value)
		r.Invalid = slices.Contains(rejected, r.URI)
		tables.put(r)
	}
}

// factsOf reads from a record what the generator knows of those it writes.
func factsOf(collection string, v map[string]any) facts {
	var f facts
	switch subject := v["subject"].(type) {
	case string:
		f.subject = subject
	case map[string]any:
		f.subject = text(subject, "uri")
	}
	switch collection {
	case Listitem:
		f.list = text(v, "list")
	case Threadgate, Postgate:
		f.gated = text(v, "post")
		f.gate = gateOf(v)
		rules, _ := v["embeddingRules"].([]any)
		for _, rule := range rules {
			f.noEmbed = f.noEmbed || text(rule, "$type") == Postgate+"#disableRule"
		}
	case Post:
		f.root, f.parent = text(v["reply"], "root", "uri"), text(v["reply"], "parent", "uri")
		list, _ := v["facets"].([]any)
		for _, facet := range list {
			features, _ := member(facet, "features").([]any)
			for _, feature := range features {
				if did := text(feature, "did"); did != "" {
					f.mention = append(f.mention, did)
				}
			}
		}
		embedFacts(v["embed"], &f)
	}
	return f
}

func gateOf(v map[string]any) *gateFacts {
	allow, given := v["allow"].([]any)
	if !given {
		return nil
	}
	g := &gateFacts{}
	for _, rule := range allow {
		switch strings.TrimPrefix(text(rule, "$type"), Threadgate+"#") {
		case "mentionRule":
			g.mention = true
		case "followerRule":
			g.follower = true
		case "followingRule":
			g.following = true
		case "listRule":
			g.lists = append(g.lists, text(rule, "list"))
		}
	}
	return g
}

func embedFacts(embed any, f *facts) {
	switch strings.TrimPrefix(text(embed, "$type"), "app.bsky.embed.") {
	case "images":
		images, _ := member(embed, "images").([]any)
		f.images = len(images)
	case "gallery":
		items, _ := member(embed, "items").([]any)
		for _, item := range items {
			if text(item, "$type") == "app.bsky.embed.gallery#image" {
				f.gallery++
			}
		}
	case "video":
		f.video = true
	case "external":
		f.link = true
	case "record":
		f.embed = text(embed, "record", "uri")
	case "recordWithMedia":
		embedFacts(member(embed, "media"), f)
		f.embed = text(embed, "record", "record", "uri")
	}
}

func member(v any, path ...string) any {
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

func text(v any, path ...string) string {
	s, _ := member(v, path...).(string)
	return s
}

// TestFactsAreThoseOfTheRecords reads back what the generator wrote.
func TestFactsAreThoseOfTheRecords(t *testing.T) {
	t.Parallel()
	w := small(t, func(o *Options) { o.Records = 4000 })
	for _, r := range w.gen.tables.records {
		value, err := atdata.UnmarshalCBOR(r.CBOR)
		require.NoError(t, err)
		if !indexedCollections[r.Collection] {
			continue
		}
		require.Equal(t, r.facts, factsOf(r.Collection, value), r.URI)
	}
}
