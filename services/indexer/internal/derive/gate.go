package derive

import (
	"encoding/json"
	"errors"
)

// The types of rules in gates.
const (
	MentionRule   = "app.bsky.feed.threadgate#mentionRule"
	FollowerRule  = "app.bsky.feed.threadgate#followerRule"
	FollowingRule = "app.bsky.feed.threadgate#followingRule"
	ListRule      = "app.bsky.feed.threadgate#listRule"
	disableRule   = "app.bsky.feed.postgate#disableRule"
)

// parseGate reads thread gates and post gates. A gate rules one post of its own
// author, under the same key.
func (r *Record) parseGate(text []byte) error {
	var rec struct {
		Post      string `json:"post"`
		CreatedAt string `json:"createdAt"`
	}
	if err := decode(text, &rec); err != nil {
		return err
	}
	if u := ParseURI(rec.Post); u.Host != r.DID || u.RKey != r.RKey {
		return &RejectError{Reason: BadSubject, Err: errors.New("gate of a post with another author or key")}
	}
	r.CreatedAt = Datetime(rec.CreatedAt)
	r.Edge = &EdgeRow{Subject: rec.Post}
	return nil
}

// GateRule is one member of a thread gate's allow list.
type GateRule struct {
	Type string `json:"$type"`
	List string `json:"list"`
}

// Gate is what a gate record says about replies and quotes.
type Gate struct {
	// Allow is nil when everybody may reply, empty when nobody may.
	Allow *[]GateRule
	// Hidden are the replies that the author has hidden.
	Hidden []string
	// NoQuotes: embedding is disabled.
	NoQuotes  bool
	CreatedAt string
}

// ParseGate reads a gate record; text that is none rules nothing.
func ParseGate(text string) Gate {
	var rec struct {
		Allow     *[]GateRule `json:"allow"`
		Hidden    []string    `json:"hiddenReplies"`
		Embedding []GateRule  `json:"embeddingRules"`
		CreatedAt string      `json:"createdAt"`
	}
	if err := json.Unmarshal(exact([]byte(text)), &rec); err != nil {
		return Gate{}
	}
	g := Gate{Allow: rec.Allow, Hidden: rec.Hidden, CreatedAt: Datetime(rec.CreatedAt)}
	for _, rule := range rec.Embedding {
		g.NoQuotes = g.NoQuotes || rule.Type == disableRule
	}
	return g
}
