package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/simnet"
)

// maxResident bounds the memory of the whole process, in bytes.
const maxResident = 256 << 20

// memory reads a line of the status of a process, in bytes.
func (p *program) memory(name string) int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	for line := range strings.SplitSeq(string(text), "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			require.NoError(p.t, err)
			return n << 10
		}
	}
	p.t.Fatalf("no %s in the status of the process", name)
	return 0
}

// mill is a directory and a server of repositories that are made as they are
// asked for.
type mill struct {
	plc, pds *httptest.Server
	key      *repo.Key
	asked    atomic.Int64
}

const millRev = "3lqjiw43pui3a"

func millDID(n int) string { return fmt.Sprintf("did:plc:%024d", n) }

// newMill serves for every DID the archive that write makes.
func newMill(t *testing.T, write func(w http.ResponseWriter, b repo.Bulk)) *mill {
	t.Helper()
	key, err := repo.NewKey(repo.K256, "mill")
	require.NoError(t, err)
	m := &mill{key: key}
	m.pds = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.asked.Add(1)
		w.Header().Set("Content-Type", "application/vnd.ipld.car")
		write(w, repo.Bulk{DID: r.URL.Query().Get("did"), Rev: millRev, Key: key, Record: func(i int) (string, []byte) {
			return fmt.Sprintf("app.bsky.feed.post/3l%011d", i), repo.MustEncode(repo.Map{
				"$type": "app.bsky.feed.post", "createdAt": "2025-06-01T12:00:00.000Z",
				"text": fmt.Sprintf("post number %d, with a text that is neither long nor short but somewhere in between, as most are", i),
			})
		}})
	}))
	m.plc = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		did := strings.TrimPrefix(r.URL.Path, "/")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"id": did,
			"verificationMethod": []any{map[string]any{
				"id": did + "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": key.Multibase(),
			}},
			"service": []any{map[string]any{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": m.pds.URL}},
		})
	}))
	t.Cleanup(m.plc.Close)
	t.Cleanup(m.pds.Close)
	return m
}

// start runs the program on the mill, as fast as it can.
func (m *mill) start(t *testing.T, url, prefix string, extra ...string) *program {
	t.Helper()
	return run(t, url, prefix, &simnet.Network{PLCURL: m.plc.URL}, append([]string{
		"BACKFILLER_CONCURRENCY=50", "BACKFILLER_PLC_RATE=100000", "BACKFILLER_HOST_RATE=100000", "BACKFILLER_HOST_CONCURRENCY=50",
		"BACKFILLER_CLAIM_IDLE_SECS=60",
	}, extra...)...)
}

// drain takes what is in the output, and counts it, until done says so.
func drain(t *testing.T, redis *redstream.Client, url, prefix string, limit time.Duration, done func(events, repos int64) bool) {
	t.Helper()
	c, err := testkit.RedisClient(url)
	require.NoError(t, err)
	defer c.Close()
	key := prefix + "firehose_backfill"
	var events, repos int64
	eventually(t, limit, "all is emitted", func() bool {
		page, err := redis.Range(t.Context(), "firehose_backfill", "-", "+", 5000)
		require.NoError(t, err)
		for _, e := range page {
			v, _ := e.Get("event")
			if strings.Contains(v, `"type":"repo"`) {
				repos++
			} else {
				events++
			}
		}
		if len(page) > 0 {
			last := page[len(page)-1].ID
			ms, seq, _ := strings.Cut(last, "-")
			n, err := strconv.Atoi(seq)
			require.NoError(t, err)
			require.NoError(t, c.Do(t.Context(), c.B().Xtrim().Key(key).Minid().Threshold(fmt.Sprintf("%s-%d", ms, n+1)).Build()).Error())
		}
		return done(events, repos)
	})
}

func (m *mill) enumerate(t *testing.T, redis *redstream.Client, n int) {
	t.Helper()
	w, err := redis.NewWriter(redstream.WriterConfig{Stream: "repo_backfill"})
	require.NoError(t, err)
	defer w.Close()
	items := make([]redstream.Item, 0, 1000)
	for i := range n {
		field, value, err := event.JSON.Job(&event.RepoJob{DID: millDID(i), Host: "mill.test", Rev: millRev, Active: true})
		require.NoError(t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
		if len(items) == cap(items) || i == n-1 {
			require.NoError(t, w.Append(t.Context(), items))
			items = items[:0]
		}
	}
}

func openRedis(t *testing.T, url, prefix string) *redstream.Client {
	t.Helper()
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// One repository of a million records (in the long form) passes through the
// whole process within the bound.
func TestGiantRepositoryInBoundedMemory(t *testing.T) {
	t.Parallel()
	n, limit := 40_000, 30*time.Second
	if os.Getenv("SLUICE_SOAK") != "" {
		n, limit = 1_000_000, 10*time.Minute
	}
	archive, err := os.CreateTemp(t.TempDir(), "giant")
	require.NoError(t, err)
	defer archive.Close()
	m := newMill(t, func(w http.ResponseWriter, _ repo.Bulk) {
		if f, err := os.Open(archive.Name()); err == nil {
			_, _ = f.WriteTo(w)
			_ = f.Close()
		}
	})
	b := repo.Bulk{DID: millDID(1), Rev: millRev, Key: m.key, N: n, Record: func(i int) (string, []byte) {
		return fmt.Sprintf("app.bsky.feed.post/3l%011d", i), repo.MustEncode(repo.Map{
			"$type": "app.bsky.feed.post", "createdAt": "2025-06-01T12:00:00.000Z", "text": fmt.Sprintf("post number %d of very many", i),
		})
	}}
	require.NoError(t, b.Write(archive))
	size, err := archive.Seek(0, 1)
	require.NoError(t, err)

	url, prefix := testkit.Redis(t)
	redis := openRedis(t, url, prefix)
	p := m.start(t, url, prefix, "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK=50000")
	m.enumerate(t, redis, 2) // the first is that of another account: refused
	start := time.Now()
	drain(t, redis, url, prefix, limit, func(events, repos int64) bool { return events >= int64(n) && repos == 1 })
	peak := p.memory("VmHWM")
	t.Logf("%d records, %d MB archive, %s, at most %d MB resident", n, size>>20, time.Since(start).Round(time.Millisecond), peak>>20)
	require.Less(t, peak, int64(maxResident))
}

// A hundred thousand small repositories (in the long form) leave no trace in
// the memory of the process.
func TestManyRepositoriesInFlatMemory(t *testing.T) {
	t.Parallel()
	n, limit, extra := 2000, 30*time.Second, []string{"BACKFILLER_IDENTITY_CACHE=1000"}
	if os.Getenv("SLUICE_SOAK") != "" {
		n, limit, extra = 100_000, 10*time.Minute, nil
		if v, err := strconv.Atoi(os.Getenv("SLUICE_SOAK")); err == nil && v > 1000 {
			n = v
		}
	}
	m := newMill(t, func(w http.ResponseWriter, b repo.Bulk) {
		b.N = 5
		var car bytes.Buffer
		if b.Write(&car) == nil {
			_, _ = w.Write(car.Bytes())
		}
	})
	url, prefix := testkit.Redis(t)
	redis := openRedis(t, url, prefix)
	p := m.start(t, url, prefix, extra...)
	m.enumerate(t, redis, n)
	start := time.Now()
	var warm int64
	drain(t, redis, url, prefix, limit, func(events, repos int64) bool {
		if warm == 0 && repos >= int64(n)*4/10 {
			warm = p.memory("VmHWM")
		}
		return repos >= int64(n) && events >= 5*int64(n)
	})
	peak := p.memory("VmHWM")
	t.Logf("%d repositories in %s, resident at most %d MB after 40 %%, %d MB after all", n, time.Since(start).Round(time.Millisecond), warm>>20, peak>>20)
	require.Less(t, peak, int64(maxResident))
	require.Less(t, peak-warm, int64(32<<20), "it grows with the repositories")
	require.EqualValues(t, n, m.asked.Load(), "each is fetched once")
}

// Ten million records that are as small as can be (in the long form), of a
// collection that nobody indexes, cost bounded memory and nothing else.
func TestTinyRecordsInBoundedMemory(t *testing.T) {
	t.Parallel()
	n, limit := 30_000, 60*time.Second
	if os.Getenv("SLUICE_SOAK") != "" {
		n, limit = 10_000_000, 30*time.Minute
	}
	record := repo.MustEncode(repo.Map{"$type": "com.example.tiny"})
	m := newMill(t, func(w http.ResponseWriter, b repo.Bulk) {
		b.N, b.Record = n, func(i int) (string, []byte) { return fmt.Sprintf("com.example.tiny/%09d", i), record }
		_ = b.Write(w)
	})
	url, prefix := testkit.Redis(t)
	redis := openRedis(t, url, prefix)
	p := m.start(t, url, prefix)
	m.enumerate(t, redis, 1)
	start := time.Now()
	drain(t, redis, url, prefix, limit, func(events, repos int64) bool {
		require.Zero(t, events)
		return repos == 1
	})
	peak := p.memory("VmHWM")
	t.Logf("%d records in %s, at most %d MB resident", n, time.Since(start).Round(time.Millisecond), peak>>20)
	require.Less(t, peak, int64(maxResident))
}
