package app

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// Relays come and go while the network lives and the process runs, over real
// sockets: one by one all are replaced. Everything is there in the end.
func TestRelaysAreReplacedAtRunTime(t *testing.T) {
	t.Parallel()
	n := simnet.Start(t, simnet.Options{World: world.Options{Seed: 21, Accounts: 24, Records: 300, Labels: 20, BackfillShare: -1}, Relays: 3})
	name := filepath.Join(t.TempDir(), "relays")
	list := func(relays ...string) {
		require.NoError(t, os.WriteFile(name+".new", []byte(strings.Join(relays, "\n")), 0o600))
		require.NoError(t, os.Rename(name+".new", name))
	}
	first, _ := n.World.Seqs()
	env := maps.Clone(n.Env())
	env["INGESTER_MODE"], env["INGESTER_RELAY_FILE"], env["INGESTER_RELAY_OVERLAP_SECS"] = "firehose", name, "1"
	env["INGESTER_FIREHOSE_START"] = itoa(first - 1) // those that join begin live
	list(n.RelayHosts[0])
	r := newRig(t, env)
	r.start()

	ctx, quit := context.WithCancel(t.Context())
	var live errgroup.Group
	live.Go(func() error { return n.Live(ctx, 150, time.Hour) })
	settled := func(relays ...string) {
		require.Eventually(t, func() bool { return r.get("firehose_live:relays") == strings.Join(relays, ",") }, 60*time.Second, 10*time.Millisecond,
			"settled relays are not %s", relays)
	}
	settled(n.RelayHosts[0])
	list(n.RelayHosts[1])
	settled(n.RelayHosts[1])
	list(n.RelayHosts[1], n.RelayHosts[2])
	settled(n.RelayHosts[1], n.RelayHosts[2])
	list(n.RelayHosts[2])
	settled(n.RelayHosts[2])
	quit()
	require.NoError(t, live.Wait())

	_, last := n.World.Seqs()
	host := strings.TrimPrefix(n.RelayHosts[2], "ws://")
	require.Eventually(t, func() bool { return r.get("firehose_live:cursor:"+host) == itoa(last+2*relaySeqStep) }, 60*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return r.metric("ingester_websocket_connections") == 1 }, 60*time.Second, 10*time.Millisecond)
	require.Less(t, r.get("firehose_live:cursor:"+strings.TrimPrefix(n.RelayHosts[0], "ws://")), itoa(last), "the first relay is not followed any more")
	require.InDelta(t, 0, r.metric("sluice_ingester_gaps_total"), 0)
	require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total", "broken_chain"), 0)
	require.InDelta(t, 0, r.metric("sluice_ingester_noticed_total", "rev_back"), 0)
	r.agrees(n)
}
