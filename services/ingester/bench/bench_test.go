// Package bench measures the ingester from the socket of a relay to the stream,
// at each level of verification, against judging the same frames in memory.
//
//	go test ./ingester/bench -run TestRate -count 1 -v -args -measure -out bench.json
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/config"
	"sluice/pkg/event"
	"sluice/pkg/obs"
	"sluice/pkg/proc"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
	"sluice/services/ingester/app"
)

var (
	measure = flag.Bool("measure", false, "measure; a few frames are only a check that it works")
	out     = flag.String("out", "", "bench.json to merge the rows into")
	records = flag.Int("records", 20_000, "operations of the world")
	rounds  = flag.Int("rounds", 3, "turns; the median ratio counts")
)

// site is a network whose frames are made ahead.
type site struct {
	net    *simnet.Network
	frames []world.Frame
	keys   keys
	redis  testkit.RedisConn
	env    []string
	prefix string
}

// keys are known identities.
type keys map[string]atproto.Identity

func (k keys) Identity(_ context.Context, did string) (atproto.Identity, error) {
	id, ok := k[did]
	if !ok {
		return id, event.Dropf(event.ReasonNoIdentity, "%s", did)
	}
	return id, nil
}

func (k keys) Refresh(ctx context.Context, did string) (atproto.Identity, error) {
	return k.Identity(ctx, did)
}

func newSite(t *testing.T, records int) *site {
	t.Helper()
	s := &site{keys: keys{}}
	s.net = simnet.Start(t, simnet.Options{World: world.Options{
		Seed: 1, Accounts: max(records/100, 20), Records: records, BackfillShare: -1, BornShare: -1, NoAccountEvents: true, NoSync: true,
	}})
	s.frames, _ = s.net.World.Frames(0, 1<<30)
	for _, a := range s.net.World.Accounts() {
		doc, err := json.Marshal(a.Document(s.net.World.State(a), "https://pds.test", "https://labeler.test"))
		require.NoError(t, err)
		s.keys[a.DID], err = atproto.ParseDocument(a.DID, doc)
		require.NoError(t, err)
	}
	var url string
	url, s.prefix = testkit.Redis(t)
	var err error
	s.redis, err = testkit.RedisClient(url)
	require.NoError(t, err)
	t.Cleanup(s.redis.Close)
	for k, v := range s.net.Env() {
		s.env = append(s.env, k+"="+v)
	}
	s.env = append(s.env, "REDIS_URL="+url, "STREAM_KEY_PREFIX="+s.prefix, "INGESTER_MODE=firehose",
		"INGESTER_FIREHOSE_START=oldest", "INGESTER_HIGH_WATER_MARK=100000000", "INGESTER_COMPRESSION=false")
	return s
}

// clear removes all but the identities.
func (s *site) clear(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	names, err := s.redis.Do(ctx, s.redis.B().Keys().Pattern(s.prefix+"*").Build()).AsStrSlice()
	require.NoError(t, err)
	for _, name := range names {
		if !strings.Contains(name, ":cache:") {
			require.NoError(t, s.redis.Do(ctx, s.redis.B().Del().Key(name).Build()).Error())
		}
	}
}

// ours runs the ingester until the last frame is durable.
func (s *site) ours(t *testing.T, level atproto.Level) sample {
	t.Helper()
	s.clear(t)
	var cfg app.Config
	var common proc.Common
	l := config.Loader{Service: "ingester", Environ: append(slices.Clone(s.env), "INGESTER_VERIFY="+string(level)), Output: io.Discard}
	require.NoError(t, l.Load(nil, &cfg, &common))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reg := obs.NewRegistry("ingester", "bench")
	a, err := app.New(ctx, cfg, proc.Deps{
		Log: slog.New(slog.DiscardHandler), Registry: reg, Grace: 5 * time.Second,
		Handle: func(string, http.Handler) {},
	})
	require.NoError(t, err)
	_, last := s.net.World.Seqs()
	key := s.prefix + "firehose_live:cursor:" + strings.TrimPrefix(s.net.RelayHost, "ws://")
	ended := make(chan error, 1)
	stop := start()
	go func() { ended <- a.Run(ctx) }()
	for {
		v, err := s.redis.Do(ctx, s.redis.B().Get().Key(key).Build()).ToString()
		if err == nil && v == strconv.FormatInt(last, 10) {
			break
		}
		select {
		case err := <-ended:
			require.NoError(t, err)
			t.Fatal("the ingester ended")
		case <-time.After(2 * time.Millisecond):
		}
	}
	took := stop(len(s.frames))
	took.appends = appends(t, reg)
	cancel()
	require.NoError(t, <-ended)
	n, err := s.redis.Do(context.Background(), s.redis.B().Xlen().Key(s.prefix+"firehose_live").Build()).AsInt64()
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(len(s.frames)))
	return took
}

// appends is how many appends were made.
func appends(t *testing.T, reg prometheus.Gatherer) uint64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "sluice_ingester_batch_events" {
			return f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

// ceiling judges the same frames in memory, on all cores, and writes nothing.
func (s *site) ceiling(t *testing.T, level atproto.Level) sample {
	t.Helper()
	v := atproto.Verifier{Keys: s.keys}
	work := make(chan []byte, 1024)
	var g errgroup.Group
	stop := start()
	for range 4 {
		g.Go(func() error {
			var errs error
			for raw := range work {
				if err := s.judge(&v, raw, level); err != nil {
					errs = err
				}
			}
			return errs
		})
	}
	for i := range s.frames {
		work <- s.frames[i].Data
	}
	close(work)
	require.NoError(t, g.Wait())
	return stop(len(s.frames))
}

func (s *site) judge(v *atproto.Verifier, raw []byte, level atproto.Level) error {
	f, err := atproto.ParseFrame(raw)
	if err != nil || f.Commit == nil {
		return err
	}
	if _, err := v.Verify(context.Background(), f.Commit, level); err != nil {
		return err
	}
	events, err := f.Commit.Events(nil, func(string) bool { return true }, func(*atproto.Op, error) {})
	for i := range events {
		if _, _, err := event.JSON.Event(&events[i]); err != nil {
			return err
		}
	}
	return err
}

// sample is a rate, and what one frame costs this process in CPU time.
type sample struct {
	rate    float64
	cpu     time.Duration
	appends uint64
}

func start() (stop func(frames int) sample) {
	began, cpu := time.Now(), cpuTime()
	return func(frames int) sample {
		return sample{rate: float64(frames) / time.Since(began).Seconds(), cpu: (cpuTime() - cpu) / time.Duration(max(frames, 1))}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

//nolint:paralleltest // it measures
func TestRate(t *testing.T) {
	if !*measure {
		*records, *rounds = 400, 1
	}
	s := newSite(t, *records)
	levels := []atproto.Level{atproto.Off, atproto.Structure, atproto.Full}
	s.ours(t, atproto.Full) // fills the cache of identities
	got := map[atproto.Level]*turns{}
	for n := range *rounds {
		for i := range levels { // each is first once, so that none pays for all
			level := levels[(i+n)%len(levels)]
			c, o := s.ceiling(t, level), s.ours(t, level)
			t.Logf("%-9s %7.0f frames/s (%s CPU a frame with the relay, %d appends), in memory %7.0f (%s): %.2f",
				level, o.rate, o.cpu, o.appends, c.rate, c.cpu, o.rate/c.rate)
			if got[level] == nil {
				got[level] = &turns{}
			}
			got[level].add(o, c)
		}
	}
	var rows []row
	for _, level := range levels {
		g := got[level]
		rows = append(rows, row{"ingest_" + string(level), median(g.own), "frames/s", median(g.top), median(g.ratios)})
	}
	if *out != "" {
		require.NoError(t, merge(*out, rows))
	}
}

// turns are the results of one level.
type turns struct{ ratios, own, top []float64 }

func (r *turns) add(own, top sample) {
	r.ratios, r.own, r.top = append(r.ratios, own.rate/top.rate), append(r.own, own.rate), append(r.top, top.rate)
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

// merge replaces the rows of these names in the file and leaves the others alone.
func merge(path string, mine []row) error {
	var rows []row
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &rows)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rows = slices.DeleteFunc(rows, func(x row) bool {
		return slices.ContainsFunc(mine, func(m row) bool { return m.Name == x.Name })
	})
	var text strings.Builder
	for i, x := range append(rows, mine...) {
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
