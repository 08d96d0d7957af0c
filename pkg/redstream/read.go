package redstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// source is one stream of a consumer: what is read, held and acknowledged of it.
type source struct {
	cons   *Consumer
	c      *Client
	stream string // name
	key    string // name in Redis
	dlq    string // key of the dead letters
	group  string
	name   string // of the consumer
	log    *slog.Logger

	held     *ledger
	apart    suspects
	acks     *ackQueue
	in       chan []Delivery // from read and claim to dispatch
	intake   sync.Mutex      // held from looking at the pending list until what was taken from it is in the ledger
	caughtUp chan struct{}   // closed when the history is read
	asked    atomic.Int64    // when Redis last answered a read, in ms

	// Owned by read.
	history string // last id of the own history that was read; "" when it is read to its end

	broken bool // guarded by cons.mu
}

// errAllBroken ends a consumer none of whose streams can be read.
var errAllBroken = errors.New("no stream can be read")

func newSource(cons *Consumer, stream string) (*source, error) {
	c, cfg := cons.c, cons.cfg
	dead := cfg.DeadLetters[stream]
	if dead == "" {
		dead = stream + dlqSuffix
	}
	s := &source{
		cons: cons, c: c, stream: stream, key: c.keys.stream(stream), dlq: c.keys.under(stream, dead),
		group: cfg.Group, name: cfg.Consumer, log: cons.log.With(slog.String("stream", stream)),
		held: newLedger(), acks: newAckQueue(), in: make(chan []Delivery, 1),
		caughtUp: make(chan struct{}), history: "0",
	}
	if c.keys.cluster && tag(s.dlq) != tag(s.key) {
		return nil, fault.Fatalf("consumer: %w: %s and %s", ErrSlot, s.key, s.dlq)
	}
	s.asked.Store(time.Now().UnixMilli())
	c.metrics.initGroup(stream, cfg.Group)
	return s, nil
}

// read keeps reading whatever happens to the stream, the group or the
// connection, until ctx ends. It gives up only when every stream is broken.
func (s *source) read(ctx context.Context) error {
	backoff := fault.Backoff{Initial: 50 * time.Millisecond, Max: 5 * time.Second}
	failures := 0
	for !ended(ctx) {
		before := s.asked.Load()
		err := s.session(ctx)
		if ended(ctx) || err == nil {
			break
		}
		if s.asked.Load() != before {
			failures = 0
		}
		failures++
		if failures == 1 {
			s.log.WarnContext(ctx, "reading interrupted", slog.Any("err", err))
		}
		if fault.ClassOf(err) == fault.Fatal && s.markBroken(true) {
			return fmt.Errorf("%w: %w", errAllBroken, err)
		}
		if pause(ctx, backoff.Delay(failures)) {
			break
		}
	}
	s.markBroken(false)
	return nil
}

// markBroken notes that the stream cannot or can be read, and returns whether
// no stream of the consumer can.
func (s *source) markBroken(broken bool) bool {
	s.cons.mu.Lock()
	defer s.cons.mu.Unlock()
	s.broken = broken
	v := 0.0
	if broken {
		v = 1
	}
	s.c.metrics.broken.WithLabelValues(s.stream, s.group).Set(v)
	for _, other := range s.cons.streams {
		if !other.broken {
			return false
		}
	}
	return true
}

// session makes sure of the group, reads the own history once, picks up what a
// broken read left behind, and then reads new entries until something fails.
func (s *source) session(ctx context.Context) error {
	if err := s.ensureGroup(ctx); err != nil {
		return err
	}
	if s.history != "" {
		if err := s.readHistory(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	} else if err := s.recoverOrphans(ctx); err != nil {
		return err
	}
	s.markBroken(false)
	for {
		room := s.awaitRoom(ctx)
		if ended(ctx) {
			return nil
		}
		entries, err := s.readNew(ctx, room)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			continue
		}
		s.c.metrics.read.WithLabelValues(s.stream, s.group).Add(float64(len(entries)))
		if err := s.deliver(ctx, s.held.admit(entries)); err != nil {
			return err
		}
	}
}

// ensureGroup creates the group at 0: what is in the stream is to be read.
func (s *source) ensureGroup(ctx context.Context) error {
	created, err := s.c.ensureGroup(ctx, s.stream, s.group)
	if created {
		s.log.InfoContext(ctx, "group created")
		s.c.metrics.recreated.WithLabelValues(s.stream, s.group).Inc()
	}
	return err
}

// EnsureGroup creates the stream and the group where they do not exist. A new
// group starts at the first entry.
func (c *Client) EnsureGroup(ctx context.Context, stream, group string) error {
	_, err := c.ensureGroup(ctx, stream, group)
	return err
}

func (c *Client) ensureGroup(ctx context.Context, stream, group string) (created bool, err error) {
	key := c.keys.stream(stream)
	err = c.do(ctx, c.rc.B().XgroupCreate().Key(key).Group(group).Id("0").Mkstream().Build()).Error()
	if rueidis.IsRedisBusyGroup(err) {
		return false, nil
	}
	err = classify("create group", key, err)
	// A full Redis refuses the command even if the group exists, and a group
	// that exists must be read for memory to become free.
	if errors.Is(err, ErrMemory) && c.hasGroup(ctx, key, group) {
		return false, nil
	}
	return err == nil, err
}

func (c *Client) hasGroup(ctx context.Context, key, group string) bool {
	list, err := c.do(ctx, c.rc.B().XinfoGroups().Key(key).Build()).ToArray()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(m rueidis.RedisMessage) bool {
		info, err := m.AsMap()
		return err == nil && text(info, "name") == group
	})
}

// awaitRoom returns how many entries may be read. It waits until a fair share
// of the window is free, so that a slow handler does not cause tiny reads.
func (s *source) awaitRoom(ctx context.Context) int {
	least := max(1, s.cons.cfg.Batch/4)
	for {
		room := s.cons.cfg.Window - s.held.size()
		if room >= least || room > 0 && s.held.idle() {
			return min(room, s.cons.cfg.Batch)
		}
		select {
		case <-s.held.freed:
		case <-ctx.Done():
			return 0
		}
	}
}

// readNew blocks for entries that no consumer of the group has had. It is not
// cut short when ctx ends: Redis would deliver entries that nobody sees.
func (s *source) readNew(ctx context.Context, count int) ([]Delivery, error) {
	block := s.cons.cfg.Block
	once, cancel := context.WithTimeout(context.WithoutCancel(ctx), block+s.c.addr.option.ConnWriteTimeout)
	defer cancel()
	cmd := s.c.rc.B().Xreadgroup().Group(s.group, s.name).Count(int64(count)).Block(block.Milliseconds()).
		Streams().Key(s.key).Id(">").Build()
	entries, _, err := s.entries(s.c.rc.Do(once, cmd))
	return entries, err
}

// entries reads the reply of XREADGROUP for one stream. phantoms are pending
// ids without an entry.
func (s *source) entries(reply rueidis.RedisResult) (ds []Delivery, phantoms []string, err error) {
	message, err := reply.ToMessage()
	if rueidis.IsRedisNil(err) {
		s.asked.Store(time.Now().UnixMilli())
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, classify("read", s.key, err)
	}
	s.asked.Store(time.Now().UnixMilli())
	list, err := entriesOf(message, s.key)
	if err == nil {
		ds, phantoms, err = deliveriesOf(s.stream, s.cons, list)
	}
	return ds, phantoms, classify("read", s.key, err)
}

// readHistory hands out what an earlier life of this consumer held, following
// the last id until nothing is left. Each entry is read once: a history read
// makes it look fresh and counts as a delivery.
func (s *source) readHistory(ctx context.Context) error {
	for {
		room := s.awaitRoom(ctx)
		if ended(ctx) {
			return nil
		}
		cmd := s.c.rc.B().Xreadgroup().Group(s.group, s.name).Count(int64(room)).
			Streams().Key(s.key).Id(s.history).Build()
		ds, phantoms, err := s.entries(s.c.do(ctx, cmd))
		if err != nil {
			return err
		}
		if len(ds) == 0 && len(phantoms) == 0 {
			s.history = ""
			close(s.caughtUp)
			return nil
		}
		if err := s.forget(ctx, phantoms); err != nil {
			return err
		}
		last := lastID(ds, phantoms)
		if err := s.countDeliveries(ctx, ds); err != nil {
			return err
		}
		s.history = last
		if err := s.redeliver(ctx, ds); err != nil {
			return err
		}
	}
}

func lastID(ds []Delivery, phantoms []string) string {
	last := ""
	if len(ds) > 0 {
		last = ds[len(ds)-1].ID
	}
	if n := len(phantoms); n > 0 && CompareIDs(phantoms[n-1], last) > 0 {
		last = phantoms[n-1]
	}
	return last
}

// forget acknowledges pending ids that have no entry.
func (s *source) forget(ctx context.Context, phantoms []string) error {
	if len(phantoms) == 0 {
		return nil
	}
	n, err := s.c.do(ctx, s.c.rc.B().Xack().Key(s.key).Group(s.group).Id(phantoms...).Build()).AsInt64()
	s.c.metrics.phantoms.WithLabelValues(s.stream, s.group).Add(float64(n))
	return classify("forget phantoms of", s.key, err)
}

// countDeliveries fills in how often each entry of an ascending stretch of the
// own pending list was delivered.
func (s *source) countDeliveries(ctx context.Context, ds []Delivery) error {
	if len(ds) == 0 {
		return nil
	}
	list, err := s.pending(ctx, pendingQuery{
		from: ds[0].ID, to: ds[len(ds)-1].ID, count: 2 * len(ds), consumer: s.name,
	})
	if err != nil {
		return err
	}
	counts := make(map[string]int64, len(list))
	for _, p := range list {
		counts[p.id] = p.deliveries
	}
	for i := range ds {
		ds[i].Deliveries = max(counts[ds[i].ID], 1)
		ds[i].Claimed = true
	}
	return nil
}

// recoverOrphans takes up entries that Redis delivered to this consumer in an
// answer that was lost.
func (s *source) recoverOrphans(ctx context.Context) error {
	s.intake.Lock()
	defer s.intake.Unlock()
	from := "-"
	for {
		list, err := s.pending(ctx, pendingQuery{from: from, to: "+", count: claimPage, consumer: s.name})
		if err != nil || len(list) == 0 {
			return err
		}
		if err := s.take(ctx, list, 0); err != nil || ctx.Err() != nil {
			return err
		}
		from = "(" + list[len(list)-1].id
	}
}
