package e2e_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// Both forms of the entries, and both at once, end in the same rows.
func TestBothEncodings(t *testing.T) {
	t.Parallel()
	checkNetwork(t, history(t), event.Protobuf)
}

// An entry that cannot be read is parked, and the rest of its batch is not
// touched by it.
func TestPoisonAmongGoodEntries(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	good := likes(499, 50)
	s.send("firehose_live", event.JSON, good[:250]...)
	s.append("firehose_live", []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: `{"type":"create","did":"nobody"}`}}}})
	s.send("firehose_live", event.JSON, good[250:]...)
	s.wait(s.start(s.config("one")))
	require.Len(t, s.rows("like")["like"], 499)
	letters, err := s.client.DeadLetters("firehose_live", "").List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.NotEmpty(t, letters[0].Reason)
	require.NotEmpty(t, letters[0].Error)
}

// A record that PostgreSQL cannot take, or that is against its lexicon, leaves
// the others alone.
func TestRefusedRecordsAmongGoodOnes(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	events := likes(100, 10)
	for i, record := range map[int]string{
		7:  `{"$type":"app.bsky.feed.like","subject":{"uri":"at://did:plc:x/app.bsky.feed.post/a","cid":"x"},"createdAt":"2026-01-01T00:00:00Z"}`,
		8:  `{"$type":"app.bsky.feed.like","createdAt":"2026-01-01T00:00:00Z"}`,
		9:  `{"$type":"app.bsky.feed.like","note":"a\u0000b","subject":{"uri":"at://did:plc:x/app.bsky.feed.post/a","cid":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"},"createdAt":"2026-01-01T00:00:00"}`,
		10: `{"$type":"app.bsky.feed.like","subject":{"uri":"at://did:plc:` + strings.Repeat("x", 2000) + `/app.bsky.feed.post/` + strings.Repeat("a", 512) + `","cid":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"},"createdAt":"not a time"}`,
	} {
		events[i].Record = []byte(record)
	}
	s.send("firehose_live", event.JSON, events...)
	in := s.start(s.config("one"))
	s.wait(in)
	require.Len(t, s.rows("like")["like"], 96)
	require.InDelta(t, 4, in.sum(t, "indexer_expected_errors_total"), 0)
	n, err := s.client.Len(t.Context(), "firehose_live_dlq")
	require.NoError(t, err)
	require.Zero(t, n)
}

// Two indexers share a stream, and the result is that of one.
func TestTwoIndexersShare(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	const total = 3000
	cfg := s.config("one")
	cfg.BatchSize = 50
	one := s.start(cfg)
	cfg.Consumer = "two"
	two := s.start(cfg)
	s.send("firehose_live", event.JSON, likes(total, 100)...)
	s.wait(one)
	require.Len(t, s.rows("like")["like"], total)
	a, b := one.sum(t, "indexer_events_processed_total"), two.sum(t, "indexer_events_processed_total")
	require.Positive(t, a)
	require.Positive(t, b)
	require.InDelta(t, total, a+b, 0)
	counts := map[string]float64{}
	for _, r := range s.rows("post_agg")["post_agg"] {
		counts[text(r, "uri")], _ = r["likeCount"].(float64)
	}
	require.Len(t, counts, 30)
	for uri, n := range counts {
		require.InDelta(t, 100, n, 0, uri)
	}
}

// PostgreSQL goes away in the middle and comes back: nothing is lost, nothing
// is parked, and the process has not stopped.
func TestPostgresRestart(t *testing.T) {
	t.Parallel()
	redisURL, prefix := testkit.Redis(t)
	server := testkit.StartPostgres(t)
	s := suiteOn(t, redisURL, prefix, server.URL, "bsky")
	cfg := s.config("one")
	cfg.BatchSize = 20
	in := s.start(cfg)
	const total = 2000
	events := likes(total, 100)
	s.send("firehose_live", event.JSON, events[:total/2]...)
	require.Eventually(t, func() bool { return in.sum(t, "indexer_events_processed_total") > 100 }, time.Minute, 5*time.Millisecond)
	server.Kill()
	s.send("firehose_live", event.JSON, events[total/2:]...)
	require.Eventually(t, func() bool { return in.sum(t, "sluice_index_retries_total") > 3 }, time.Minute, 10*time.Millisecond)
	require.Error(t, in.app.Ready(t.Context()))
	require.NoError(t, server.Start())
	s.wait(in)
	require.Len(t, s.rows("like")["like"], total)
	n, err := s.client.Len(t.Context(), "firehose_live_dlq")
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, in.app.Ready(t.Context()))
}

// A large backfill does not hold up live events.
func TestLiveBesideBackfill(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	const backlog = 20000
	old := likes(backlog, 500)
	for i := range old {
		old[i].Seq = event.SeqBackfill
	}
	s.send("firehose_backfill", event.JSON, old...)
	in := s.start(s.config("one"))
	require.Eventually(t, func() bool { return in.sum(t, "indexer_events_processed_total") > 1000 }, time.Minute, 5*time.Millisecond)
	var waits []time.Duration
	live := likes(20, 20)
	for i := range live {
		live[i].DID = fmt.Sprintf("did:plc:live%020d", i)
		live[i].Time = time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
		begun := time.Now()
		s.send("firehose_live", event.JSON, live[i])
		require.Eventually(t, func() bool { return s.passed("firehose_live") }, time.Minute, time.Millisecond)
		waits = append(waits, time.Since(begun))
	}
	behind, err := s.client.Stats(t.Context(), "firehose_backfill", "firehose_group")
	require.NoError(t, err)
	require.Positive(t, behind.Lag+behind.Pending, "the backfill was over too early to prove anything")
	slices.Sort(waits)
	t.Logf("live latency beside %d backfilled events: median %s, most %s; still %d behind", backlog, waits[len(waits)/2], waits[len(waits)-1], behind.Lag+behind.Pending)
	require.Less(t, waits[len(waits)/2], 2*time.Second)
}

// After a repeated fetch, what the repository no longer has is gone, and what
// came in on the live stream meanwhile is not.
func TestSnapshotSweeps(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	events := likes(6, 1)
	in := s.start(s.config("one"))
	s.send("firehose_live", event.JSON, events[:4]...)
	s.wait(in)
	require.Len(t, s.rows("like")["like"], 4)
	// The fetch has the first two only; the sixth comes in after it.
	fetch := slices.Clone(events[:2])
	for i := range fetch {
		fetch[i].Seq, fetch[i].Rev = event.SeqBackfill, events[4].Rev
	}
	end := event.Event{
		Type: event.Repo, Seq: event.SeqBackfill, Time: events[4].Time, DID: events[4].DID, Commit: events[4].Commit,
		Rev: events[4].Rev, Snapshot: true, Count: 2,
	}
	s.send("firehose_live", event.JSON, events[5])
	s.send("firehose_backfill", event.JSON, append(fetch, end)...)
	s.wait(in)
	var left []string
	for _, r := range s.rows("like")["like"] {
		left = append(left, text(r, "uri"))
	}
	slices.Sort(left)
	require.Equal(t, []string{events[0].URI(), events[1].URI(), events[5].URI()}, left)
	require.InDelta(t, 1, in.sum(t, "sluice_index_sweeps_total"), 0)
}

// An account that is said to be deleted goes only if its server does not have
// it any more.
func TestDeletedAccountIsChecked(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	events := likes(4, 2)
	gone, moved := events[0].DID, events[1].DID
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch did := strings.TrimPrefix(r.URL.Path, "/"); {
		case r.URL.Path == "/xrpc/com.atproto.sync.getLatestCommit" && r.FormValue("did") == gone:
			answer(w, http.StatusBadRequest, map[string]string{"error": "RepoNotFound"})
		case r.URL.Path == "/xrpc/com.atproto.sync.getLatestCommit":
			answer(w, http.StatusOK, map[string]string{"cid": "x", "rev": "y"})
		case r.URL.Path == "/xrpc/com.atproto.sync.getRepoStatus":
			answer(w, http.StatusOK, map[string]any{"did": r.FormValue("did"), "active": r.FormValue("did") == moved, "status": "deactivated"})
		default:
			answer(w, http.StatusOK, map[string]any{
				"id": did, "alsoKnownAs": []string{"at://" + strings.TrimPrefix(did, "did:plc:") + ".test"},
				"verificationMethod": []map[string]string{{
					"id": "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF",
				}},
				"service": []map[string]string{{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": srv.URL}},
			})
		}
	}))
	t.Cleanup(srv.Close)
	cfg := s.config("one")
	cfg.ResolveDIDs, cfg.CheckAccounts, cfg.PLCURL, cfg.HandleResolver = true, true, srv.URL, srv.URL
	cfg.AllowPrivate = []string{"all"}
	in := s.start(cfg)
	at := "2026-01-02T00:00:00.000Z"
	s.send("firehose_live", event.JSON, events...)
	s.wait(in)
	s.send("firehose_live", event.JSON,
		event.Event{Type: event.Account, Seq: 10, Time: at, DID: moved, Status: "deactivated"},
		event.Event{Type: event.Account, Seq: 11, Time: at, DID: gone, Status: "deactivated"})
	s.wait(in)
	status := map[string]any{}
	for _, r := range s.rows("actor")["actor"] {
		status[text(r, "did")] = r["upstreamStatus"]
	}
	require.Equal(t, map[string]any{moved: nil, gone: "deactivated"}, status)
	s.send("firehose_live", event.JSON,
		event.Event{Type: event.Account, Seq: 12, Time: at, DID: moved, Status: "deleted"},
		event.Event{Type: event.Account, Seq: 13, Time: at, DID: gone, Status: "deleted"})
	s.wait(in)
	require.Len(t, s.rows("like")["like"], 2)
	require.Len(t, s.rows("actor")["actor"], 1)
}

func TestLabels(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	in := s.start(s.config("one"))
	one := event.Label{Src: "did:plc:" + strings.Repeat("m", 24), URI: "did:plc:" + strings.Repeat("a", 24), Val: "spam", CTS: "2026-01-01T00:00:00.000Z"}
	gone := one
	gone.Neg, gone.CTS = true, "2026-01-01T00:00:01.000Z"
	other := one
	other.Val, other.Exp = "rude", "2027-01-01T00:00:00.000Z"
	var items []redstream.Item
	for i, l := range []event.Label{gone, one, other, one} {
		enc := event.JSON
		if i%2 == 1 {
			enc = event.Protobuf
		}
		name, value, err := enc.Label(&event.LabelEvent{Seq: int64(i + 1), Host: "mod.test", Label: l})
		require.NoError(t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
	}
	s.append("label_live", items)
	s.wait(in)
	got := map[string]row{}
	for _, r := range s.rows("label")["label"] {
		got[text(r, "val")] = r
	}
	require.Len(t, got, 2)
	require.Equal(t, true, got["spam"]["neg"])
	require.Equal(t, "2027-01-01T00:00:00.000Z", got["rude"]["exp"])
}

// Every metric that dashboards know is there from the start, and moves.
func TestEveryMetricMoves(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	in := s.start(s.config("one"))
	names := []string{
		"indexer_events_processed_total", "indexer_create_events_total", "indexer_update_events_total", "indexer_delete_events_total",
		"indexer_repo_events_total", "indexer_account_events_total", "indexer_identity_events_total", "indexer_db_writes_total",
		"indexer_errors_total", "indexer_expected_errors_total", "indexer_post_events_total", "indexer_like_events_total",
		"indexer_repost_events_total", "indexer_follow_events_total", "indexer_block_events_total", "indexer_profile_events_total",
		"indexer_labels_processed_total", "indexer_labels_added_total", "indexer_labels_removed_total",
		"sluice_index_batch_entries", "sluice_index_commit_seconds", "sluice_event_lag_seconds", "sluice_event_age_seconds",
		"sluice_index_parked_total", "sluice_store_changes_total",
	}
	for _, name := range append(names, "indexer_unexpected_errors_total", "indexer_pending_messages", "indexer_active_tasks", "indexer_ack_failures_total") {
		require.Contains(t, in.families(t), name)
	}
	for _, name := range names {
		require.Zero(t, in.sum(t, name), name)
	}
	n := history(t)
	s.send("firehose_live", event.JSON, n.events...)
	s.append("firehose_live", []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: "{}"}}}})
	label := event.Label{Src: n.events[0].DID, URI: n.events[0].DID, Val: "a", CTS: "2026-01-01T00:00:00.000Z"}
	negation := label
	negation.Val, negation.Neg = "b", true
	var items []redstream.Item
	for _, l := range []event.Label{label, negation} {
		name, value, err := event.JSON.Label(&event.LabelEvent{Seq: 1, Host: "x", Label: l})
		require.NoError(t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
	}
	s.append("label_live", items)
	s.wait(in)
	for _, name := range names {
		require.Positive(t, in.sum(t, name), name)
	}
}

// families gathers the metrics by name.
func (in *instance) families(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	list, err := in.registry.Gather()
	require.NoError(t, err)
	out := map[string]*dto.MetricFamily{}
	for _, f := range list {
		out[f.GetName()] = f
	}
	return out
}

// sum adds up all the series of a metric; of a histogram, its observations.
func (in *instance) sum(t *testing.T, name string) (v float64) {
	t.Helper()
	f := in.families(t)[name]
	for _, m := range f.GetMetric() {
		v += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return v
}

func TestWaitRefusesNonsense(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	in := s.start(s.config("one"))
	for query, want := range map[string]int{
		"timeout=soon": http.StatusBadRequest, "firehose_live=x": http.StatusBadRequest, "other=1-0": http.StatusBadRequest,
		"firehose_live=99999999999999-0&timeout=100ms": http.StatusGatewayTimeout,
	} {
		w := httptest.NewRecorder()
		in.mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/wait?"+query, nil))
		require.Equal(t, want, w.Code, query)
	}
	off := s.config("two")
	off.DebugWait = false
	w := httptest.NewRecorder()
	s.start(off).mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/wait", nil))
	require.Equal(t, http.StatusNotFound, w.Code)
}

// Modes read what they say.
func TestModes(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string][]string{
		"stream": {"firehose_backfill", "firehose_live"}, "label": {"label_live"}, "all": {"firehose_backfill", "firehose_live", "label_live"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t)
			cfg := s.config("one")
			cfg.Mode = mode
			s.start(cfg)
			got := map[string]bool{}
			require.Eventually(t, func() bool {
				for _, name := range []string{"firehose_live", "firehose_backfill", "label_live"} {
					if st, err := s.client.Stats(t.Context(), name); err == nil && len(st.Groups) > 0 {
						got[name] = true
					}
				}
				return len(got) >= len(want)
			}, 60*time.Second, 10*time.Millisecond)
			require.Equal(t, want, slices.Sorted(maps.Keys(got)))
		})
	}
}
