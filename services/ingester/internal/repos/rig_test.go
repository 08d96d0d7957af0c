package repos

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/ingester/internal/feed"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"),
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

const liveStream = "firehose_live"

// source is a relay in memory: it gives every frame above the cursor, and what
// is added later. It forgets nothing.
type source struct {
	mu     sync.Mutex
	frames []sent
	more   chan struct{} // closed and replaced when frames are added
	asked  []int64       // the cursors asked for, -1 for none
}

type sent struct {
	seq int64 // 0: always sent
	raw []byte
}

func newSource(frames ...[]byte) *source {
	s := &source{more: make(chan struct{})}
	s.add(frames...)
	return s
}

// add appends frames as a relay would send them. Their place is their own seq.
func (s *source) add(frames ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, raw := range frames {
		f, err := atproto.ParseFrame(raw)
		seq := int64(0)
		if err == nil || f != nil {
			seq = max(f.Seq, 0)
		}
		s.frames = append(s.frames, sent{seq: seq, raw: raw})
	}
	close(s.more)
	s.more = make(chan struct{})
}

func (s *source) cursors() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int64(nil), s.asked...)
}

// subscribe connects again whenever a frame is refused.
func (s *source) subscribe(ctx context.Context, sub feed.Subscription) error {
	next := 0
	for ctx.Err() == nil {
		cursor, ok := sub.Cursor()
		if !ok {
			cursor = -1
		}
		s.mu.Lock()
		s.asked = append(s.asked, cursor)
		s.mu.Unlock()
		if sub.State != nil {
			sub.State(true)
		}
		next = s.connection(ctx, sub, cursor, next)
		if sub.State != nil {
			sub.State(false)
		}
		_ = fault.Sleep(ctx, time.Millisecond)
	}
	return nil
}

// connection sends until a frame is refused, and returns the place after it.
func (s *source) connection(ctx context.Context, sub feed.Subscription, cursor int64, unnumbered int) int {
	for i := 0; ; i++ {
		s.mu.Lock()
		for i >= len(s.frames) {
			more := s.more
			s.mu.Unlock()
			if sub.Idle != nil {
				sub.Idle()
			}
			select {
			case <-ctx.Done():
				return unnumbered
			case <-more:
			}
			s.mu.Lock()
		}
		f := s.frames[i]
		s.mu.Unlock()
		if f.seq == 0 && i < unnumbered || f.seq != 0 && f.seq <= cursor {
			continue
		}
		unnumbered = max(unnumbered, i+1)
		take := sub.Frame
		if len(f.raw) > atproto.MaxFrame {
			take = func(ctx context.Context, raw []byte) error { return sub.Oversize(ctx, raw[:64<<10]) }
		}
		if err := take(ctx, append([]byte(nil), f.raw...)); err != nil {
			return unnumbered
		}
	}
}

// rig is a pipeline on a real Redis.
type rig struct {
	t        *testing.T
	cfg      Config
	deps     Deps
	client   *redstream.Client
	raw      testkit.RedisConn
	prefix   string
	url      string
	reg      *prometheus.Registry
	sources  map[string]*source
	schedule *schedule
}

type openGate struct{}

func (openGate) Wait(ctx context.Context) error { return ctx.Err() }

// schedule records what is to be fetched.
type schedule struct {
	mu  sync.Mutex
	due map[string]time.Time
	n   int
}

func (s *schedule) Add(_ context.Context, name string, _ []redstream.Field, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due[name] = due
	s.n++
	return nil
}

func (s *schedule) Len(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.due)), nil
}

func (s *schedule) dids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for did := range s.due {
		out = append(out, did)
	}
	return out
}

// box is a dead letter stream.
type box struct {
	*redstream.Writer
	client *redstream.Client
	stream string
}

func (b box) Len(ctx context.Context) (int64, error) { return b.client.Len(ctx, b.stream) }

func newRig(t *testing.T, keys atproto.KeySource) *rig {
	t.Helper()
	url, prefix := testkit.Redis(t)
	return newRigAt(t, keys, url, prefix)
}

func newRigAt(t *testing.T, keys atproto.KeySource, url, prefix string) *rig {
	t.Helper()
	r := &rig{t: t, url: url, prefix: prefix, reg: prometheus.NewRegistry(), sources: map[string]*source{}, schedule: &schedule{due: map[string]time.Time{}}}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	r.client, err = redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, log, nil)
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	r.raw, err = testkit.RedisClient(url)
	require.NoError(t, err)
	t.Cleanup(r.raw.Close)
	keep, err := ParseCollections("app.bsky.*", "chat.bsky.*", "com.germnetwork.declaration")
	require.NoError(t, err)
	writer, err := r.client.NewWriter(redstream.WriterConfig{Stream: liveStream})
	require.NoError(t, err)
	t.Cleanup(writer.Close)
	dead, err := r.client.NewWriter(redstream.WriterConfig{Stream: liveStream + "_dlq"})
	require.NoError(t, err)
	t.Cleanup(dead.Close)
	r.cfg = Config{
		Stream: liveStream, Start: StartOldest, Keep: keep, Level: atproto.Full, Encoding: event.JSON,
		BatchTimeout: 50 * time.Millisecond, Grace: time.Minute,
	}
	r.deps = Deps{
		Stream: writer, Cursors: r.client, Gate: openGate{}, Schedule: r.schedule,
		Dead: box{dead, r.client, liveStream + "_dlq"}, States: r.client.NewTable(liveStream, ":state", 100_000),
		Verifier: &atproto.Verifier{Keys: keys}, Log: log, Registry: r.reg,
		Errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "errors_total", Help: "Errors."}),
	}
	r.deps.Subscribe = func(ctx context.Context, sub feed.Subscription) error {
		s, ok := r.sources[sub.Host.Name]
		if !ok {
			return errors.New("no such relay")
		}
		return s.subscribe(ctx, sub)
	}
	return r
}

func (r *rig) relay(name string, s *source) {
	r.cfg.Relays = append(r.cfg.Relays, name)
	r.sources[name] = s
}

// start runs the pipeline until stop is called.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	r.reg = prometheus.NewRegistry()
	r.deps.Registry = r.reg
	p, err := New(r.cfg, r.deps)
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(r.t, <-ended)
	}
	r.t.Cleanup(stop)
	return stop
}

// cursor is empty also while Redis is away.
func (r *rig) cursor(host string) string {
	v, _, err := r.client.Cursor(context.Background(), liveStream+":cursor:"+host)
	if err != nil {
		return ""
	}
	return v
}

// movedFrom says whether the cursor of a relay is known to be another one.
func (r *rig) movedFrom(host, seq string) func() bool {
	return func() bool {
		c := r.cursor(host)
		return c != "" && c != seq
	}
}

// until waits for the cursor of a relay.
func (r *rig) until(host, seq string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.cursor(host) == seq }, 2*time.Minute, 2*time.Millisecond,
		"cursor of %s does not reach %s", host, seq)
}

func (r *rig) events() []event.Event {
	r.t.Helper()
	return eventsOf(r.t, r.raw, r.prefix+liveStream)
}

func eventsOf(t *testing.T, c testkit.RedisConn, key string) []event.Event {
	t.Helper()
	entries, err := c.Do(context.Background(), c.B().Xrange().Key(key).Start("-").End("+").Build()).AsXRange()
	require.NoError(t, err)
	out := make([]event.Event, 0, len(entries))
	for _, e := range entries {
		ev, err := event.DecodeEvent(func(name string) (string, bool) { v, ok := e.FieldValues[name]; return v, ok })
		require.NoError(t, err)
		out = append(out, *ev)
	}
	return out
}

func (r *rig) letters() []map[string]string {
	r.t.Helper()
	entries, err := r.raw.Do(context.Background(), r.raw.B().Xrange().Key(r.prefix+liveStream+"_dlq").Start("-").End("+").Build()).AsXRange()
	require.NoError(r.t, err)
	var out []map[string]string
	for _, e := range entries {
		out = append(out, e.FieldValues)
	}
	return out
}

// metric is the sum over the series of a metric whose labels have the value,
// or of all of them.
func (r *rig) metric(name string, value ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			match := len(value) == 0
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == value[0]
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return sum
	}
	r.t.Fatalf("metric %s is not exported", name)
	return 0
}

// keys is a KeySource of known identities.
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

// production are the recorded frames of the production relay and the keys of
// their accounts.
func production(t *testing.T) ([][]byte, keys) {
	t.Helper()
	dir := testkit.Shared(t, "fixtures/firehose")
	b, err := os.ReadFile(filepath.Join(dir, "frames.bin"))
	require.NoError(t, err)
	var frames [][]byte
	for len(b) > 0 {
		n := int(binary.LittleEndian.Uint32(b))
		frames = append(frames, b[4:4+n])
		b = b[4+n:]
	}
	raw, err := os.ReadFile(filepath.Join(dir, "did_docs.json"))
	require.NoError(t, err)
	var docs map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &docs))
	ks := keys{}
	for did, doc := range docs {
		id, err := atproto.ParseDocument(did, doc)
		require.NoError(t, err)
		ks[did] = id
	}
	return frames, ks
}
