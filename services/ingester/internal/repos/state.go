package repos

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"

	"sluice/pkg/atproto"
)

// Table holds what is known of repositories beside the stream, for a bounded
// number of them; it may forget. Get returns one value for each name, empty
// where there is none. It is safe for concurrent use.
type Table interface {
	Get(ctx context.Context, names []string) (values []string, err error)
}

// repoState is the end of the known history of one repository. It belongs to
// the worker that judges the DID; the dispatcher lets only one do so.
type repoState struct {
	// rev and data are those of the newest commit seen; zero: none yet. data
	// alone is zero when the tree after rev is not known.
	rev  string
	data atproto.CID
	// commit names that commit; zero when rev came from the Table.
	commit atproto.CID
	// first is the rev with which this state began when nothing was known of the
	// repository; a lower one may never have been seen.
	first string
	// synced is the rev of the last #sync.
	synced string
	// holes are what was missing when a later commit came, newest last. A rev in
	// one of them that comes late is no repeat.
	holes []hole
	// last is the newest rev by relay, for telling a relay that goes back from
	// one that is behind another.
	last []string
	// account and identity are the last such events, by content.
	account, identity uint64
}

// hole is the revs between two, both exclusive.
type hole struct{ from, to string }

// maxHoles bounds the holes that are remembered. Each has led to a fetch of the
// repository, so what comes late for a forgotten one is not needed.
const maxHoles = 4

// known says whether a commit of this rev has been seen.
func (s *repoState) known(rev string) bool {
	if s.rev == "" || rev > s.rev || rev < s.first {
		return false
	}
	for _, h := range s.holes {
		if rev > h.from && rev < h.to {
			return false
		}
	}
	return true
}

// advance makes rev the newest, unless a newer one has been seen. It says
// whether it did.
func (s *repoState) advance(rev string, data, commit atproto.CID) bool {
	if rev <= s.rev {
		return false
	}
	if s.rev == "" {
		s.first = rev
	}
	s.rev, s.data, s.commit = rev, data, commit
	return true
}

// hole notes that the revs between the newest one and rev are missing.
func (s *repoState) hole(rev string) {
	if s.rev == "" || rev <= s.rev {
		return
	}
	if len(s.holes) == maxHoles {
		s.holes = append(s.holes[:0], s.holes[1:]...)
	}
	s.holes = append(s.holes, hole{from: s.rev, to: rev})
}

// heard notes rev as the newest of a relay, and says whether the relay had
// sent a newer one before in this process.
func (s *repoState) heard(relay int, rev string) (back bool) {
	back = rev < s.last[relay]
	s.last[relay] = max(rev, s.last[relay])
	return back
}

// revLength is the length of a rev, a TID.
const revLength = 13

// encode is the form in the Table: the rev, then the digest in data.
func (s *repoState) encode() string {
	if len(s.rev) != revLength {
		return ""
	}
	if s.data.IsZero() {
		return s.rev
	}
	return s.rev + string(s.data[len(s.data)-32:])
}

func decodeState(v string) (rev string, data atproto.CID) {
	if len(v) < revLength {
		return "", data
	}
	if digest := v[revLength:]; len(digest) == 32 {
		copy(data[:], "\x01\x71\x12\x20"+digest)
	}
	return v[:revLength], data
}

// StateRev returns the rev in a value of the Table, "" if there is none.
func StateRev(v string) string {
	rev, _ := decodeState(v)
	return rev
}

// shards of the memory, so that workers seldom wait for each other.
const shards = 32

// states finds the state of a repository: in memory, else in the Table. Memory
// holds two generations; when the newer one is full the older is forgotten.
type states struct {
	table  Table // nil: memory only
	relays int
	seed   maphash.Seed
	shard  [shards]stateShard
}

type stateShard struct {
	mu       sync.Mutex
	most     int
	cur, old map[string]*repoState
}

// newStates holds at most about the given number of repositories in memory.
func newStates(table Table, most, relays int) *states {
	s := &states{table: table, relays: relays, seed: maphash.MakeSeed()}
	for i := range s.shard {
		s.shard[i] = stateShard{most: max(most/shards/2, 16), cur: map[string]*repoState{}}
	}
	return s
}

// get returns the state of did, to be changed in place by the caller, who is
// the only one at work on it.
func (s *states) get(ctx context.Context, did string) (*repoState, error) {
	sh := &s.shard[maphash.String(s.seed, did)%shards]
	if st := sh.find(did); st != nil {
		return st, nil
	}
	st := &repoState{last: make([]string, s.relays)}
	if s.table != nil {
		found, err := s.table.Get(ctx, []string{did})
		if err != nil {
			return nil, fmt.Errorf("read state of a repository: %w", err)
		}
		st.rev, st.data = decodeState(found[0])
	}
	sh.keep(did, st)
	return st, nil
}

func (sh *stateShard) find(did string) *repoState {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st, ok := sh.cur[did]; ok {
		return st
	}
	st, ok := sh.old[did]
	if ok {
		sh.put(did, st)
	}
	return st
}

func (sh *stateShard) keep(did string, st *repoState) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.put(did, st)
}

func (sh *stateShard) put(did string, st *repoState) {
	if len(sh.cur) >= sh.most {
		sh.old, sh.cur = sh.cur, make(map[string]*repoState, sh.most)
	}
	sh.cur[strings.Clone(did)] = st
}

// pending are the entries of commits that are on their way to the stream, so
// that another relay's copy of a commit can bring it there as well. It is
// bounded by the slots in flight.
type pending struct {
	mu      sync.Mutex
	entries map[string]*entry
}

func newPending() *pending { return &pending{entries: map[string]*entry{}} }

func (p *pending) add(key string, e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[key] = e
}

// find returns nil when the entry is in the stream already, or never was to be.
func (p *pending) find(key string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.entries[key]
}

func (p *pending) remove(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.key != "" && p.entries[e.key] == e {
		delete(p.entries, e.key)
	}
}
