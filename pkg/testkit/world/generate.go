package world

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
)

const timeLayout = "2006-01-02T15:04:05.000Z"

// generator plans what happens, one commit or event at a time, and tells the
// tables. It makes no tree and signs nothing: builders do that, side by side
// for different accounts, from the queue of each account.
type generator struct {
	opts     Options
	rng      *rand.Rand
	accounts []*Account
	active   []*Account // may act in the current phase
	acting   *rand.Zipf // index into the first settled of active
	settled  int
	famous   *rand.Zipf // index into fame
	fame     []*Account // by popularity
	tables   *tables
	stats    map[string]int

	live    bool
	seq     int64
	micros  int64 // time of the current event
	step    int64 // micros between events
	clock   func() time.Time
	current *job // the commit being put together
	blobs   []cid.Cid
	queue   []*job
	posts   []*Record // recent posts, for looking around
	// lastRepost is the newest repost of a post, living or not.
	lastRepost map[string]*Record
}

// job is one commit or event to be built.
type job struct {
	account *Account
	seq     int64
	time    string
	rev     string
	kind    Kind
	writes  []repo.Write
	records []*Record
	// silent: the commit is not announced.
	silent bool
	// state of an #identity or #account.
	handle string
	active bool
	status string
}

func newGenerator(o Options) (*generator, error) {
	g := &generator{
		opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x51)), tables: newTables(), stats: map[string]int{},
		seq: o.FirstSeq, lastRepost: map[string]*Record{},
	}
	hostile := o.Accounts - len(o.Hostile)
	for i := range o.Accounts {
		a, err := newAccount(o, i)
		if err != nil {
			return nil, err
		}
		if i >= hostile {
			a.Hostile = o.Hostile[i-hostile]
			a.state.Quiet, a.state.Resolves = true, true
		}
		g.accounts = append(g.accounts, a)
	}
	g.cast(hostile)
	return g, nil
}

// cast decides who is born live and who stays quiet. The first accounts are
// neither: they hold the roles that the kinds need.
func (g *generator) cast(ordinary int) {
	free := ordinary - 8
	born := int(float64(ordinary) * g.opts.BornShare)
	quiet := int(float64(ordinary) * g.opts.BackfillShare)
	if born+quiet > free {
		born, quiet = free*born/(born+quiet), free*quiet/(born+quiet)
	}
	for n, i := range g.rng.Perm(free) {
		a := g.accounts[8+i]
		a.state.Born = n < born
		a.state.Quiet = !a.state.Born && n < born+quiet
	}
	for _, i := range g.rng.Perm(ordinary) {
		g.fame = append(g.fame, g.accounts[i])
	}
	g.famous = rand.NewZipf(g.rng, 1.15, 2, uint64(len(g.fame)-1))
}

// enter makes the accounts of a phase the active ones.
func (g *generator) enter(live bool, start time.Time, span time.Duration, events int) {
	g.live = live
	g.active = g.active[:0]
	for _, a := range g.accounts {
		if a.Hostile == "" && a.state.Status == "" && a.plan.alive && (!live || !a.state.Quiet) {
			g.active = append(g.active, a)
		}
	}
	if len(g.active) > 0 {
		g.acting = rand.NewZipf(g.rng, 1.05, 10, uint64(len(g.active)-1))
		g.settled = len(g.active)
	}
	g.micros = max(g.micros, start.UnixMicro())
	g.step = max(1, span.Microseconds()/int64(events+1))
}

// tick moves time on; every event has a moment of its own.
func (g *generator) tick() string {
	if g.clock != nil {
		g.micros = max(g.micros+1, g.clock().UnixMicro())
	} else {
		g.micros += g.step
	}
	return time.UnixMicro(g.micros).UTC().Format(timeLayout)
}

func (g *generator) nextSeq() int64 {
	if !g.live {
		return 0
	}
	seq := g.seq
	g.seq++
	if g.rng.IntN(200) == 0 {
		g.seq += int64(1 + g.rng.IntN(4)) // as relays do: numbers that were never used
	}
	return seq
}

// tid is a record key of now. Each is used once.
func (g *generator) tid() string {
	if g.clock == nil && g.step > 8 {
		g.micros++
	}
	g.stats["tid"]++
	return syntax.NewTID(g.micros, uint(g.stats["tid"]%1024)).String()
}

// begin opens a commit of a.
func (g *generator) begin(a *Account) {
	at := g.tick()
	g.current = &job{account: a, time: at, kind: Commit}
}

// created is the createdAt of a record made now: mostly the time of the event,
// in the forms that clients write.
func (g *generator) created() string {
	t := time.UnixMicro(g.micros).UTC()
	switch g.rng.IntN(20) {
	case 0:
		return t.In(time.FixedZone("", 2*3600)).Format("2006-01-02T15:04:05.000-07:00")
	case 1:
		return t.Format("2006-01-02T15:04:05Z")
	case 2:
		return t.Format("2006-01-02T15:04:05.000000Z")
	case 3:
		return t.AddDate(0, -g.rng.IntN(30), 0).Format(timeLayout)
	}
	return t.Format(timeLayout)
}

// create adds a record to the open commit.
func (g *generator) create(collection, rkey string, value repo.Map, f facts) *Record {
	return g.put(repo.Create, collection, rkey, value, f)
}

func (g *generator) put(action repo.Action, collection, rkey string, value repo.Map, f facts) *Record {
	j := g.current
	if _, typed := value["$type"]; !typed {
		value["$type"] = collection
	}
	block := repo.MustEncode(value)
	r := &Record{
		Account: j.account, Collection: collection, RKey: rkey,
		URI: "at://" + j.account.DID + "/" + collection + "/" + rkey,
		CID: repo.CID(block), CBOR: block, Time: j.time, facts: f, blobs: g.blobs,
	}
	g.blobs = nil
	j.writes = append(j.writes, repo.Write{
		Action: action, Path: r.Path(), Record: block, CID: r.CID, Blobs: r.blobs,
	})
	j.records = append(j.records, r)
	g.stats[string(action)+" "+collection]++
	return r
}

// update replaces old in the open commit, unless it would stay the same.
func (g *generator) update(old *Record, value repo.Map, f facts) {
	value["$type"] = old.Collection
	if repo.CID(repo.MustEncode(value)) == old.CID {
		g.blobs = nil
		return
	}
	g.put(repo.Update, old.Collection, old.RKey, value, f)
}

// remove deletes a record in the open commit.
func (g *generator) remove(r *Record) {
	g.current.writes = append(g.current.writes, repo.Write{Action: repo.Delete, Path: r.Path()})
	g.current.records = append(g.current.records, r)
	g.stats["delete "+r.Collection]++
}

// commit closes the open commit: the tables learn of it and it is queued.
func (g *generator) commit() *job {
	j := g.current
	g.current = nil
	if j == nil || len(j.writes) == 0 {
		return nil
	}
	j.rev = syntax.NewTID(g.micros, uint(j.account.Index%1024)).String()
	if !j.silent {
		j.seq = g.nextSeq()
		j.account.state.Seq = j.seq
	}
	for i, r := range j.records {
		w := &j.writes[i]
		if w.Action == repo.Delete {
			g.tables.delete(r)
			g.forget(r)
			continue
		}
		r.Rev, r.Seq = j.rev, j.seq
		if w.Action == repo.Update {
			g.forget(g.tables.records[r.URI])
		}
		g.tables.put(r)
		g.remember(r)
	}
	g.enqueue(j)
	return j
}

func (g *generator) enqueue(j *job) {
	g.queue = append(g.queue, j)
	g.stats["frame "+j.kind.String()]++
}

// event queues an #identity, #account or #sync of a.
func (g *generator) event(a *Account, kind Kind) *job {
	j := &job{account: a, kind: kind, time: g.tick()}
	if kind == Sync {
		j.rev = syntax.NewTID(g.micros, uint(a.Index%1024)).String()
	}
	j.handle, j.active, j.status = a.state.Handle, a.state.Active(), a.state.Status
	j.seq = g.nextSeq()
	a.state.Seq = j.seq
	g.enqueue(j)
	return j
}

// drain hands out what was queued.
func (g *generator) drain() []*job {
	out := g.queue
	g.queue = nil
	return out
}

// actor picks who does the next thing: a few do most, newcomers their part.
func (g *generator) actor() *Account {
	for {
		a := g.active[g.acting.Uint64()]
		if i := g.rng.IntN(len(g.active)); i >= g.settled {
			a = g.active[i]
		}
		if a.plan.alive && a.state.Status == "" {
			return a
		}
	}
}

// celebrity picks an account as likes and follows do: a few take most. The
// result may be any living account but not.
func (g *generator) celebrity(not *Account) *Account {
	for range 64 {
		a := g.fame[g.famous.Uint64()]
		if a != not && a.plan.alive && a.state.Status == "" {
			return a
		}
	}
	for _, a := range g.fame {
		if a != not && a.plan.alive && a.state.Status == "" {
			return a
		}
	}
	return not
}

// subject picks a living post of a popular account; nil if none is found.
func (g *generator) subject() *Record {
	for range 12 {
		a := g.celebrity(nil)
		if n := len(a.plan.posts); n > 0 {
			if g.rng.IntN(2) == 0 {
				return a.plan.posts[g.rng.IntN(min(n, 3))]
			}
			return a.plan.posts[g.rng.IntN(n)]
		}
	}
	for _, v := range slices.Backward(g.posts) {
		if g.tables.records[v.URI] == v {
			return v
		}
	}
	return nil
}

func (g *generator) String() string { return fmt.Sprintf("generator of seed %d", g.opts.Seed) }
