package e2e_test

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// The differences from the published indexer that are intended, by name. Every
// difference in a network must be one of these; nothing else may differ.
const (
	// lostRecord: a record that the published indexer loses (all of its
	// notifications muted, an empty list of images) is indexed.
	lostRecord = "record lost by the published indexer"
	// besideLost: a reply or a notification was judged with such a record.
	besideLost = "judged with a record lost by the published indexer"
	// exactCount: a count is that of the rows, where the published indexer does
	// not count again.
	exactCount = "exact count"
	// goneAccount: rows that it leaves behind of a deleted account.
	goneAccount = "leftover of a deleted account"
	// goneDuplicate: an entry of duplicate_record whose original is gone.
	goneDuplicate = "duplicate of something gone"
	// normalTime: profile.createdAt in the normal form.
	normalTime = "profile.createdAt normalised"
	// gateFlag: hasThreadGate and hasPostGate whatever came first.
	gateFlag = "flag of a gate kept"
	// editedOPReply: an edited post keeps its place in its author's thread.
	editedOPReply = "edited post stays in its author's thread"
	// editedQuoted: the quotes of an edited post stay.
	editedQuoted = "quote of an edited post kept"
	// editedReposted: the reposts of an edited post stay in the feeds.
	editedReposted = "repost of an edited post kept"
	// duplicateRepost: a duplicate repost is no item of the feed.
	duplicateRepost = "no feed item of a duplicate repost"
)

// explainer knows why a difference of one network may be.
type explainer struct {
	lost    map[string]bool // records that only we have
	deleted map[string]bool // accounts
	records map[string]row
	posts   map[string]row
	reposts map[string]row
	gates   map[string]bool // posts with a gate
	pairs   map[string][]difference
	counts  map[string]map[string]float64
}

func newExplainer(n *network, got map[string][]row, all []difference) *explainer {
	x := &explainer{
		lost: map[string]bool{}, deleted: set(n.meta.DeletedAccounts), gates: map[string]bool{},
		records: byKey(got["record"], "uri"), posts: byKey(got["post"], "uri"), reposts: byKey(got["repost"], "uri"),
		pairs: map[string][]difference{}, counts: recount(got),
	}
	for _, uri := range n.meta.RecordsNotIndexed {
		if _, ok := x.records[uri]; ok {
			x.lost[uri] = true
		}
	}
	for _, table := range []string{"thread_gate", "post_gate"} {
		for _, r := range got[table] {
			x.gates[table+text(r, "postUri")] = true
		}
	}
	for _, d := range all {
		x.pairs[d.table+" "+keyOf(d.row)] = append(x.pairs[d.table+" "+keyOf(d.row)], d)
	}
	return x
}

func set(list []string) map[string]bool {
	out := map[string]bool{}
	for _, v := range list {
		out[v] = true
	}
	return out
}

func byKey(rows []row, column string) map[string]row {
	out := map[string]row{}
	for _, r := range rows {
		out[text(r, column)] = r
	}
	return out
}

func text(r row, column string) string {
	s, _ := r[column].(string)
	return s
}

// keyOf names the subject of a row.
func keyOf(r row) string {
	for _, c := range []string{"uri", "postUri", "recordUri", "did"} {
		if s := text(r, c); s != "" {
			return s
		}
	}
	return ""
}

// recount counts the rows that the aggregates count.
func recount(got map[string][]row) map[string]map[string]float64 {
	out := map[string]map[string]float64{}
	add := func(key, column string) {
		if out[key] == nil {
			out[key] = map[string]float64{}
		}
		out[key][column]++
	}
	for _, r := range got["like"] {
		add(text(r, "subject"), "likeCount")
	}
	for _, r := range got["repost"] {
		add(text(r, "subject"), "repostCount")
	}
	for _, r := range got["quote"] {
		add(text(r, "subject"), "quoteCount")
	}
	for _, r := range got["post"] {
		if parent := text(r, "replyParent"); parent != "" && r["violatesThreadGate"] != true {
			add(parent, "replyCount")
		}
		add(text(r, "creator"), "postsCount")
	}
	for _, r := range got["follow"] {
		add(text(r, "subjectDid"), "followersCount")
		add(text(r, "creator"), "followsCount")
	}
	return out
}

// why names the reason of a difference, "" if there is none.
func (x *explainer) why(d difference) string {
	if d.sign == "+" && x.lost[keyOf(d.row)] {
		return lostRecord
	}
	if d.sign == "-" && x.ofDeleted(d.row) && d.table != "post_agg" && d.table != "profile_agg" {
		return goneAccount
	}
	switch d.table {
	case "post_agg", "profile_agg":
		return x.count(d)
	case "post":
		return x.post(d)
	case "notification":
		if d.sign == "+" && x.besideLost(text(d.row, "recordUri")) {
			return besideLost
		}
	case "duplicate_record":
		if _, there := x.records[text(d.row, "duplicateOf")]; d.sign == "-" && !there {
			return goneDuplicate
		}
	case "profile":
		if x.normalised(d) {
			return normalTime
		}
	case "op_thread_reply":
		if x.onlyDiffers(d, "deletedAt") && x.records[text(d.row, "uri")] != nil {
			return editedOPReply
		}
	case "quote":
		if d.sign == "+" && x.records[text(d.row, "uri")] != nil && x.records[text(d.row, "subject")] != nil {
			return editedQuoted
		}
	case "feed_item":
		return x.feedItem(d)
	}
	return ""
}

func (x *explainer) ofDeleted(r row) bool {
	for did := range x.deleted {
		for _, v := range r {
			if s, ok := v.(string); ok && (s == did || strings.HasPrefix(s, "at://"+did+"/")) {
				return true
			}
		}
	}
	return false
}

// count accepts ours if it is what the rows say, and theirs if ours is.
func (x *explainer) count(d difference) string {
	ours := d.row
	if d.sign == "-" {
		ours = row{}
		for _, other := range x.pairs[d.table+" "+keyOf(d.row)] {
			if other.sign == "+" {
				ours = other.row
			}
		}
	}
	for c, v := range d.row {
		if _, number := v.(float64); !number {
			continue
		}
		have, _ := ours[c].(float64)
		if have != x.counts[keyOf(d.row)][c] {
			return ""
		}
	}
	return exactCount
}

func (x *explainer) post(d difference) string {
	uri := keyOf(d.row)
	ours := x.posts[uri]
	switch {
	case x.onlyDiffers(d, "hasThreadGate", "hasPostGate"):
		for table, column := range map[string]string{"thread_gate": "hasThreadGate", "post_gate": "hasPostGate"} {
			if ours[column] == true && !x.gates[table+uri] {
				return ""
			}
		}
		return gateFlag
	case x.onlyDiffers(d, "invalidReplyRoot", "violatesThreadGate") && x.besideLost(uri):
		return besideLost
	}
	return ""
}

func (x *explainer) feedItem(d difference) string {
	if text(d.row, "type") != "repost" {
		return ""
	}
	_, counts := x.reposts[text(d.row, "uri")]
	switch {
	case d.sign == "+" && counts:
		return editedReposted
	case d.sign == "-" && !counts:
		return duplicateRepost
	}
	return ""
}

// onlyDiffers says whether the row is on both sides, and differs in the columns
// alone.
func (x *explainer) onlyDiffers(d difference, columns ...string) bool {
	pair := x.pairs[d.table+" "+keyOf(d.row)]
	if len(pair) != 2 || pair[0].sign == pair[1].sign {
		return false
	}
	a, b := maps.Clone(pair[0].row), maps.Clone(pair[1].row)
	for _, c := range columns {
		delete(a, c)
		delete(b, c)
	}
	return fingerprint(a, nil) == fingerprint(b, nil)
}

// besideLost says whether a lost record is among the ancestors of a post.
func (x *explainer) besideLost(uri string) bool {
	for range 20 {
		p := x.posts[uri]
		if x.lost[uri] || x.lost[text(p, "replyRoot")] {
			return true
		}
		if uri = text(p, "replyParent"); uri == "" {
			return false
		}
	}
	return false
}

// normalised says whether the two rows of a profile differ in createdAt alone
// and mean the same time.
func (x *explainer) normalised(d difference) bool {
	if !x.onlyDiffers(d, "createdAt") {
		return false
	}
	var times []time.Time
	for _, side := range x.pairs[d.table+" "+keyOf(d.row)] {
		t, err := time.Parse(time.RFC3339Nano, text(side.row, "createdAt"))
		if err != nil {
			return false
		}
		times = append(times, t.Truncate(time.Millisecond))
	}
	return slices.IndexFunc(times, func(t time.Time) bool { return !t.Equal(times[0]) }) < 0
}
