package app

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/fault"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// outage is how long Redis is away in a test: SLUICE_OUTAGE, such as 10m.
func outage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SLUICE_OUTAGE")
	if text == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// trouble is a way in which Redis takes nothing. It returns how it ends.
type trouble struct {
	name  string
	begin func(t *testing.T, r *rig, s *testkit.RedisServer) (end func())
	// standing: the cursor can be read meanwhile.
	standing bool
}

func troubles() []trouble {
	return []trouble{
		{name: "away", begin: func(t *testing.T, _ *rig, s *testkit.RedisServer) func() {
			t.Helper()
			s.Kill()
			return func() { s.Restart(t) }
		}},
		{name: "full", standing: true, begin: func(t *testing.T, r *rig, _ *testkit.RedisServer) func() {
			t.Helper()
			r.configure("maxmemory", "1")
			return func() { r.configure("maxmemory", "0") }
		}},
		{name: "read only", standing: true, begin: func(t *testing.T, r *rig, _ *testkit.RedisServer) func() {
			t.Helper()
			ctx := context.Background()
			require.NoError(t, r.raw.Do(ctx, r.raw.B().Replicaof().Host("127.0.0.1").Port(1).Build()).Error())
			return func() {
				require.NoError(t, r.raw.Do(ctx, r.raw.B().Replicaof().No().One().Build()).Error())
			}
		}},
	}
}

func (r *rig) configure(name, value string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		return r.raw.Do(context.Background(), r.raw.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()).Error() == nil
	}, 60*time.Second, 10*time.Millisecond)
}

// Redis takes nothing for a while, in the middle of a stream that is read as
// fast as it comes: the batch in hand is kept, the socket is not read, so that
// the relay ends the connection, memory stays bounded, and in the end
// everything is there once.
func TestRedisThatTakesNothing(t *testing.T) {
	t.Parallel()
	for _, tr := range troubles() {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			// The relay has more than the sockets between it and the ingester hold.
			server := testkit.StartRedis(t, "--appendonly", "yes")
			n := simnet.Start(t, simnet.Options{
				World:        world.Options{Seed: 5, Accounts: 24, Records: 5000, Labels: 20, NoAccountEvents: true, NoSync: true, BackfillShare: -1},
				SlowConsumer: 2 * time.Second,
			})
			r := newRigAt(t, server.URL, "x:", n.Env())
			r.env["INGESTER_MODE"], r.env["INGESTER_BATCH_SIZE"], r.env["INGESTER_WINDOW"] = "firehose", "40", "100"
			r.env["INGESTER_HIGH_WATER_MARK"] = "100000000"
			r.start()
			require.Eventually(t, func() bool { return r.metric("ingester_stream_events_total") > 0 }, 60*time.Second, time.Millisecond)
			r.hold(n, server, tr)
			r.caughtUp(n)
			r.agrees(n)
			require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total", "rev_back")+r.metric("sluice_ingester_noticed_total", "fork"), 0)
			r.onlyOnce()
			require.Eventually(t, func() bool { return r.metric("ingester_backpressure_active") == 0 }, 60*time.Second, 5*time.Millisecond)
		})
	}
}

// hold lets the trouble last, and checks what must hold meanwhile.
func (r *rig) hold(n *simnet.Network, server *testkit.RedisServer, tr trouble) {
	t := r.t
	host := n.RelayHost[len("ws://"):]
	end := tr.begin(t, r, server)
	began := time.Now()
	require.Eventually(t, func() bool { return r.metric("ingester_backpressure_active") == 1 }, 60*time.Second, 5*time.Millisecond)
	stood := r.metric("sluice_ingester_saved_seq")
	seconds := r.metric("sluice_ingester_backpressure_seconds_total")
	heap := heapInUse()
	for deadline := time.Now().Add(outage(t)); time.Now().Before(deadline); {
		require.InDelta(t, 1, r.metric("ingester_backpressure_active"), 0)
		require.LessOrEqual(t, r.metric("ingester_events_in_memory"), 400.0)
		require.InDelta(t, stood, r.metric("sluice_ingester_saved_seq"), 0, "the cursor stands")
		if tr.standing {
			require.Equal(t, itoa(int64(stood)), r.get("firehose_live:cursor:"+host))
		}
		if os.Getenv("SLUICE_OUTAGE") != "" {
			require.Less(t, heapInUse(), heap+(64<<20))
		}
		require.NoError(t, fault.Sleep(t.Context(), outage(t)/60))
	}
	require.Eventually(t, func() bool { return n.Faults.Fired("slow_consumer") > 0 }, 60*time.Second, 10*time.Millisecond,
		"the relay ends the connection of a reader that does not read")
	waited := r.metric("sluice_ingester_backpressure_seconds_total") - seconds
	require.Greater(t, waited, outage(t).Seconds()/2)
	t.Logf("%s for %s: cursor at %d, %.0f frames in memory, %.1f s of back-pressure counted, heap %d MiB before and %d MiB at the end, %d connections ended by the relay",
		tr.name, time.Since(began).Round(time.Second), int64(stood), r.metric("ingester_events_in_memory"), waited, heap>>20, heapInUse()>>20,
		n.Faults.Fired("slow_consumer"))
	end()
}

// heapInUse is what is live in this process, the simulated network and other
// tests included: a bound on it means something only where this test is alone.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// onlyOnce checks that nothing is in the stream twice.
func (r *rig) onlyOnce() {
	r.t.Helper()
	seen := map[string]bool{}
	events := r.events()
	for i := range events {
		e := &events[i]
		id := string(e.Type) + itoa(e.Seq) + e.Collection + e.RKey
		require.False(r.t, seen[id], "%s is written twice", id)
		seen[id] = true
	}
}

// Redis falls back to what it had a while ago, as a replica that lags does in a
// failover and a server without its last second of AOF: entries, cursors and the
// states of repositories go back together, and what is missing is read again.
func TestRedisThatFallsBack(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t)
	n := simnet.Start(t, simnet.Options{
		World: world.Options{Seed: 6, Accounts: 24, Records: 1800, Labels: 20, NoAccountEvents: true, NoSync: true, BackfillShare: -1},
	})
	r := newRigAt(t, server.URL, "x:", n.Env())
	r.env["INGESTER_BATCH_SIZE"], r.env["INGESTER_WINDOW"] = "40", "100"
	r.env["INGESTER_HIGH_WATER_MARK"] = "100000000"
	r.start()
	written := func() float64 { return r.metric("ingester_stream_events_total") }
	require.Eventually(t, func() bool { return written() > 100 }, 60*time.Second, time.Millisecond)
	require.NoError(t, r.raw.Do(t.Context(), r.raw.B().Save().Build()).Error())
	kept := written()
	require.Eventually(t, func() bool { return written() > kept+500 }, 60*time.Second, time.Millisecond)
	server.Kill()
	server.Restart(t)
	r.caughtUp(n)
	r.agrees(n)
	r.onlyOnce()
	total := written()
	require.Greater(t, total, float64(len(r.events())), "some was written before and after")
}
