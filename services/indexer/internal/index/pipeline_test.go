package index_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/index"
	"sluice/services/indexer/internal/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"))
}

const stream, group = "firehose_live", "firehose_group"

// memory is an applier that remembers. fail, if set, decides about each batch.
type memory struct {
	mu      sync.Mutex
	events  []event.Event
	sweeps  []store.Sweep
	deleted []string
	labels  []event.LabelEvent
	fail    func([]store.Change) error
}

func (m *memory) Apply(_ context.Context, changes []store.Change) (store.Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(changes); err != nil {
			return store.Outcome{}, err
		}
	}
	for _, c := range changes {
		m.events = append(m.events, *c.Event)
	}
	return store.Outcome{Results: make([]store.ChangeResult, len(changes))}, nil
}

func (m *memory) QueueSweeps(_ context.Context, sweeps ...store.Sweep) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweeps = append(m.sweeps, sweeps...)
	return nil
}

func (m *memory) DeleteAccount(_ context.Context, did, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deleted = append(m.deleted, did)
	return nil
}

func (m *memory) ApplyLabels(_ context.Context, labels []event.LabelEvent) (store.LabelOutcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.labels = append(m.labels, labels...)
	return store.LabelOutcome{Added: len(labels), Errors: make([]error, len(labels))}, nil
}

// seqs lists the sequence numbers applied, by DID, in order.
func (m *memory) seqs() map[string][]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]int64{}
	for _, e := range m.events {
		out[e.DID] = append(out[e.DID], e.Seq)
	}
	return out
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.events) + len(m.labels)
}

// bench is one Redis with a stream and what runs on it.
type bench struct {
	t      *testing.T
	client *redstream.Client
	writer *redstream.Writer
}

func newBench(t *testing.T, streamName string) *bench {
	t.Helper()
	url, prefix := testkit.Redis(t)
	c, err := redstream.Open(t.Context(), redstream.Config{URL: url, KeyPrefix: prefix}, nil, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	w, err := c.NewWriter(redstream.WriterConfig{Stream: streamName})
	require.NoError(t, err)
	t.Cleanup(w.Close)
	return &bench{t: t, client: c, writer: w}
}

func (b *bench) append(fields ...redstream.Field) {
	b.t.Helper()
	items := make([]redstream.Item, len(fields))
	for i, f := range fields {
		items[i] = redstream.Item{Fields: []redstream.Field{f}}
	}
	require.NoError(b.t, b.writer.Append(b.t.Context(), items))
}

func did(n int) string { return fmt.Sprintf("did:plc:%024d", n) }

func like(t *testing.T, enc event.Encoding, n int, seq int64) redstream.Field {
	t.Helper()
	e := event.Event{
		Type: event.Create, Seq: seq, Time: "2026-01-01T00:00:00.000Z", DID: did(n), Commit: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
		Rev: "3jzfcijpj2z2a", Collection: "app.bsky.feed.like", RKey: fmt.Sprintf("3jzfcijpj%04d", seq%10000), CID: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
	}
	e.Record = []byte(`{"$type":"app.bsky.feed.like","createdAt":"2026-01-01T00:00:00Z"}`)
	if enc == event.Protobuf {
		cbor, err := e.DAGCBOR()
		require.NoError(t, err)
		e.Record, e.RecordCBOR = nil, cbor
	}
	name, value, err := enc.Event(&e)
	require.NoError(t, err)
	return redstream.Field{Name: name, Value: value}
}

func account(t *testing.T, n int, seq int64, active bool, status string) redstream.Field {
	t.Helper()
	name, value, err := event.JSON.Event(&event.Event{
		Type: event.Account, Seq: seq, Time: "2026-01-01T00:00:00.000Z", DID: did(n), Active: active, Status: status,
	})
	require.NoError(t, err)
	return redstream.Field{Name: name, Value: value}
}

func config() index.Config {
	return index.Config{
		Name: stream, Stage: index.StageLive, Lanes: 4, Batch: 100, Grace: 5 * time.Second, PutBack: 50 * time.Millisecond,
		Consumer: redstream.ConsumerConfig{Group: group, Consumer: "one", Block: 100 * time.Millisecond, ClaimIdle: 2 * time.Second, MaxDeliveries: 3},
		Ping:     func(context.Context) error { return nil },
	}
}

type runner interface {
	Run(ctx context.Context) error
}

// start runs p until the test ends or stop is called.
func start(t *testing.T, p runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func (b *bench) events(cfg index.Config, to index.Sinks) runner {
	b.t.Helper()
	p, err := index.Events(b.client, cfg, true, to, index.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	require.NoError(b.t, err)
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 60*time.Second, 10*time.Millisecond, what)
}

// finished says whether the group has acknowledged everything.
func (b *bench) finished(streamName, groupName string) bool {
	st, err := b.client.Stats(b.t.Context(), streamName, groupName)
	return err == nil && st.Pending == 0 && st.Lag == 0
}

func (b *bench) deadLetters(streamName string) int64 {
	n, err := b.client.Len(b.t.Context(), streamName+"_dlq")
	require.NoError(b.t, err)
	return n
}

func TestBothEncodingsInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	const accounts, each = 20, 50
	for seq := range int64(accounts * each) {
		enc := event.JSON
		if seq%3 == 0 {
			enc = event.Protobuf
		}
		b.append(like(t, enc, int(seq)%accounts, seq+1))
	}
	m := &memory{}
	stop := start(t, b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "applied", func() bool { return m.count() >= accounts*each && b.finished(stream, group) })
	stop()
	for who, seqs := range m.seqs() {
		require.Len(t, seqs, each, who)
		require.True(t, slices.IsSorted(seqs), who)
	}
	for _, e := range m.events {
		require.JSONEq(t, `{"$type":"app.bsky.feed.like","createdAt":"2026-01-01T00:00:00Z"}`, string(e.Record))
	}
}

func TestPoisonEntriesAreParked(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	fields := make([]redstream.Field, 500)
	for i := range fields {
		fields[i] = like(t, event.JSON, i%7, int64(i+1))
	}
	fields[17] = redstream.Field{Name: "event", Value: `{"type":"create"`}
	fields[250] = redstream.Field{Name: "pb", Value: "\xff\xff\xff"}
	fields[499] = redstream.Field{Name: "other", Value: "x"}
	b.append(fields...)
	m := &memory{}
	start(t, b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, 497, m.count())
	require.EqualValues(t, 3, b.deadLetters(stream))
}

func TestEntryThatCannotBeAppliedIsFound(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	fields := make([]redstream.Field, 300)
	for i := range fields {
		fields[i] = like(t, event.JSON, i%7, int64(i+1))
	}
	b.append(fields...)
	m := &memory{fail: func(changes []store.Change) error {
		for _, c := range changes {
			if c.Event.Seq == 123 {
				return fault.Permanentf("value out of range")
			}
		}
		return nil
	}}
	start(t, b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, 299, m.count())
	require.EqualValues(t, 1, b.deadLetters(stream))
}

// An entry that keeps failing for a reason that may pass, while the database is
// well, is put back, and parked when it has been tried often enough.
func TestEntryThatAlwaysFailsEndsInTheDeadLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	for i := range 20 {
		b.append(like(t, event.JSON, i, int64(i+1)))
	}
	m := &memory{fail: func(changes []store.Change) error {
		for _, c := range changes {
			if c.Event.Seq == 5 {
				return errors.New("statement timeout")
			}
		}
		return nil
	}}
	cfg := config()
	cfg.Attempts = 1
	start(t, b.events(cfg, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Equal(t, 19, m.count())
	require.EqualValues(t, 1, b.deadLetters(stream))
}

// A stop in the middle of the work loses nothing; another member finishes it.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	const total = 3000
	for from := 0; from < total; from += 500 {
		fields := make([]redstream.Field, 500)
		for i := range fields {
			fields[i] = like(t, event.JSON, (from+i)%50, int64(from+i+1))
		}
		b.append(fields...)
	}
	m := &memory{}
	first := config()
	first.Batch = 10
	stop := start(t, b.events(first, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "begun", func() bool { return m.count() > 100 })
	stop()
	applied := m.count()
	second := config()
	second.Consumer.Consumer = "two"
	start(t, b.events(second, index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "finished", func() bool { return b.finished(stream, group) })
	seen := map[int64]bool{}
	for _, seqs := range m.seqs() {
		for _, s := range seqs {
			seen[s] = true
		}
	}
	require.Len(t, seen, total)
	t.Logf("%d applied before the stop, %d in all for %d events", applied, m.count(), total)
}

type answers struct {
	mu    sync.Mutex
	calls map[string]int
	say   func(did string, call int) (bool, error)
}

func (a *answers) Confirm(_ context.Context, did, _ string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[did]++
	return a.say(did, a.calls[did])
}

// Accounts that are said to be gone are checked; others are not held up.
func TestInactiveAccountsAreChecked(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	b.append(account(t, 1, 1, false, "deleted"), account(t, 2, 2, false, "deleted"), account(t, 3, 3, true, ""), like(t, event.JSON, 4, 4))
	a := &answers{calls: map[string]int{}, say: func(who string, _ int) (bool, error) { return who == did(1), nil }}
	m := &memory{}
	start(t, b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m, Accounts: a}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	got := m.seqs()
	require.Equal(t, map[string][]int64{did(1): {1}, did(3): {3}, did(4): {4}}, got)
	require.Equal(t, map[string]int{did(1): 1, did(2): 1}, a.calls)
	require.Equal(t, []string{did(1)}, m.deleted)
}

func TestSnapshotIsQueuedWithItsEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream)
	name, value, err := event.JSON.Event(&event.Event{
		Type: event.Repo, Seq: event.SeqBackfill, Time: "2026-01-01T00:00:00.000Z", DID: did(1), Commit: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
		Rev: "3jzfcijpj2z2a", Snapshot: true, Count: 3,
	})
	require.NoError(t, err)
	b.append(redstream.Field{Name: name, Value: value})
	m := &memory{}
	start(t, b.events(config(), index.Sinks{Apply: m, Sweeps: m, Delete: m}))
	eventually(t, "all settled", func() bool { return b.finished(stream, group) })
	require.Len(t, m.sweeps, 1)
	require.Equal(t, did(1), m.sweeps[0].DID)
	floor, _, err := b.client.Floor(t.Context(), stream)
	require.NoError(t, err)
	require.Positive(t, redstream.CompareIDs(floor, m.sweeps[0].ID))
}

func TestLabels(t *testing.T) {
	t.Parallel()
	const labelStream, labelGroup = "label_live", "label_group"
	b := newBench(t, labelStream)
	one := event.LabelEvent{Seq: 1, Host: "mod.test", Label: event.Label{Src: did(9), URI: "at://" + did(1) + "/app.bsky.feed.post/a", Val: "spam", CTS: "2026-01-01T00:00:00.000Z"}}
	gone := one
	gone.Label.Neg = true
	for i, l := range []event.LabelEvent{one, gone} {
		enc := event.JSON
		if i == 1 {
			enc = event.Protobuf
		}
		name, value, err := enc.Label(&l)
		require.NoError(t, err)
		b.append(redstream.Field{Name: name, Value: value})
	}
	// The form of the system before this one, with a label that lacks its value.
	b.append(redstream.Field{Name: "labels", Value: `{"seq":7,"labels":[{"src":"` + did(9) + `","uri":"` + did(2) + `","val":"rude","cts":"2025-10-31 18:00:00 UTC"},{"src":"` + did(9) + `","uri":"x","cts":"2025-10-31 18:00:00 UTC"}]}`})
	b.append(redstream.Field{Name: "event", Value: `{}`})
	m := &memory{}
	cfg := config()
	cfg.Name, cfg.Stage, cfg.Consumer.Group = labelStream, index.StageLabel, labelGroup
	p, err := index.Labels(b.client, cfg, m, index.NewMetrics(nil), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	start(t, p)
	eventually(t, "all settled", func() bool { return b.finished(labelStream, labelGroup) })
	require.Equal(t, 3, m.count())
	require.EqualValues(t, 2, b.deadLetters(labelStream))
}
