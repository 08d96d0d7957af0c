package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/render"
	"sluice/services/streamctl/internal/status"
	"sluice/services/streamctl/internal/store"
)

func (t *tool) whyCmd() *cobra.Command {
	var depth int
	cmd := &cobra.Command{
		Use: "why <did | at-uri>", Short: "Where is this account or record, and why is it not in the tables?",
		Long: "Why follows one account or record along the road: the job stream and the ledger of the backfill,\n" +
			"the streams, the dead letters and the tables.",
		Example: "  streamctl why did:plc:ewvi7nxzyoun6zhxrhs64oiz\n  streamctl why at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/app.bsky.feed.post/3l6oveex3ii2l",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return t.why(cmd.Context(), args[0], depth) },
	}
	cmd.Flags().IntVar(&depth, "depth", 20000, "how many entries of each stream are searched, from the oldest on")
	return cmd
}

type whyReport struct {
	Subject string          `json:"subject"`
	Record  *store.Record   `json:"record,omitempty"`
	Account *store.Account  `json:"account,omitempty"`
	Ledger  string          `json:"backfill,omitempty"`
	Entries []sighting      `json:"entries,omitempty"`
	Letters []sighting      `json:"dead_letters,omitempty"`
	Left    map[string]bool `json:"not_searched_to_the_end,omitempty"`
}

type sighting struct {
	Stream string `json:"stream"`
	ID     string `json:"id"`
	What   string `json:"what"`
}

func (t *tool) why(ctx context.Context, subject string, depth int) error {
	did, rest, isRecord := strings.Cut(strings.TrimPrefix(subject, "at://"), "/")
	if !strings.HasPrefix(did, "did:") || isRecord && strings.Count(rest, "/") != 1 {
		return fmt.Errorf("%q: want a DID, or at://did/collection/rkey", subject)
	}
	r := whyReport{Subject: subject, Left: map[string]bool{}}
	db, err := t.database(ctx)
	if err != nil {
		return err
	}
	a, err := db.Account(ctx, did)
	if err != nil {
		return err
	}
	r.Account = &a
	if isRecord {
		rec, err := db.Record(ctx, "at://"+did+"/"+rest)
		if err != nil {
			return err
		}
		r.Record = &rec
	}
	redis, err := t.client(ctx)
	if err != nil {
		return err
	}
	ledger, err := status.Ledger(redis, t.settings.Jobs).Get(ctx, strings.TrimPrefix(did, "did:plc:"))
	if err != nil {
		return err
	}
	r.Ledger = ledgerText(ledger)
	needle := did
	if isRecord {
		needle = rest[strings.IndexByte(rest, '/')+1:]
	}
	for _, s := range t.settings.topology().Streams() {
		if err := t.search(ctx, redis, s, did, needle, depth, &r); err != nil {
			return err
		}
	}
	if t.json {
		return t.dump(r)
	}
	return t.showWhy(r)
}

// ledgerText is an entry of the backfill's ledger in words.
func ledgerText(values []string) string {
	if len(values) == 0 || values[0] == "" {
		return ""
	}
	rev, reason, _ := strings.Cut(values[0][1:], " ")
	text := status.LedgerStates[values[0][:1]]
	if rev != "" {
		text += ", emitted in full at rev " + rev
	}
	if reason != "" {
		text += ", " + reason
	}
	return text
}

// search looks for entries and dead letters of a stream that name the subject.
func (t *tool) search(ctx context.Context, redis *redstream.Client, stream, did, needle string, depth int, r *whyReport) error {
	names := func(e redstream.Entry) bool {
		for _, f := range e.Fields {
			if strings.Contains(f.Value, did) && strings.Contains(f.Value, needle) {
				return true
			}
		}
		return false
	}
	seen := 0
	for from := "-"; ; {
		page, err := redis.Range(ctx, stream, from, "+", 1000)
		if err != nil && !errors.Is(err, redstream.ErrNoGroup) {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if names(e) && len(r.Entries) < 100 {
				p := t.decode(stream, e)
				r.Entries = append(r.Entries, sighting{stream, e.ID, render.Clip(fmt.Sprintf("%s", p.Entry), 200)})
			}
		}
		if seen += len(page); seen >= depth {
			r.Left[stream] = true
			break
		}
		from = "(" + page[len(page)-1].ID
	}
	q := redis.DeadLetters(stream, t.settings.topology().Letters(stream))
	for after := ""; ; {
		page, err := q.List(ctx, after, 500)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, d := range page {
			if names(redstream.Entry{Fields: d.Fields}) && len(r.Letters) < 100 {
				r.Letters = append(r.Letters, sighting{stream, d.ID, d.Reason + ": " + d.Error})
			}
		}
		after = page[len(page)-1].ID
	}
}

func (t *tool) showWhy(r whyReport) error {
	if rec := r.Record; rec != nil {
		switch {
		case rec.Found:
			t.say("record      indexed at %s, cid %s, rev %s", rec.IndexedAt, rec.CID, orNone(rec.Rev))
		case rec.Tombstone != "":
			t.say("record      not there: deleted at rev %s", rec.Tombstone)
		default:
			t.say("record      not there, and no deletion was seen")
		}
		if rec.DuplicateOf != "" {
			t.say("            it is a duplicate of %s, which holds its place", rec.DuplicateOf)
		}
	}
	if a := r.Account; a.Found {
		t.say("account     handle %s, status %s, repository at rev %s", orNone(a.Handle), orNone(a.Status), orNone(a.Rev))
		if a.Takedown != "" {
			t.say("            taken down (%s)", a.Takedown)
		}
		for _, c := range slices.Sorted(maps.Keys(a.Records)) {
			t.say("            %s %s", render.Count(a.Records[c]), c)
		}
	} else {
		t.say("account     never seen by the indexer")
	}
	if r.Account.Deleted != "" {
		t.say("            deleted at rev %s: what is older is refused", r.Account.Deleted)
	}
	t.say("backfill    %s", orElse(r.Ledger, "not in the ledger: never queued, or still in the job stream (streamctl backfill add)"))
	for _, s := range r.Entries {
		t.say("in stream   %s %s %s", s.Stream, s.ID, s.What)
	}
	for _, s := range r.Letters {
		t.say("dead letter %s %s %s (streamctl dlq show %s %s)", s.Stream, s.ID, s.What, s.Stream, s.ID)
	}
	for _, s := range slices.Sorted(maps.Keys(r.Left)) {
		t.say("note        %s is longer than what was searched (--depth)", s)
	}
	return nil
}

func orNone(s string) string { return orElse(s, "none") }

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
