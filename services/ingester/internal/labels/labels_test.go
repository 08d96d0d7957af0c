package labels

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	lexutil "github.com/bluesky-social/indigo/lex/util"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/pkg/testkit/repo"
	"sluice/services/ingester/internal/feed"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"),
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

const (
	stream = "label_live"
	host   = "labeler.example"
	src    = "did:plc:llllllllllllllllllllllll"
)

type gate struct {
	mu     sync.Mutex
	closed bool
}

func (g *gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		closed := g.closed
		g.mu.Unlock()
		if !closed {
			return ctx.Err()
		}
		if err := fault.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

type box struct {
	*redstream.Writer
	client *redstream.Client
}

func (b box) Len(ctx context.Context) (int64, error) { return b.client.Len(ctx, stream+"_dlq") }

type keys struct{ identity atproto.Identity }

func (k keys) Identity(context.Context, string) (atproto.Identity, error) { return k.identity, nil }
func (k keys) Refresh(context.Context, string) (atproto.Identity, error)  { return k.identity, nil }

type rig struct {
	t      *testing.T
	cfg    Config
	deps   Deps
	client *redstream.Client
	raw    testkit.RedisConn
	prefix string
	gate   *gate
	p      *Pipeline

	mu     sync.Mutex
	asked  []int64
	frames chan []byte
}

func newRig(t *testing.T) *rig {
	t.Helper()
	url, prefix := testkit.Redis(t)
	r := &rig{t: t, prefix: prefix, gate: &gate{}, frames: make(chan []byte, 1000)}
	log := slog.New(slog.DiscardHandler)
	var err error
	r.client, err = redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, log, nil)
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	r.raw, err = testkit.RedisClient(url)
	require.NoError(t, err)
	t.Cleanup(r.raw.Close)
	w, err := r.client.NewWriter(redstream.WriterConfig{Stream: stream})
	require.NoError(t, err)
	t.Cleanup(w.Close)
	dead, err := r.client.NewWriter(redstream.WriterConfig{Stream: stream + "_dlq"})
	require.NoError(t, err)
	t.Cleanup(dead.Close)
	r.cfg = Config{Labelers: []string{host}, Stream: stream, Encoding: event.JSON, Grace: time.Second}
	r.deps = Deps{
		Stream: w, Cursors: r.client, Gate: r.gate, Dead: box{dead, r.client}, Log: log,
		Subscribe: r.subscribe, Errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "errors_total", Help: "Errors."}),
	}
	return r
}

// subscribe hands out frames once each, whatever the cursor.
func (r *rig) subscribe(ctx context.Context, s feed.Subscription) error {
	for ctx.Err() == nil {
		seq, _ := s.Cursor()
		r.mu.Lock()
		r.asked = append(r.asked, seq)
		r.mu.Unlock()
		for {
			var raw []byte
			select {
			case raw = <-r.frames:
			case <-ctx.Done():
				return nil
			}
			if s.Frame(ctx, raw) != nil {
				break
			}
		}
	}
	return nil
}

func (r *rig) start() (stop func()) {
	r.t.Helper()
	p, err := New(r.cfg, r.deps)
	require.NoError(r.t, err)
	r.p = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	done := false
	stop = func() {
		if !done {
			done = true
			cancel()
			require.NoError(r.t, <-ended)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) cursor() string {
	v, _, err := r.client.Cursor(context.Background(), stream+":cursor:"+host)
	require.NoError(r.t, err)
	return v
}

func (r *rig) until(seq string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.cursor() == seq }, 60*time.Second, time.Millisecond)
}

func (r *rig) labels() []event.LabelEvent {
	r.t.Helper()
	entries, err := r.raw.Do(context.Background(), r.raw.B().Xrange().Key(r.prefix+stream).Start("-").End("+").Build()).AsXRange()
	require.NoError(r.t, err)
	var out []event.LabelEvent
	for _, e := range entries {
		l, err := event.DecodeLabels(func(name string) (string, bool) { v, ok := e.FieldValues[name]; return v, ok })
		require.NoError(r.t, err)
		require.Len(r.t, l, 1)
		out = append(out, l...)
	}
	return out
}

type label = comatproto.LabelDefs_Label

func frameOf(t *testing.T, seq int64, labels ...*label) []byte {
	t.Helper()
	raw, err := repo.Frame("#labels", &comatproto.LabelSubscribeLabels_Labels{Seq: seq, Labels: labels})
	require.NoError(t, err)
	return raw
}

func simple(val string) *label {
	return &label{Src: src, Uri: "at://did:plc:xxxxxxxxxxxxxxxxxxxxxxxx/app.bsky.feed.post/1", Val: val, Cts: "2025-10-31T18:00:00Z"}
}

func TestNothingOfALabelIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	full := simple("porn")
	full.Ver, full.Cid, full.Neg = new(int64(1)), new("bafyreiguce4jh7kcbmof3pmcvasifqtw24b6isakj5ve5ga2b4z4alpc4i"), new(true)
	full.Cts, full.Exp = "2025-10-31T18:00:00.123456+02:00", new("2026-01-01T00:00:00Z")
	full.Sig = lexutil.LexBytes{0, 1, 2, 255}
	r.start()
	r.frames <- frameOf(t, 5, full, simple("spam"))
	r.until("5")
	require.Equal(t, []event.LabelEvent{
		{Seq: 5, Host: host, Label: event.Label{
			Ver: new(int64(1)), Src: src, URI: full.Uri, CID: *full.Cid, Val: "porn", Neg: true,
			CTS: "2025-10-31T18:00:00.123456+02:00", Exp: "2026-01-01T00:00:00Z", Sig: []byte{0, 1, 2, 255},
		}},
		{Seq: 5, Host: host, Label: event.Label{Src: src, URI: full.Uri, Val: "spam", CTS: "2025-10-31T18:00:00Z"}},
	}, r.labels())
	require.Equal(t, []int64{0}, r.asked, "a labeler without a cursor is read from its start")
	require.InDelta(t, 2, testutil.ToFloat64(r.p.metrics.received), 0)
	require.Eventually(t, func() bool { return testutil.ToFloat64(r.p.metrics.written) == 2 }, 60*time.Second, time.Millisecond)
}

func TestBadLabelLeavesTheOthersOfItsFrame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	bad := simple("")
	r.frames <- frameOf(t, 1, simple("a"), bad, simple("b"))
	r.frames <- []byte{0xff, 0x00}
	r.frames <- frameOf(t, 2, simple("c"))
	r.until("2")
	require.Len(t, r.labels(), 3)
	require.InDelta(t, 1, testutil.ToFloat64(r.p.metrics.drops.WithLabelValues(string(event.ReasonBadLabel))), 0)
	require.InDelta(t, 1, testutil.ToFloat64(r.p.metrics.drops.WithLabelValues(string(event.ReasonBadFrame))), 0)
	n, err := r.client.Len(t.Context(), stream+"_dlq")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}

func TestRepeatedLateAndErrorFrames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	r.frames <- frameOf(t, 1, simple("a"))
	r.frames <- frameOf(t, 1, simple("a"))
	r.frames <- repo.ErrorFrame("ConsumerTooSlow", "")
	r.frames <- frameOf(t, 3, simple("c"))
	r.frames <- frameOf(t, 2, simple("b"))
	r.frames <- frameOf(t, 4, simple("d"))
	r.until("4")
	vals := []string{}
	for _, l := range r.labels() {
		vals = append(vals, l.Label.Val)
	}
	require.ElementsMatch(t, []string{"a", "b", "c", "d"}, vals)
	require.Equal(t, []int64{0, 1}, r.asked)
}

func TestFutureCursorBeginsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.NoError(t, r.client.SetCursor(t.Context(), stream+":cursor:"+host, "900"))
	r.start()
	r.frames <- repo.ErrorFrame("FutureCursor", "")
	r.frames <- frameOf(t, 1, simple("a"))
	r.until("1")
	require.Equal(t, []int64{900, 0}, r.asked)
	require.InDelta(t, 1, testutil.ToFloat64(r.p.metrics.gaps), 0)
	require.Len(t, r.labels(), 1)
}

func TestFullStreamHoldsTheLabels(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.Window = 4
	r.gate.closed = true
	stop := r.start()
	for i := range 40 {
		r.frames <- frameOf(t, int64(i+1), simple("a"))
	}
	require.Never(t, func() bool { return r.cursor() != "" || len(r.frames) == 0 }, 100*time.Millisecond, 10*time.Millisecond)
	r.gate.mu.Lock()
	r.gate.closed = false
	r.gate.mu.Unlock()
	r.until("40")
	require.Len(t, r.labels(), 40)
	stop()
}

// A sequence number that is none moves no cursor and ends nothing.
func TestOddSequenceNumbersAreDropped(t *testing.T) {
	t.Parallel()
	for _, seq := range []int64{math.MinInt64, -1, 0, 1 << 53, math.MaxInt64} {
		r := newRig(t)
		r.start()
		r.frames <- frameOf(t, 1, simple("a"))
		r.frames <- frameOf(t, seq, simple("odd"))
		unknown, err := repo.Frame("#later", &comatproto.LabelSubscribeLabels_Labels{Seq: seq})
		require.NoError(t, err)
		r.frames <- unknown
		r.frames <- frameOf(t, 2, simple("b"))
		r.until("2")
		require.Len(t, r.labels(), 2, "seq %d", seq)
		require.InDelta(t, 2, testutil.ToFloat64(r.p.metrics.drops.WithLabelValues(string(event.ReasonBadFrame))), 0, "seq %d", seq)
	}
}

// A labeler whose cursor Redis has lost is read from its start.
func TestLostCursorBeginsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	r.frames <- frameOf(t, 5, simple("a"))
	r.until("5")
	require.NoError(t, r.client.DeleteCursor(t.Context(), stream+":cursor:"+host))
	r.frames <- frameOf(t, 6, simple("b"))
	asked := func() []int64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return append([]int64(nil), r.asked...)
	}
	require.Eventually(t, func() bool { return len(asked()) == 2 }, 60*time.Second, time.Millisecond)
	require.Equal(t, []int64{0, 0}, asked())
}

// Frames in hand are bounded by their bytes as well as by their number.
func TestBytesInHandAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raw := frameOf(t, 1, simple("a"))
	r.cfg.WindowBytes = int64(3 * len(raw))
	r.gate.closed = true
	r.start()
	for i := range 40 {
		r.frames <- frameOf(t, int64(i+1), simple("a"))
	}
	require.Never(t, func() bool { return len(r.frames) < 36 }, 200*time.Millisecond, 10*time.Millisecond)
	r.gate.mu.Lock()
	r.gate.closed = false
	r.gate.mu.Unlock()
	r.until("40")
	r.frames <- frameOf(t, 41, simple(strings.Repeat("x", 100)), simple(strings.Repeat("y", 100)), simple(strings.Repeat("z", 100)), simple("b"))
	r.until("41")
}

func signedLabel(t *testing.T, key *repo.Key, val string) *label {
	t.Helper()
	l := simple(val)
	content := repo.MustEncode(repo.Map{"src": l.Src, "uri": l.Uri, "val": l.Val, "cts": l.Cts})
	sig, err := key.Sign(content)
	require.NoError(t, err)
	l.Sig = sig
	return l
}

func TestSignaturesAsConfigured(t *testing.T) {
	t.Parallel()
	key, err := repo.NewKey(repo.K256, "labeler")
	require.NoError(t, err)
	wrong, err := repo.NewKey(repo.K256, "other")
	require.NoError(t, err)
	doc := `{"id":"` + src + `","verificationMethod":[{"id":"` + src + `#atproto_label","type":"Multikey","controller":"` + src + `","publicKeyMultibase":"` + key.Multibase() + `"}]}`
	id, err := atproto.ParseDocument(src, []byte(doc))
	require.NoError(t, err)
	for verify, want := range map[string]string{
		VerifyOff: "good,forged,unsigned", VerifySigned: "good,unsigned", VerifyRequire: "good",
	} {
		t.Run(verify, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.cfg.Verify, r.deps.Keys = verify, keys{id}
			r.start()
			r.frames <- frameOf(t, 1, signedLabel(t, key, "good"), signedLabel(t, wrong, "forged"), simple("unsigned"))
			r.until("1")
			var vals []string
			for _, l := range r.labels() {
				vals = append(vals, l.Label.Val)
			}
			require.Equal(t, want, strings.Join(vals, ","))
		})
	}
}
