package app

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/pg"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/streamctl/internal/road"
)

// stage is a sluice in a state: real streams in a Redis of its own, with
// writers and readers, and tables in PostgreSQL.
type stage struct {
	*rig
	client *redstream.Client
	raw    testkit.RedisConn
	ctx    context.Context
	group  *errgroup.Group
	past   road.History
}

const stageToken = "correct-horse-battery-staple"

// stageTables are what the checks and the page read of the database.
const stageTables = `
CREATE SCHEMA {s}; CREATE SCHEMA {own};
CREATE TABLE {s}.record (uri text); CREATE TABLE {s}.post (uri text); CREATE TABLE {s}."like" (uri text);
CREATE TABLE {s}.follow (uri text); CREATE TABLE {s}.actor (did text);
CREATE TABLE {own}.count_delta (kind smallint, key text, n integer);
CREATE TABLE {own}.recheck (id bigint); CREATE TABLE {own}.handle_check (did text, not_before timestamptz);
UPDATE pg_class SET reltuples = n FROM (VALUES ('record', 214882019), ('post', 52310774), ('like', 118902311), ('follow', 39120551), ('actor', 2718281)) v (name, n)
WHERE relname = v.name AND relnamespace = '{s}'::regnamespace;
`

// newStage has tables in the database that the tests share, whose fsync is off.
func newStage(t *testing.T, env ...string) *stage {
	t.Helper()
	url, schema := testkit.Postgres(t)
	return stageOn(t, url, schema, env...)
}

func stageOn(t *testing.T, url, schema string, env ...string) *stage {
	t.Helper()
	redis := testkit.StartRedis(t, "--maxmemory", "4gb", "--maxmemory-policy", "noeviction", "--save", "")
	pool, err := pg.Open(t.Context(), pg.Config{URL: url})
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), strings.NewReplacer("{s}", schema, "{own}", schema+"_sluice").Replace(stageTables))
	pool.Close()
	require.NoError(t, err)
	env = append([]string{
		"REDIS_URL=" + redis.URL, "DATABASE_URL=" + url, "DATABASE_SCHEMA=" + schema, "CONSOLE_TOKEN=" + stageToken,
		fmt.Sprintf("CONSOLE_LISTEN=127.0.0.1:%d", testkit.FreePort(t)), "INDEXER_CONCURRENCY=4", "INDEXER_BATCH_SIZE=100",
	}, env...)
	s := &stage{rig: &rig{t: t, env: env}}
	s.client = s.rig.client()
	s.raw, err = testkit.RedisClient(redis.URL)
	require.NoError(t, err)
	t.Cleanup(s.raw.Close)
	ctx, cancel := context.WithCancel(t.Context())
	s.group, s.ctx = errgroup.WithContext(ctx)
	t.Cleanup(func() {
		cancel()
		_ = s.group.Wait()
	})
	for stream, groups := range map[string][]string{
		"firehose_live": {"firehose_group"}, "firehose_backfill": {"firehose_group"}, "label_live": {"label_group"}, "repo_backfill": {"repo_backfill_group", "repo_backfill_group_urgent"},
	} {
		for _, g := range groups {
			require.NoError(t, s.client.EnsureGroup(t.Context(), stream, g))
		}
	}
	for key, v := range map[string]string{
		"firehose_live:cursor:bsky.network": "7340021877", "repo_backfill:cursor:bsky.network": "!ingester-done",
		"label_live:cursor:mod.bsky.app": "48210337", "label_live:cursor:labels.example.org": "9921",
	} {
		require.NoError(t, s.client.SetCursor(t.Context(), key, v))
	}
	return s
}

// do sends a plain command.
func (s *stage) do(args ...string) {
	s.t.Helper()
	require.NoError(s.t, s.raw.Do(s.ctx, s.raw.B().Arbitrary(args...).Build()).Error())
}

// put writes n entries that are as old as age.
func (s *stage) put(stream string, n int, age time.Duration) {
	s.t.Helper()
	at := time.Now().Add(-age).UnixMilli()
	for from := 0; from < n; from += 500 {
		cmd := s.raw.B().Arbitrary("EVAL", `for i = 0, ARGV[3] - 1 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. (ARGV[2] + i), 'event', ARGV[4]) end return 1`, "1", stream,
			fmt.Sprint(at), fmt.Sprint(from+1), fmt.Sprint(min(500, n-from)), sample(stream, from)).Build()
		require.NoError(s.t, s.raw.Do(s.ctx, cmd).Error())
	}
}

func sample(stream string, i int) string {
	if strings.HasPrefix(stream, "label") {
		return fmt.Sprintf(`{"type":"label","seq":%d,"host":"mod.bsky.app","label":{"src":"did:plc:mod","uri":"did:plc:a","val":"spam","cts":"2026-01-01T00:00:00Z"}}`, i)
	}
	return fmt.Sprintf(`{"type":"create","seq":%d,"time":"2026-01-01T00:00:00Z","did":"did:plc:a%d","commit":"bafy","rev":"3lo2kcpdbqg2v","collection":"app.bsky.feed.like","rkey":"3l%d","cid":"bafyc","record":{"$type":"app.bsky.feed.like","createdAt":"2026-01-01T00:00:00Z"}}`, i, i%97, i)
}

// keepWriting appends n entries every tenth of a second.
func (s *stage) keepWriting(stream string, n int) {
	w, err := s.client.NewWriter(redstream.WriterConfig{Stream: stream})
	require.NoError(s.t, err)
	s.group.Go(func() error {
		defer w.Close()
		for i := 0; ; i++ {
			items := make([]redstream.Item, n)
			for j := range items {
				items[j] = redstream.Item{Fields: []redstream.Field{{Name: "event", Value: sample(stream, i*n+j)}}}
			}
			if err := w.Append(s.ctx, items); s.ctx.Err() != nil {
				return nil // the test is over
			} else if err != nil {
				return err
			}
			if fault.Sleep(s.ctx, 100*time.Millisecond) != nil {
				return nil
			}
		}
	})
}

// read joins a group as a consumer that takes so long for each entry.
func (s *stage) read(name, group string, each time.Duration, streams ...string) {
	s.t.Helper()
	c, err := s.client.NewConsumer(redstream.ConsumerConfig{Group: group, Consumer: name, Streams: streams, Batch: 50, Window: 100, Block: 200 * time.Millisecond})
	require.NoError(s.t, err)
	s.group.Go(func() error {
		err := c.Run(s.ctx, func(ctx context.Context, batch []redstream.Delivery) error {
			if each == 0 || fault.Sleep(ctx, each*time.Duration(len(batch))) == nil {
				c.Ack(batch...)
			}
			return nil
		})
		closing, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 5*time.Second)
		defer cancel()
		_ = c.Close(closing)
		return err
	})
}

// trim removes what is finished, as the indexers do.
func (s *stage) trim() {
	streams := map[string][]string{}
	for _, n := range []string{"firehose_live", "firehose_backfill", "label_live"} {
		streams[n] = nil
	}
	streams["repo_backfill"] = nil
	tr := s.client.NewTrimmer(redstream.TrimConfig{Streams: streams, Every: 300 * time.Millisecond})
	s.group.Go(func() error { return tr.Run(s.ctx) })
}

// park puts n entries aside.
func (s *stage) park(stream, reason, problem string, n int) {
	s.t.Helper()
	w, err := s.client.DeadLetters(stream, "").Writer()
	require.NoError(s.t, err)
	defer w.Close()
	for i := range n {
		fields := []redstream.Field{{Name: "event", Value: sample(stream, i)}}
		for k, v := range map[string]string{"reason": reason, "error": problem, "attempts": "5", "first_seen": "2026-01-01T00:00:00Z", "parked_at": "2026-01-01T00:05:00Z", "source_id": "1767225600000-" + fmt.Sprint(i)} {
			fields = append(fields, redstream.Field{Name: k, Value: v})
		}
		require.NoError(s.t, w.Append(s.ctx, []redstream.Item{{Fields: fields}}))
	}
}

// jobs makes a backfill that has done so much and has so much to do.
func (s *stage) jobs(done, left int) {
	s.t.Helper()
	w, err := s.client.NewWriter(redstream.WriterConfig{Stream: "repo_backfill"})
	require.NoError(s.t, err)
	defer w.Close()
	items := make([]redstream.Item, 0, left)
	for i := range left {
		name, value, err := event.JSON.Job(&event.RepoJob{DID: fmt.Sprintf("did:plc:%d", i), Host: "pds.example.org", Active: true, Reason: "enumerate"})
		require.NoError(s.t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
	}
	require.NoError(s.t, w.Append(s.ctx, items))
	ledger := s.client.NewRegister("repo_backfill", ":state", 1<<19)
	for i := range done {
		v := "d3lo2kcpdbqg2v"
		if i%40 == 0 {
			v = "g repo_takendown"
		}
		require.NoError(s.t, ledger.Set(s.ctx, fmt.Sprintf("done%d", i), v))
	}
	s.progress(int64(done))
}

// progress counts repositories as done.
func (s *stage) progress(n int64) {
	s.t.Helper()
	require.NoError(s.t, s.client.AddTotals(s.ctx, "repo_backfill", ":progress", map[string]int64{"repos": n, "records": n * 412}))
}

// lagged makes a history that ends as f says, in seconds for each stream by
// the minutes that have passed since.
func (s *stage) lagged(f func(minutes float64) [4]float64) {
	now := time.Now()
	s.past = road.History{Streams: []string{"firehose_live", "repo_backfill", "firehose_backfill", "label_live"}}
	for ago := 24 * time.Hour; ago > 10*time.Second; {
		v := f(ago.Minutes())
		p := road.Point{float64(now.Add(-ago).Unix()), v[0], v[1], v[2], v[3]}
		s.past.Day = append(s.past.Day, p)
		step := 2 * time.Minute
		if ago <= time.Hour {
			s.past.Hour = append(s.past.Hour, p)
			step = 5 * time.Second
		}
		ago -= step
	}
}

// noise is a lag around a middle that is different every minute and calm
// within it.
func noise(minutes, middle, swing float64) float64 {
	at := func(m float64) float64 {
		x := math.Sin(m*12.9898) * 43758.5453
		return x - math.Floor(x)
	}
	whole := math.Floor(minutes)
	part := minutes - whole
	return math.Max(middle+swing*(at(whole)*(1-part)+at(whole+1)*part-0.5)+swing*0.2*(at(minutes*7)-0.5), 0)
}

// serve runs the console over it and returns its address.
func (s *stage) serve() string {
	s.t.Helper()
	var out, errs bytes.Buffer
	tl := &tool{version: "v1.4.0", environ: s.env, out: &out, err: &errs, past: s.past}
	ended := make(chan int, 1)
	ctx, cancel := context.WithCancel(s.ctx)
	go func() { ended <- tl.run(ctx, []string{"serve"}) }()
	s.t.Cleanup(func() {
		cancel()
		if code := <-ended; code != 0 {
			s.t.Errorf("serve ended with %d: %s", code, errs.String())
		}
	})
	addr := ""
	for _, kv := range s.env {
		if v, ok := strings.CutPrefix(kv, "CONSOLE_LISTEN="); ok {
			addr = v
		}
	}
	require.Eventually(s.t, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 60*time.Second, 20*time.Millisecond)
	return "http://" + addr
}

// healthy is a sluice that keeps up, with a backfill under way.
func healthyStage(t *testing.T, database string) *stage {
	t.Helper()
	s := stageOn(t, database, "s"+testkit.RandomName())
	for i := 1; i <= 3; i++ {
		s.read(fmt.Sprintf("indexer-%d", i), "firehose_group", 0, "firehose_live", "firehose_backfill")
		s.read(fmt.Sprintf("indexer-%d", i), "label_group", 0, "label_live")
	}
	s.keepWriting("firehose_live", 61)
	s.keepWriting("firehose_backfill", 148)
	s.keepWriting("label_live", 1)
	s.jobs(2600, 1900)
	s.read("backfiller-1", "repo_backfill_group", 200*time.Millisecond, "repo_backfill")
	s.read("backfiller-2", "repo_backfill_group", 200*time.Millisecond, "repo_backfill")
	s.read("backfiller-1", "repo_backfill_group_urgent", 0, "repo_backfill")
	s.group.Go(func() error {
		for fault.Sleep(s.ctx, time.Second) == nil {
			err := s.client.AddTotals(s.ctx, "repo_backfill", ":progress", map[string]int64{"repos": 16, "records": 16 * 412})
			if err != nil && s.ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	s.trim()
	s.lagged(func(m float64) [4]float64 {
		return [4]float64{noise(m, 0.5, 0.7), noise(m, 12, 14), noise(m, 1.9, 2.4), noise(m*1.7, 0.2, 0.3)}
	})
	return s
}

// behindStage has readers that are too slow: old live entries, a backfill at
// its mark, and parked entries.
func behindStage(t *testing.T, database string) *stage {
	t.Helper()
	s := stageOn(t, database, "s"+testkit.RandomName(), "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK=20000", "INGESTER_HIGH_WATER_MARK=20000")
	s.put("firehose_live", 9000, 4*time.Minute)
	s.put("firehose_backfill", 20400, 11*time.Minute)
	s.jobs(400, 900)
	s.read("indexer-1", "firehose_group", 8*time.Millisecond, "firehose_live", "firehose_backfill")
	s.read("indexer-1", "label_group", 0, "label_live")
	s.read("backfiller-1", "repo_backfill_group", 150*time.Millisecond, "repo_backfill")
	s.read("backfiller-1", "repo_backfill_group_urgent", 0, "repo_backfill")
	s.keepWriting("firehose_live", 22)
	s.keepWriting("label_live", 1)
	s.park("firehose_live", "bad_record", "app.bsky.feed.post: $.text: 3,412 graphemes, at most 300", 12)
	s.park("repo_backfill", "car_truncated", "read the repository of did:plc:a: unexpected end of file after 1,204 blocks", 3)
	s.trim()
	s.lagged(func(m float64) [4]float64 {
		live := noise(m, 0.6, 0.4)
		if m < 22 {
			live = (22 - m) * 11
		}
		return [4]float64{live, noise(m, 9, 12), math.Max(660-m*14, 0) + noise(m, 2, 3), noise(m, 0.2, 0.2)}
	})
	return s
}

// brokenStage has nobody who reads live events, a group that nobody knows, and
// a reader that died with entries.
func brokenStage(t *testing.T, database string) *stage {
	t.Helper()
	s := stageOn(t, database, "s"+testkit.RandomName(), "INGESTER_HIGH_WATER_MARK=20000")
	s.put("firehose_live", 12400, 19*time.Minute)
	s.put("label_live", 40, 9*time.Minute)
	s.do("XREADGROUP", "GROUP", "firehose_group", "indexer-2", "COUNT", "480", "STREAMS", "firehose_live", ">")
	s.do("XGROUP", "CREATE", "firehose_live", "debug_group", "0")
	s.keepWriting("firehose_live", 40)
	s.jobs(200, 150)
	s.read("backfiller-1", "repo_backfill_group", 200*time.Millisecond, "repo_backfill")
	s.read("backfiller-1", "repo_backfill_group_urgent", 0, "repo_backfill")
	s.park("firehose_live", "database", "apply 312 changes: commit: connection refused", 240)
	s.trim()
	s.lagged(func(m float64) [4]float64 {
		return [4]float64{math.Max(1140-m*60, noise(m, 0.5, 0.3)), noise(m, 12, 16), 0, math.Max(540-m*60, 0)}
	})
	return s
}
