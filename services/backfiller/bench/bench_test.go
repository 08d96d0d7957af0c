// Package bench measures the backfill from a local server to the output stream
// against walking the same archives in memory and writing the same entries.
//
//	go test ./backfiller/bench -run TestRate -count 1 -v -args -measure -out bench.json
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
	"sluice/services/backfiller/internal/backfill"
)

var (
	measure = flag.Bool("measure", false, "measure; a few records are only a check that it works")
	out     = flag.String("out", "", "bench.json to merge the row into")
	repos   = flag.Int("repos", 400, "repositories")
	records = flag.Int("records", 500, "records of one repository")
	rounds  = flag.Int("rounds", 5, "turns; the median ratio counts")
)

// target is the least ratio.
const target = 0.6

// site is a directory and a server with archives made ahead.
type site struct {
	dids []string
	cars map[string][]byte
	docs map[string][]byte
	plc  *httptest.Server
	pds  *httptest.Server
}

func newSite(t *testing.T, repos, records int) *site {
	t.Helper()
	s := &site{cars: map[string][]byte{}, docs: map[string][]byte{}}
	s.pds = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.ipld.car")
		_, _ = w.Write(s.cars[r.URL.Query().Get("did")])
	}))
	s.plc = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(s.docs[strings.TrimPrefix(r.URL.Path, "/")])
	}))
	t.Cleanup(s.pds.Close)
	t.Cleanup(s.plc.Close)
	key, err := repo.NewKey(repo.K256, "bench")
	require.NoError(t, err)
	for i := range repos {
		did := "did:plc:" + name(i)
		var car bytes.Buffer
		require.NoError(t, repo.Bulk{DID: did, Rev: "3lqjiw43pui3a", Key: key, N: records, Record: record}.Write(&car))
		s.dids = append(s.dids, did)
		s.cars[did] = car.Bytes()
		s.docs[did], err = json.Marshal(map[string]any{
			"id": did,
			"verificationMethod": []any{map[string]any{
				"id": did + "#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": key.Multibase(),
			}},
			"service": []any{map[string]any{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": s.pds.URL}},
		})
		require.NoError(t, err)
	}
	return s
}

func name(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	id := bytes.Repeat([]byte("a"), 24)
	for i := 23; n > 0; i-- {
		id[i] = letters[n%32]
		n /= 32
	}
	return string(id)
}

// record is about as large as the mean of the network.
func record(i int) (string, []byte) {
	return fmt.Sprintf("app.bsky.feed.post/3l%011d", i), repo.MustEncode(repo.Map{
		"$type": "app.bsky.feed.post", "createdAt": "2025-06-01T12:00:00.000Z", "langs": []any{"en"},
		"text": fmt.Sprintf("post number %d, with a text that is neither long nor short but somewhere in between, as most are", i),
		"reply": repo.Map{
			"root":   repo.Map{"uri": "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/app.bsky.feed.post/3laaaaaaaaa2a", "cid": "bafyreigq4zsipbk5w3uqkbmh2w2633c7tcgwraxlzkmgcbcdwcokzrlmhu"},
			"parent": repo.Map{"uri": "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/app.bsky.feed.post/3laaaaaaaaa2a", "cid": "bafyreigq4zsipbk5w3uqkbmh2w2633c7tcgwraxlzkmgcbcdwcokzrlmhu"},
		},
	})
}

// ceiling walks the archives in memory and writes the entries, 8 at a time.
func (s *site) ceiling(ctx context.Context, redis *redstream.Client) (time.Duration, error) {
	start := time.Now()
	var g errgroup.Group
	work := make(chan string)
	for range 8 {
		w, err := redis.NewWriter(redstream.WriterConfig{Stream: "firehose_backfill"})
		if err != nil {
			return 0, err
		}
		g.Go(func() error {
			defer w.Close()
			var errs error
			for did := range work {
				errs = errors.Join(errs, s.walk(ctx, w, did))
			}
			return errs
		})
	}
	for _, did := range s.dids {
		work <- did
	}
	close(work)
	err := g.Wait()
	return time.Since(start), err
}

func (s *site) walk(ctx context.Context, w *redstream.Writer, did string) error {
	items := make([]redstream.Item, 0, 501)
	base := event.Event{Seq: event.SeqBackfill, DID: did, Time: "2025-06-01T12:00:00.000Z", Type: event.Create, Commit: "bafyreigq4zsipbk5w3uqkbmh2w2633c7tcgwraxlzkmgcbcdwcokzrlmhu", Rev: "3lqjiw43pui3a"}
	_, err := atproto.ReadRepo(ctx, bytes.NewReader(s.cars[did]), atproto.RepoOptions{}, func(r atproto.Record) error {
		ev := base
		ev.Collection, ev.RKey, ev.CID, ev.RecordCBOR = r.Collection, r.RKey, r.CID.String(), r.Value
		field, value, err := event.JSON.Event(&ev)
		if err != nil {
			return err
		}
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
		if len(items) < 500 {
			return nil
		}
		err = w.Append(ctx, items)
		items = items[:0]
		return err
	})
	if err != nil {
		return err
	}
	return w.Append(ctx, items)
}

// ours runs a Backfiller until every repository is done.
func (s *site) ours(ctx context.Context, redis *redstream.Client) (took time.Duration, err error) {
	dir, err := atproto.NewDirectory(atproto.DirectoryConfig{PLCURL: s.plc.URL, PLCRate: 1e6})
	if err != nil {
		return 0, err
	}
	client, err := atproto.NewHTTPClient(atproto.HTTPConfig{AllowPrivate: []string{"all"}})
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	b, err := backfill.New(backfill.Config{
		Jobs: "repo_backfill", Output: "firehose_backfill", DeadLetters: "repo_backfill_dlq", Group: "repo_backfill_group",
		Consumer: "bench", Concurrency: 16, HighWater: 1 << 40, Collections: []string{"app.bsky.*"}, Encoding: event.JSON,
		Grace: time.Second, Host: backfill.HostConfig{Concurrency: 16, Rate: 1e6}, Retry: backfill.RetryConfig{Max: 3},
	}, backfill.Deps{Redis: redis, Directory: dir, HTTP: client, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- b.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	want := int64(len(s.dids) * (*records + 1))
	for {
		select {
		case err := <-ended:
			return 0, err
		case <-tick.C:
		}
		if n, err := redis.Len(ctx, "firehose_backfill"); err != nil || n >= want {
			took = time.Since(start) // the stop is no part of it
			cancel()
			return took, errors.Join(err, <-ended)
		}
	}
}

func (s *site) jobs(t *testing.T, redis *redstream.Client) {
	t.Helper()
	w, err := redis.NewWriter(redstream.WriterConfig{Stream: "repo_backfill"})
	require.NoError(t, err)
	defer w.Close()
	items := make([]redstream.Item, 0, len(s.dids))
	for _, did := range s.dids {
		field, value, err := event.JSON.Job(&event.RepoJob{DID: did})
		require.NoError(t, err)
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: field, Value: value}}})
	}
	require.NoError(t, w.Append(t.Context(), items))
}

// once runs one side on an empty Redis and returns records per second.
func (s *site) once(t *testing.T, f func(context.Context, *redstream.Client) (time.Duration, error)) float64 {
	t.Helper()
	server := testkit.StartRedis(t)
	defer server.Kill()
	redis, err := redstream.Open(t.Context(), redstream.Config{URL: server.URL}, nil, nil)
	require.NoError(t, err)
	defer redis.Close()
	s.jobs(t, redis)
	took, err := f(t.Context(), redis)
	require.NoError(t, err)
	n, err := redis.Len(t.Context(), "firehose_backfill")
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(len(s.dids)**records))
	return float64(len(s.dids)**records) / took.Seconds()
}

//nolint:paralleltest // it measures
func TestRate(t *testing.T) {
	if !*measure {
		*repos, *records, *rounds = 10, 50, 1
	}
	s := newSite(t, *repos, *records)
	var ratios, own, top []float64
	for range *rounds {
		c := s.once(t, s.ceiling)
		o := s.once(t, s.ours)
		t.Logf("%.0f records/s of %.0f: %.2f", o, c, o/c)
		ratios, own, top = append(ratios, o/c), append(own, o), append(top, c)
	}
	r := row{"backfill", median(own), "records/s", median(top), median(ratios)}
	t.Logf("backfill: %.0f records/s, ceiling %.0f, ratio %.2f, target %.2f", r.Value, r.Ceiling, r.Ratio, target)
	if *out != "" {
		require.NoError(t, merge(*out, r))
	}
}

// row is one line of bench.json.
type row struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Ceiling float64 `json:"ceiling"`
	Ratio   float64 `json:"ratio"`
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// merge replaces the row of that name in the file and leaves the others alone.
func merge(path string, r row) error {
	var rows []row
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &rows)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rows = append(slices.DeleteFunc(rows, func(x row) bool { return x.Name == r.Name }), r)
	var text strings.Builder
	for i, x := range rows {
		line, err := json.Marshal(x)
		if err != nil {
			return err
		}
		text.WriteString([]string{"[\n  ", ",\n  "}[min(i, 1)])
		text.Write(line)
	}
	text.WriteString("\n]\n")
	return os.WriteFile(path, []byte(text.String()), 0o644)
}
