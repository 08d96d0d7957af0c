package backfill

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"sluice/pkg/redstream"
)

// Keys in Redis, beside the streams. {stream} is BACKFILLER_BACKFILL_STREAM
// (repo_backfill); a key prefix applies to all of them.
//
//	{stream}:state:*   ledger of repositories: name = the DID without "did:plc:"
//	                   (other methods: the whole DID), value = one letter and the
//	                   rev that was last emitted in full, then optionally a space
//	                   and a reason: "d3lo2kcpdbqg2v", "g repo_takendown".
//	                   The letters are the State constants. The ledger's counts
//	                   are the number of repositories in each state.
//	{stream}:progress  hash of totals since the keys were made: repos, records,
//	                   filtered, bytes, retried, gone, failed, skipped
//	{stream}:hosts     hash "{host} {what}" → total, for what in done, gone,
//	                   failed, retried; at most maxHostFields hosts a process,
//	                   then "other"
//	{stream}:paused    exists while the backfill is paused, whatever its value
//	{stream}:delayed   sorted set of jobs that wait for another attempt
//
// Memory, measured: 46 bytes a repository with 86 in a shard (45 M
// repositories: 2.1 GB), 91 bytes with two in a shard (1 M: 91 MB).
const (
	stateKey    = ":state"
	progressKey = ":progress"
	hostsKey    = ":hosts"
	pausedKey   = ":paused"
	delayedKey  = ":delayed"
)

// stateShards keeps a shard of 45 M repositories below the 128 entries up to
// which Redis stores a hash as a listpack.
const stateShards = 1 << 19

// State is what is known of one repository.
type State byte

// The states. A repository that is not in the ledger was never seen, or is
// queued.
const (
	StateActive  State = 'a' // being read
	StateWaiting State = 'w' // will be tried again
	StateDone    State = 'd' // emitted in full at the rev
	StateGone    State = 'g' // its host says that there is none
	StateFailed  State = 'f' // in the dead letters
)

// Record is the recorded state of one repository.
type Record struct {
	State State
	// Rev is the last one that was emitted in full, whatever happened since.
	Rev    string
	Reason string
}

func (r Record) String() string {
	s := string(rune(r.State)) + r.Rev
	if r.Reason != "" {
		s += " " + r.Reason
	}
	return s
}

// ParseRecord reads a value of the ledger; ok is false when there is none.
func ParseRecord(v string) (r Record, ok bool) {
	if v == "" {
		return Record{}, false
	}
	rev, reason, _ := strings.Cut(v[1:], " ")
	return Record{State: State(v[0]), Rev: rev, Reason: reason}, true
}

// covers says whether a job for rev has nothing new to bring.
func (r Record) covers(rev string) bool { return rev != "" && r.Rev >= rev }

// stateName is the name of a DID in the ledger.
func stateName(did string) string { return strings.TrimPrefix(did, "did:plc:") }

// states reads and writes the ledger.
type states struct {
	ledger *redstream.Register
}

// read returns the records of the DIDs, in their order.
func (s *states) read(ctx context.Context, dids []string) ([]Record, error) {
	names := make([]string, len(dids))
	for i, d := range dids {
		names[i] = stateName(d)
	}
	values, err := s.ledger.Get(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read states of %d repositories: %w", len(dids), err)
	}
	out := make([]Record, len(dids))
	for i, v := range values {
		out[i], _ = ParseRecord(v)
	}
	return out, nil
}

func (s *states) write(ctx context.Context, did string, r Record) error {
	if err := s.ledger.Set(ctx, stateName(did), r.String()); err != nil {
		return fmt.Errorf("write state of %s: %w", did, err)
	}
	return nil
}

// maxHostFields bounds the hosts that one process counts by name.
const maxHostFields = 10_000

// tally collects totals in memory and adds them to Redis now and then; a crash
// loses the last second of them. Safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	progress map[string]int64
	hosts    map[string]int64
	known    map[string]bool
}

func newTally() *tally {
	return &tally{progress: map[string]int64{}, hosts: map[string]int64{}, known: map[string]bool{}}
}

func (t *tally) add(what string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress[what] += n
}

// repo counts a repository that ended as what at host.
func (t *tally) repo(host, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, bare, ok := strings.Cut(host, "://"); ok {
		host = bare
	}
	if host == "" {
		host = "unknown"
	}
	if !t.known[host] {
		if len(t.known) >= maxHostFields {
			host = "other"
		} else {
			t.known[host] = true
		}
	}
	t.hosts[host+" "+what]++
}

// take empties the tally.
func (t *tally) take() (progress, hosts map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	progress, hosts = t.progress, t.hosts
	t.progress, t.hosts = map[string]int64{}, map[string]int64{}
	return progress, hosts
}

// giveBack returns what could not be written.
func (t *tally) giveBack(progress, hosts map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, n := range progress {
		t.progress[k] += n
	}
	for k, n := range hosts {
		t.hosts[k] += n
	}
}
