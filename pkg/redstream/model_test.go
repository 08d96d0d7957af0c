package redstream_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// soak says whether the long forms run.
func soak() bool { return os.Getenv("SLUICE_SOAK") != "" }

// modelGroup is what a group is known to have done, by the account of the test.
type modelGroup struct {
	name    string
	at      int          // entries up to this number are delivered
	pending map[int]bool // delivered, not acknowledged, and not lost by an operator
	done    map[int]bool // acknowledged
	lost    map[int]bool // taken away by an operator: DELCONSUMER, SETID forward
	owner   map[int]string
}

// model drives one stream with plain commands, and our trim, and says after
// each trim which entries may be gone.
type model struct {
	*bench
	r       *rand.Rand
	seed    uint64
	next    int
	groups  []*modelGroup
	deleted map[int]bool // by an operator: XDEL, MAXLEN
	trims   int
	removed int
}

func TestTrimModel(t *testing.T) {
	t.Parallel()
	seeds, ops := 4, 250
	if soak() {
		seeds, ops = 60, 800
	}
	b := newBench(t)
	trims, removed := 0, 0
	for seed := range seeds {
		m := newModel(b, uint64(seed))
		for range ops {
			m.step()
		}
		m.drain()
		trims, removed = trims+m.trims, removed+m.removed
		b.must("DEL", b.key("s"))
	}
	if trims < seeds || removed < 10*seeds {
		t.Fatalf("only %d trims removed %d entries: the model proves nothing", trims, removed)
	}
	t.Logf("%d seeds, %d trims, %d entries removed", seeds, trims, removed)
}

func newModel(b *bench, seed uint64) *model {
	m := &model{bench: b, r: rand.New(rand.NewPCG(seed, 1)), seed: seed, next: 1, deleted: map[int]bool{}}
	for i := range 1 + m.r.IntN(3) {
		m.addGroup(fmt.Sprintf("g%d", i))
	}
	return m
}

func (m *model) addGroup(name string) {
	m.must("XGROUP", "CREATE", m.key("s"), name, "0", "MKSTREAM")
	m.groups = append(m.groups, &modelGroup{
		name: name, pending: map[int]bool{}, done: map[int]bool{}, lost: map[int]bool{}, owner: map[int]string{},
	})
}

// live lists the entries of the stream by number.
func (m *model) live() []int {
	list, err := m.redis("XRANGE", m.key("s"), "-", "+").AsXRangeSlices()
	if err != nil {
		m.t.Fatal(err)
	}
	ids := make([]int, len(list))
	for i, e := range list {
		if _, err := fmt.Sscanf(e.ID, "%d-0", &ids[i]); err != nil {
			m.t.Fatal(err)
		}
	}
	return ids
}

func (m *model) step() {
	g := m.groups[m.r.IntN(len(m.groups))]
	switch n := m.r.IntN(100); {
	case n < 25:
		for range 1 + m.r.IntN(20) {
			m.must("XADD", m.key("s"), id(m.next), "event", fmt.Sprint(m.next))
			m.next++
		}
	case n < 50:
		m.read(g, fmt.Sprintf("c%d", m.r.IntN(3)), 1+m.r.IntN(15))
	case n < 70:
		m.ack(g, 1+m.r.IntN(12))
	case n < 76:
		m.claim(g)
	case n < 94:
		m.trim()
	default:
		m.operator(g)
	}
}

func (m *model) read(g *modelGroup, consumer string, count int) {
	streams, err := m.redis("XREADGROUP", "GROUP", g.name, consumer, "COUNT", fmt.Sprint(count), "STREAMS", m.key("s"), ">").AsXReadSlices()
	if err != nil {
		return // nothing new
	}
	for _, e := range streams[m.key("s")] {
		var n int
		_, _ = fmt.Sscanf(e.ID, "%d-0", &n)
		g.pending[n], g.owner[n] = true, consumer
		delete(g.done, n)
		delete(g.lost, n)
		g.at = max(g.at, n)
	}
}

func (m *model) ack(g *modelGroup, count int) {
	ids := slices.Sorted(maps.Keys(g.pending))
	m.r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, n := range ids[:min(count, len(ids))] {
		m.must("XACK", m.key("s"), g.name, id(n))
		delete(g.pending, n)
		g.done[n] = true
	}
}

// claim moves what another consumer holds, as after a crash.
func (m *model) claim(g *modelGroup) {
	to := fmt.Sprintf("c%d", m.r.IntN(4))
	reply, err := m.redis("XAUTOCLAIM", m.key("s"), g.name, to, "0", "0-0", "COUNT", fmt.Sprint(1+m.r.IntN(8)), "JUSTID").ToArray()
	if err != nil {
		m.t.Fatal(err)
	}
	ids, _ := reply[1].AsStrSlice()
	for _, s := range ids {
		var n int
		_, _ = fmt.Sscanf(s, "%d-0", &n)
		g.owner[n] = to
	}
}

// operator does what people do to streams by hand.
func (m *model) operator(g *modelGroup) {
	live := m.live()
	switch m.r.IntN(6) {
	case 0:
		if len(live) > 0 {
			n := live[m.r.IntN(len(live))]
			m.must("XDEL", m.key("s"), id(n))
			m.deleted[n] = true
		}
	case 1:
		m.must("XTRIM", m.key("s"), "MAXLEN", "=", fmt.Sprint(max(len(live)-3, 0)))
		for _, n := range live[:min(3, len(live))] {
			m.deleted[n] = true
		}
	case 2:
		c := fmt.Sprintf("c%d", m.r.IntN(4))
		m.must("XGROUP", "DELCONSUMER", m.key("s"), g.name, c)
		for n := range g.pending {
			if g.owner[n] == c {
				delete(g.pending, n)
				g.lost[n] = true
			}
		}
	case 3:
		to := g.at + m.r.IntN(5)
		if m.r.IntN(2) == 0 {
			to = max(g.at-m.r.IntN(10), 0)
		}
		m.must("XGROUP", "SETID", m.key("s"), g.name, id(to))
		m.setID(g, to)
	case 4:
		if _, err := m.SweepPhantoms(m.t.Context(), "s", g.name); err != nil {
			m.t.Fatal(err)
		}
	case 5:
		if len(m.groups) < 4 && m.r.IntN(3) == 0 {
			m.addGroup(fmt.Sprintf("late%d", len(m.groups)))
		}
	}
}

// setID is what moving a group means: skipped entries are lost to it, entries
// behind the new position will be delivered again.
func (m *model) setID(g *modelGroup, to int) {
	for n := g.at + 1; n <= to; n++ {
		if !g.pending[n] {
			g.lost[n] = true
		}
	}
	for n := to + 1; n <= g.at; n++ {
		delete(g.done, n)
		delete(g.lost, n)
	}
	g.at = to
}

// needed says whether the group still needs entry n.
func (g *modelGroup) needed(n int) bool {
	if g.pending[n] {
		return true
	}
	return n > g.at && !g.lost[n]
}

// trim runs ours and checks every entry that went.
func (m *model) trim() {
	before := m.live()
	n, _, err := m.Trim(m.t.Context(), "s")
	if err != nil {
		m.t.Fatal(err)
	}
	after := m.live()
	left := map[int]bool{}
	for _, n := range after {
		left[n] = true
	}
	if int(n) != len(before)-len(after) {
		m.t.Fatalf("seed %d: trimmed %d of %d, %d are left", m.seed, n, len(before), len(after))
	}
	for _, n := range before {
		if left[n] {
			continue
		}
		for _, g := range m.groups {
			if g.needed(n) {
				m.t.Fatalf("seed %d: entry %d was removed while group %s needs it", m.seed, n, g.name)
			}
		}
	}
	m.trims++
	m.removed += int(n)
}

// drain finishes everything that every group still has and checks that the
// stream empties, phantoms or not.
func (m *model) drain() {
	for _, g := range m.groups {
		m.read(g, "c0", 1<<20)
		m.ack(g, len(g.pending))
	}
	m.trim()
	if n := m.length("s"); n != 0 {
		m.t.Fatalf("seed %d: %d entries are left when every group has finished", m.seed, n)
	}
}

// TestConsumersModel runs real consumers that crash, retry, park and are
// replaced, with a trimmer at work and an operator who makes phantoms; every
// entry must be handled that nobody deleted, and the stream must empty.
func TestConsumersModel(t *testing.T) {
	t.Parallel()
	seeds, n := 3, 1500
	if soak() {
		seeds, n = 40, 10000
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runConsumersModel(t, uint64(seed), n)
		})
	}
}

func runConsumersModel(t *testing.T, seed uint64, n int) {
	t.Helper()
	b := newBench(t)
	r := rand.New(rand.NewPCG(seed, 2))
	handled := map[string]*seen{"g1": newSeen(), "g2": newSeen()}
	tr := runTrimmer(t, b, "s", "g1", "g2")
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	members := map[string]*member{}
	born := 0
	spawn := func(group string) {
		born++
		cfg := redstream.ConsumerConfig{
			Streams: []string{"s"}, Group: group, Consumer: fmt.Sprintf("m%d", born), Batch: 50, Block: 20 * time.Millisecond,
			ClaimIdle: 200 * time.Millisecond, MaxDeliveries: 1000,
		}
		members[group] = join(t, b.Client, cfg, moody(handled[group], rand.New(rand.NewPCG(seed, uint64(born)))))
	}
	spawn("g1")
	spawn("g2")
	for at := 0; at < n; {
		k := min(1+r.IntN(100), n-at)
		if _, err := w.AppendSeq(t.Context(), "s:cursor:h", items(at, k), int64(at+k-1)); err != nil {
			t.Fatal(err)
		}
		at += k
		switch group := fmt.Sprintf("g%d", 1+r.IntN(2)); r.IntN(6) {
		case 0: // crash: what it held stays with a name that never comes back
			members[group].crash()
			spawn(group)
		case 1: // clean hand-over
			members[group].leave()
			spawn(group)
		}
	}
	defer func() {
		if t.Failed() {
			for group, s := range handled {
				st, err := b.Stats(context.Background(), "s")
				missing := s.missing(0, n)
				t.Logf("%s: %d missing %v; held by member %d; %+v %v", group, len(missing), missing[:min(5, len(missing))], members[group].Held(), st, err)
			}
		}
	}()
	for group, s := range handled {
		eventually(t, "group "+group+" handled all", 30*time.Second, func() bool { return len(s.missing(0, n)) == 0 })
		eventually(t, "group "+group+" acked all", 30*time.Second, func() bool { return b.pendingCount("s", group) == 0 })
	}
	eventually(t, "empty", 10*time.Second, func() bool { return b.length("s") == 0 })
	tr()
}
