package e2e_test

import (
	"maps"
	"slices"
	"testing"

	"sluice/pkg/event"
)

// Each recorded network, from its frames to its tables.
func TestRecordedNetworks(t *testing.T) {
	t.Parallel()
	for _, name := range networks(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkNetwork(t, loadNetwork(t, name), event.JSON)
		})
	}
}

func checkNetwork(t *testing.T, n *network, enc event.Encoding) {
	t.Helper()
	s := newSuite(t)
	srv := n.serve(t)
	cfg := s.config("one")
	cfg.ResolveDIDs, cfg.CheckAccounts = true, true
	cfg.PLCURL, cfg.HandleResolver, cfg.AllowPrivate = srv.URL, srv.URL, []string{"all"}
	in := s.start(cfg)
	s.mute(n)
	s.send("firehose_live", enc, n.events...)
	s.wait(in)
	checkTables(t, n, s, nil)
}

// mute writes the threads that were muted before the network's first frame.
func (s *suite) mute(n *network) []row {
	s.t.Helper()
	rows := readRows(s.t, n.dir+"/before/thread_mute.jsonl")
	for _, r := range rows {
		s.exec("INSERT INTO "+s.table("thread_mute")+` ("rootUri", "mutedByDid", "createdAt") VALUES ($1, $2, $3)`,
			r["rootUri"], r["mutedByDid"], r["createdAt"])
	}
	return rows
}

// checkTables compares the tables with those of the network. Where the events
// have come in another order, late has what may differ by that.
func checkTables(t *testing.T, n *network, s *suite, late *gone) {
	t.Helper()
	want := expectedTables(t, n.dir+"/expected")
	got := s.rows(slices.Collect(maps.Keys(want))...)
	differences := compare(want, got)
	x := newExplainer(n, got, differences)
	reasons, lateOnes := map[string]int{}, 0
	for _, d := range differences {
		name := x.why(d)
		if name == "" && late != nil {
			if name = late.why(x, d); name != "" {
				lateOnes++
			}
		}
		if name == "" {
			t.Errorf("not intended: %s", d)
		}
		reasons[name]++
	}
	if len(n.meta.Oddities) == 0 && len(x.lost) == 0 && len(differences) > lateOnes {
		t.Errorf("%d differences where there may be none: %v", len(differences), reasons)
	}
	t.Logf("%d rows, differences: %v", total(got), reasons)
}

func total(tables map[string][]row) (n int) {
	for _, rows := range tables {
		n += len(rows)
	}
	return n
}
