package repos

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/fault"
	"sluice/pkg/testkit"
)

// gate is a gate that the test opens and closes.
type gate struct {
	mu     sync.Mutex
	closed bool
	waits  int
}

func (g *gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		closed := g.closed
		g.waits++
		g.mu.Unlock()
		if !closed {
			return ctx.Err()
		}
		if err := fault.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
}

func many(a *author, from, n int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, a.next(int64(from+i)))
	}
	return out
}

// At the mark the batch in hand is kept, the socket is not read beyond the
// window, and the cursor stands.
func TestFullStreamHoldsEverything(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gate{closed: true}
	r.deps.Gate, r.cfg.Window, r.cfg.BatchSize = g, 32, 10
	r.relay(host, newSource(many(a, 1, 400)...))
	stop := r.start()
	require.Eventually(t, func() bool { return r.metric("ingester_events_in_memory") >= 32 }, 60*time.Second, time.Millisecond)
	require.Never(t, func() bool {
		return r.cursor(host) != "" || len(r.events()) > 0 || r.metric("ingester_firehose_events_total") > 32+40+2
	}, 150*time.Millisecond, 10*time.Millisecond)
	g.set(false)
	r.until(host, "400")
	require.Len(t, r.uris(), 400)
	stop()

	// A stop at the mark loses nothing either: it comes again.
	g.set(true)
	r.sources[host].add(many(a, 401, 50)...)
	r.cfg.Grace = 50 * time.Millisecond
	stop = r.start()
	require.Eventually(t, func() bool { return r.metric("ingester_events_in_memory") >= 10 }, 60*time.Second, time.Millisecond)
	stop()
	require.Equal(t, "400", r.cursor(host))
	g.set(false)
	r.start()
	r.until(host, "450")
	require.Len(t, r.uris(), 450)
	require.Empty(t, r.schedule.dids())
}

func TestStopWritesWhatWasRead(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	g := &gate{closed: true}
	r.deps.Gate = g
	r.relay(host, newSource(many(a, 1, 60)...))
	stop := r.start()
	require.Eventually(t, func() bool { return r.metric("ingester_firehose_events_total") == 60 }, 60*time.Second, time.Millisecond)
	g.set(false)
	stop()
	require.Equal(t, "60", r.cursor(host))
	require.Len(t, r.uris(), 60)
}

func TestRedisRestartedFullAndReadOnly(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRigAt(t, ks, server.URL, "x:")
	src := newSource(many(a, 1, 50)...)
	r.relay(host, src)
	r.start()
	r.until(host, "50")

	// Away: nothing is lost, nothing is written twice.
	server.Kill()
	src.add(many(a, 51, 200)...)
	server.Restart(t)
	r.until(host, "250")

	// Full: the appends wait.
	ctx := context.Background()
	set := func(name, value string) {
		require.Eventually(t, func() bool {
			return r.raw.Do(ctx, r.raw.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()).Error() == nil
		}, 60*time.Second, 10*time.Millisecond)
	}
	set("maxmemory", "1")
	src.add(many(a, 251, 50)...)
	require.Never(t, r.movedFrom(host, "250"), 200*time.Millisecond, 20*time.Millisecond)
	set("maxmemory", "0")
	r.until(host, "300")

	// Read-only, as after a failover.
	require.NoError(t, r.raw.Do(ctx, r.raw.B().Replicaof().Host("127.0.0.1").Port(1).Build()).Error())
	src.add(many(a, 301, 50)...)
	require.Never(t, r.movedFrom(host, "300"), 200*time.Millisecond, 20*time.Millisecond)
	require.NoError(t, r.raw.Do(ctx, r.raw.B().Replicaof().No().One().Build()).Error())
	r.until(host, "350")
	require.Len(t, r.uris(), 350)
	require.Empty(t, r.schedule.dids())
}

// A Redis that has lost its tail has an older cursor: what it lost is read
// again, whatever this process believes to have written.
func TestRedisThatLostItsTailIsFilledAgain(t *testing.T) {
	t.Parallel()
	ks := keys{}
	a := newAuthor(t, ks, "a")
	r := newRig(t, ks)
	src := newSource(many(a, 1, 30)...)
	r.relay(host, src)
	r.start()
	r.until(host, "30")
	ctx := context.Background()
	for _, e := range r.last(20) {
		require.NoError(t, r.raw.Do(ctx, r.raw.B().Xdel().Key(r.prefix+liveStream).Id(e).Build()).Error())
	}
	require.NoError(t, r.client.SetCursor(ctx, liveStream+":cursor:"+host, "10"))
	r.forgetStates()
	require.Len(t, r.uris(), 10)
	src.add(many(a, 31, 5)...)
	r.until(host, "35")
	require.Len(t, r.uris(), 35)
}

// last are the ids of the last entries.
func (r *rig) last(n int64) []string {
	entries, err := r.raw.Do(context.Background(), r.raw.B().Xrevrange().Key(r.prefix+liveStream).End("+").Start("-").Count(n).Build()).AsXRange()
	require.NoError(r.t, err)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func (r *rig) forgetStates() {
	ctx := context.Background()
	names, err := r.raw.Do(ctx, r.raw.B().Keys().Pattern(r.prefix+liveStream+":state:*").Build()).AsStrSlice()
	require.NoError(r.t, err)
	require.NotEmpty(r.t, names)
	require.NoError(r.t, r.raw.Do(ctx, r.raw.B().Del().Key(names...).Build()).Error())
}

func TestHotAccountHoldsNobody(t *testing.T) {
	t.Parallel()
	ks := &unreachable{keys: keys{}}
	hot, cold := newAuthor(t, ks.keys, "h"), newAuthor(t, ks.keys, "c")
	r := newRig(t, ks)
	r.cfg.Workers, r.cfg.Window = 4, 1000
	var frames [][]byte
	for i := range 300 {
		frames = append(frames, hot.next(int64(2*i+1)), cold.next(int64(2*i+2)))
	}
	r.relay(host, newSource(frames...))
	r.start()
	r.until(host, "600")
	// Each account's commits are in order.
	next := map[string]int{}
	for _, e := range r.events() {
		n, err := strconv.Atoi(e.RKey)
		require.NoError(t, err)
		next[e.DID]++
		require.Equal(t, next[e.DID], n)
	}
	require.Equal(t, map[string]int{hot.did: 300, cold.did: 300}, next)
}

func TestDispatcherKeepsOrderAndFreesOthers(t *testing.T) {
	t.Parallel()
	block := make(chan struct{})
	var mu sync.Mutex
	seen := map[string][]int64{}
	d := newDispatcher(3, func(ctx context.Context, s *slot) {
		if s.did == "hot" {
			select {
			case <-block:
			case <-ctx.Done():
				return
			}
		}
		mu.Lock()
		seen[s.did] = append(seen[s.did], s.seq)
		mu.Unlock()
		s.finish(outcome{})
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	var others, all []*slot
	for i := range 500 {
		did := "hot"
		if i%2 == 0 {
			did = "did" + strconv.Itoa(i%7)
		}
		s := &slot{did: did, seq: int64(i), done: make(chan struct{})}
		if did != "hot" {
			others = append(others, s)
		}
		all = append(all, s)
		d.submit(s)
	}
	for _, s := range others {
		<-s.done // although the hot DID is stuck
	}
	close(block)
	for _, s := range all {
		<-s.done
	}
	cancel()
	require.NoError(t, <-ended)
	for did, seqs := range seen {
		require.IsIncreasing(t, seqs, did)
	}
	require.Len(t, seen["hot"], 250)
	require.Empty(t, d.queues)
}

func TestCollections(t *testing.T) {
	t.Parallel()
	c, err := ParseCollections("app.bsky.*", "chat.bsky.actor.declaration", " com.germnetwork.declaration ", "")
	require.NoError(t, err)
	for nsid, want := range map[string]bool{
		"app.bsky.feed.post": true, "app.bsky.x": true, "app.bskyish.feed": false, "app.bsky": false,
		"chat.bsky.actor.declaration": true, "chat.bsky.actor.other": false, "com.germnetwork.declaration": true, "": false,
	} {
		require.Equal(t, want, c.Keep(nsid), nsid)
	}
	every, err := ParseCollections("*")
	require.NoError(t, err)
	require.True(t, every.Keep("anything.at.all"))
	for _, bad := range []string{"app.*.feed", "app.bsky*", ".", "a b", ".*", "app..x"} {
		_, err := ParseCollections(bad)
		require.Error(t, err, bad)
		require.Contains(t, err.Error(), strings.TrimSpace(bad))
	}
	_, err = ParseCollections()
	require.Error(t, err)
}
