package app

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// contract are the names that the dashboards of the system before this one use.
var contract = []string{
	"ingester_firehose_events_total", "ingester_firehose_create_events_total", "ingester_firehose_update_events_total",
	"ingester_firehose_delete_events_total", "ingester_firehose_filtered_operations_total", "ingester_stream_events_total",
	"ingester_errors_total", "ingester_firehose_live_length", "ingester_firehose_backfill_length", "ingester_label_live_length",
	"ingester_repo_backfill_length", "ingester_backpressure_active", "ingester_websocket_connections", "ingester_events_in_memory",
	"ingester_labeler_events_total", "ingester_labels_written_total", "ingester_backfill_repos_fetched_total",
	"ingester_backfill_repos_written_total", "ingester_backfill_fetch_errors_total", "ingester_backfill_cursor_skips_total",
	"ingester_backfill_complete",
}

func TestMetricsAreThereFromTheFirstScrapeInEveryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{modeAll, modeFirehose, modeBackfill, modeLabeler} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, map[string]string{"INGESTER_MODE": mode, "INGESTER_RELAY_HOSTS": "ws://127.0.0.1:9", "INGESTER_LABELER_HOSTS": "ws://127.0.0.1:9"})
			stop := r.start()
			for _, name := range append(contract, "sluice_event_lag_seconds", "sluice_ingester_backpressure_seconds_total", "sluice_ingester_drops_total") {
				r.metric(name)
			}
			// The lengths are refreshed although nothing is connected.
			ctx := context.Background()
			for _, stream := range []string{"firehose_live", "firehose_backfill", "repo_backfill", "label_live"} {
				require.NoError(t, r.raw.Do(ctx, r.raw.B().Xadd().Key(r.prefix+stream).Id("*").FieldValue().FieldValue("event", "{}").Build()).Error())
			}
			stop()
			r.start()
			for _, stream := range []string{"firehose_live", "firehose_backfill", "repo_backfill", "label_live"} {
				require.Eventually(t, func() bool { return r.metric("ingester_"+stream+"_length") == 1 }, 60*time.Second, 20*time.Millisecond, stream)
			}
		})
	}
}

// Every metric of the contract moves in a run that has something of everything.
func TestEveryMetricMoves(t *testing.T) {
	t.Parallel()
	n := simnet.Start(t, simnet.Options{
		World:  world.Options{Seed: 21, Accounts: 24, Records: 900, Labels: 60},
		Faults: "garbage=2/50,list_5xx=1/1", Rate: 400,
	})
	env := maps.Clone(n.Env())
	env["INGESTER_FIREHOSE_STREAM_HIGH_WATER_MARK"] = "200"
	r := newRig(t, env)
	r.start()
	ctx := context.Background()
	require.NoError(t, r.raw.Do(ctx, r.raw.B().Xadd().Key(r.prefix+"firehose_backfill").Id("*").FieldValue().FieldValue("event", "{}").Build()).Error())
	var mu sync.Mutex // a look may still be under way when the next begins
	moved := map[string]bool{}
	watch := func() {
		for _, name := range contract {
			if r.metric(name) > 0 {
				mu.Lock()
				moved[name] = true
				mu.Unlock()
			}
		}
	}
	missing := func() (out []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range contract {
			if !moved[name] && name != "ingester_backfill_cursor_skips_total" {
				out = append(out, name)
			}
		}
		return out
	}
	// At the mark it waits, and says so. The length is looked at now and then, and is none in the end.
	// A slow append says the same for a moment: it is the mark that is meant.
	require.Eventually(t, func() bool {
		watch()
		return r.metric("sluice_ingester_backpressure_active", "firehose_live") == 1 && !slices.Contains(missing(), "ingester_backpressure_active") &&
			!slices.Contains(missing(), "ingester_firehose_live_length") && len(r.entries("firehose_live")) >= 200
	}, 60*time.Second, 10*time.Millisecond)
	host := strings.TrimPrefix(n.RelayHost, "ws://")
	cursor := r.get("firehose_live:cursor:" + host)
	require.Never(t, func() bool { watch(); return r.get("firehose_live:cursor:"+host) != cursor }, 300*time.Millisecond, 20*time.Millisecond)
	require.Positive(t, r.metric("sluice_ingester_backpressure_seconds_total", "firehose_live"))
	kept := r.events()
	// Consumers catch up again and again.
	last := func() bool { _, last := n.World.Seqs(); return r.get("firehose_live:cursor:"+host) == itoa(last) }
	require.Eventually(t, func() bool {
		watch()
		if !last() && r.metric("ingester_backpressure_active") > 0 {
			kept = append(kept[:0:0], append(kept, r.events()...)...)
			require.NoError(t, r.raw.Do(ctx, r.raw.B().Xtrim().Key(r.prefix+"firehose_live").Maxlen().Threshold("0").Build()).Error())
		}
		return last()
	}, 40*time.Second, 20*time.Millisecond)
	for deadline := time.Now().Add(time.Minute); len(missing()) > 0 && time.Now().Before(deadline); {
		watch()
		require.NoError(t, fault.Sleep(ctx, 20*time.Millisecond))
	}
	require.Empty(t, missing())
	require.Zero(t, r.metric("ingester_backfill_cursor_skips_total"))
	got, want := map[string]version{}, expected(t, n, func(c string) bool { keep, _ := r.config().keep(); return keep.Keep(c) })
	for _, e := range append(kept, r.events()...) {
		fold(got, &e)
	}
	require.Equal(t, want, got, "back-pressure loses nothing")
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	n := network(t, 2, 1, "")
	env := maps.Clone(n.Env())
	env["INGESTER_MODE"] = "firehose"
	r := newRig(t, env)
	r.start()
	r.caughtUp(n)
	require.NoError(t, r.app.Ready(t.Context()))
	r.app.cfg.LagLimit = time.Hour
	require.ErrorContains(t, r.app.Ready(t.Context()), "limit", "the events of this world are old")
	r.app.cfg.LagLimit = 0
	r.app.relaysUp.Store(0)
	r.app.relaysOff.Store(time.Now().Add(-time.Minute).UnixNano())
	require.ErrorContains(t, r.app.Ready(t.Context()), "no relay")
}

func TestWaitsForRedisAtTheStart(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t)
	server.Kill()
	n := network(t, 2, 1, "")
	r := &rig{t: t, env: map[string]string{"REDIS_URL": server.URL, "INGESTER_MODE": "labeler"}}
	maps.Copy(r.env, n.Env())
	ready := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var a *App
	go func() {
		var err error
		a, err = New(ctx, r.config(), proc.Deps{
			Log: slog.New(slog.DiscardHandler), Registry: obs.NewRegistry("ingester", "test"), Grace: time.Second,
			Handle: func(string, http.Handler) {},
		})
		ready <- err
	}()
	select {
	case err := <-ready:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	server.Restart(t)
	require.NoError(t, <-ready)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	cancel()
	require.NoError(t, <-ended)
}

func TestAnEvictingRedisIsRefused(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t, "--maxmemory-policy", "allkeys-lru")
	r := &rig{t: t, env: map[string]string{"REDIS_URL": server.URL}}
	_, err := New(t.Context(), r.config(), proc.Deps{
		Log: slog.New(slog.DiscardHandler), Registry: obs.NewRegistry("ingester", "test"), Handle: func(string, http.Handler) {},
	})
	require.ErrorContains(t, err, "REDIS_URL")
	require.ErrorContains(t, err, "noeviction")
}

func TestHostsAreEnumeratedWithinTheGuard(t *testing.T) {
	t.Parallel()
	n := network(t, 9, 1, "")
	env := maps.Clone(n.Env())
	env["INGESTER_MODE"], env["INGESTER_ENUMERATE"] = "backfill", "hosts"
	r := newRig(t, env)
	r.start()
	for _, pds := range n.PDSURLs {
		host := strings.TrimPrefix(pds, "http://")
		require.Eventually(t, func() bool { return r.get("repo_backfill:cursor:"+host) == "!ingester-done" }, 60*time.Second, 10*time.Millisecond)
	}
	hosts := map[string]bool{}
	for _, j := range r.jobs() {
		require.Equal(t, event.ReasonEnumerate, j.Reason)
		hosts[j.Host] = true
	}
	require.Len(t, hosts, len(n.PDSURLs))

	// Without leave, a private address that a relay names is not dialled.
	delete(env, "ALLOW_PRIVATE_NETWORK")
	guarded := newRig(t, env)
	guarded.start()
	require.Eventually(t, func() bool {
		return guarded.metric("sluice_ingester_enumerate_hosts", "failed") == float64(len(n.PDSURLs))
	}, 60*time.Second, 10*time.Millisecond)
	require.Empty(t, guarded.jobs())
}
