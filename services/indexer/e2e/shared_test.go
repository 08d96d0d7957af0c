package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

// Two indexers take turns at a recorded network, a few entries each: what one
// repository says of another arrives in any order. The tables end the same, but
// for what was judged by something that is gone.
func TestNetworksShared(t *testing.T) {
	t.Parallel()
	names := []string{"block", "feed_view_post", "starter_packs"}
	if soak() {
		names = networks(t)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := loadNetwork(t, name)
			s := newSuite(t)
			srv := n.serve(t)
			cfg := s.config("one")
			cfg.ResolveDIDs, cfg.CheckAccounts = true, true
			cfg.PLCURL, cfg.HandleResolver, cfg.AllowPrivate = srv.URL, srv.URL, []string{"all"}
			cfg.BatchSize = 4
			one := s.start(cfg)
			cfg.Consumer = "two"
			two := s.start(cfg)
			mutes := s.mute(n)
			s.send("firehose_live", event.JSON, n.events...)
			s.wait(one)
			a, b := one.sum(t, "indexer_events_processed_total"), two.sum(t, "indexer_events_processed_total")
			require.Positive(t, a)
			require.Positive(t, b)
			checkTables(t, n, s, goneOf(n.events, mutes))
			t.Logf("%v events here, %v there", a, b)
		})
	}
}
