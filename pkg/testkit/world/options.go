// Package world makes a network from a seed: accounts, their repositories and
// everything that happens in them, as frames of a relay, and beside it a model
// that tells what an indexer that took all of it in order holds in the end.
package world

import (
	"errors"
	"fmt"
	"time"
)

// Options say what kind of world to make. The same options make the same
// bytes.
type Options struct {
	// Seed decides everything that is left to chance.
	Seed uint64
	// Accounts is how many accounts there are. Default 40.
	Accounts int
	// Records is about how many record operations happen, in history and live
	// together, besides those that set up an account. Default 2000.
	Records int
	// PDS is how many servers the accounts are spread over. Default 2.
	PDS int
	// BackfillShare, 0 to 1, is the share of the accounts that do nothing live,
	// so that only their repositories tell of them, and about the share of
	// operations older than the relay's window. Default 0.3; negative: 0.
	BackfillShare float64
	// BornShare is the share of the accounts that are created live. Default
	// 0.2; negative: 0.
	BornShare float64
	// InvalidShare is the share of live operations that create a record which
	// its lexicon rejects. Default 0.
	InvalidShare float64
	// Labels is how many labels are emitted. Default Records / 20.
	Labels int
	// FirstSeq is the sequence number of the oldest frame the relay still has.
	// Default 1001; what is older is reachable only through repositories.
	FirstSeq int64
	// End is the time of the last event; live events fill the hour before it,
	// history the 30 days before that hour. Default 2025-06-01T12:00:00Z.
	End time.Time
	// Hostile names accounts whose repositories are traps, one each; see
	// HostileKinds. The truth tells of no records of theirs, and counts no actor.
	Hostile []string
	// NoAccountEvents leaves out moves, deletions, status and handle changes.
	NoAccountEvents bool
	// NoSync leaves out changes that no commit frame announces, only a #sync.
	NoSync bool
	// NoStaleStatus leaves out the false news of an old PDS that an account
	// which has moved away is deactivated.
	NoStaleStatus bool
}

// HostileKinds are the traps that Options.Hostile may name. The last one,
// giant, is no trap but a good repository of a size that no test would make in
// memory.
func HostileKinds() []string {
	return []string{
		"endless", "redirect_loop", "deep_mst", "cyclic_mst", "wrong_cid", "duplicate_keys", "gzip_bomb",
		"missing_block", "truncated_car", "wrong_signature", "tiny_records", "deep_record",
		"giant",
	}
}

func (o Options) withDefaults() Options {
	if o.Accounts == 0 {
		o.Accounts = 40
	}
	if o.Records == 0 {
		o.Records = 2000
	}
	if o.PDS == 0 {
		o.PDS = 2
	}
	o.BackfillShare = share(o.BackfillShare, 0.3)
	o.BornShare = share(o.BornShare, 0.2)
	if o.Labels == 0 {
		o.Labels = o.Records / 20
	}
	if o.FirstSeq == 0 {
		o.FirstSeq = 1001
	}
	if o.End.IsZero() {
		o.End = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	}
	return o
}

func share(v, otherwise float64) float64 {
	switch {
	case v == 0:
		return otherwise
	case v < 0:
		return 0
	}
	return v
}

// Validate reports every option that is out of its range.
func (o Options) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Accounts == 0 || o.Accounts >= 8, "accounts is %d; at least 8", o.Accounts)
	check(o.Records >= 0, "records is %d; not negative", o.Records)
	check(o.PDS >= 0, "pds is %d; not negative", o.PDS)
	check(o.BackfillShare <= 0.95, "backfill share is %g; at most 0.95", o.BackfillShare)
	check(o.BornShare <= 0.9, "born share is %g; at most 0.9", o.BornShare)
	check(o.InvalidShare >= 0 && o.InvalidShare <= 0.9, "invalid share is %g; 0 to 0.9", o.InvalidShare)
	check(o.FirstSeq >= 0, "first seq is %d; not negative", o.FirstSeq)
	known := map[string]bool{}
	for _, k := range HostileKinds() {
		known[k] = true
	}
	for _, k := range o.Hostile {
		check(known[k], "hostile kind %q is unknown; one of %v", k, HostileKinds())
	}
	return errors.Join(errs...)
}
