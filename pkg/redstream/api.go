// Package redstream is a library for Redis Streams: an ordered writer with a
// cursor, consumer groups that lose nothing, safe trimming, high-water gates
// and dead letters. It knows nothing of what the entries mean.
package redstream

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var errSoon = errors.New("redstream: under construction")

type Config struct {
	URL       string
	KeyPrefix string
}

// Client is one connection set to one Redis.
type Client struct{}

func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Client, error) {
	return nil, errSoon
}
func (c *Client) Close()                         {}
func (c *Client) Ping(ctx context.Context) error { return errSoon }
func (c *Client) Len(ctx context.Context, stream string) (int64, error) {
	return 0, errSoon
}

// Field is one field of an entry.
type Field struct{ Name, Value string }

// Entry is one stream entry.
type Entry struct {
	Stream string
	ID     string
	Fields []Field
}

func (e Entry) Get(name string) (string, bool) { return "", false }

// Item is one entry to append. All items of one Seq are in one append.
type Item struct {
	Seq    int64
	Fields []Field
}

// Writer appends to one stream in order on one connection.
type Writer struct{}
type WriterConfig struct{ Stream string }

func (c *Client) NewWriter(cfg WriterConfig) (*Writer, error) { return nil, errSoon }

// Append adds all items or none; retried until ctx ends (a lost answer may repeat them).
func (w *Writer) Append(ctx context.Context, items []Item) error { return errSoon }

// AppendSeq adds the items whose Seq is above the numeric cursor at key, in one
// atomic step, and moves the cursor to upTo. Exactly once under repetition.
func (w *Writer) AppendSeq(ctx context.Context, key string, items []Item, upTo int64) (added int, err error) {
	return 0, errSoon
}

// AppendCAS adds the items and sets the opaque cursor from expect to next in
// one atomic step; if the cursor is already next it adds nothing (a repeat);
// any other value is ErrCursorMoved.
func (w *Writer) AppendCAS(ctx context.Context, key, expect, next string, items []Item) (added int, err error) {
	return 0, errSoon
}
func (w *Writer) Close() {}

var ErrCursorMoved = errors.New("cursor moved")

// Cursor reads the first of the keys that exists. An error is an error, never "no cursor".
func (c *Client) Cursor(ctx context.Context, key string, fallback ...string) (value string, found bool, err error) {
	return "", false, errSoon
}
func (c *Client) SetCursor(ctx context.Context, key, value string) error { return errSoon }

// ConsumerConfig describes one consumer of one group.
type ConsumerConfig struct {
	Group, Consumer string
	Streams         []string
	Batch           int           // COUNT of a read. Default 500
	Window          int           // most entries held unacked before reading stops. Default 4 × Batch
	Block           time.Duration // one blocking read. Default 1s
	ClaimIdle       time.Duration // idle time after which others may take an entry. Default 60s
	MaxDeliveries   int64         // deliveries after which an entry is parked. Default 5
}

// Delivery is an entry handed to this consumer.
type Delivery struct {
	Entry
	Deliveries int64
	Claimed    bool
}

// Handler takes entries. Blocking is back-pressure. Every delivery must in the
// end be given to exactly one of Ack, Retry or Park. An error stops the consumer.
type Handler func(ctx context.Context, batch []Delivery) error

type Consumer struct{}

func (c *Client) NewConsumer(cfg ConsumerConfig) (*Consumer, error) { return nil, errSoon }

// Run reads until ctx ends (take no more); then it returns with nothing lost:
// what was handed out stays with the handler, Close finishes it.
func (c *Consumer) Run(ctx context.Context, h Handler) error { return errSoon }

// Ack queues acknowledgements; failed acks are retried. Safe for concurrent use.
func (c *Consumer) Ack(ds ...Delivery) {}

// Retry gives entries up for now: they stay pending and are delivered again after d, to any consumer.
func (c *Consumer) Retry(d time.Duration, ds ...Delivery) {}

// Park moves one entry to the dead letters of its stream and acks it, in one step; durable on return.
func (c *Consumer) Park(ctx context.Context, d Delivery, reason string, cause error) error {
	return errSoon
}

// Close flushes acks, hands over what is held and removes the consumer when nothing is pending.
func (c *Consumer) Close(ctx context.Context) error { return errSoon }

// Unhealthy opens (true) or closes the circuit breaker: while open nothing is claimed, counted or parked.
func (c *Consumer) Unhealthy(bad bool) {}

// Trimmer removes what every group has finished.
type Trimmer struct{}
type TrimConfig struct {
	Streams map[string][]string // stream → the groups that are expected on it
	Every   time.Duration       // Default 1s
}

func (c *Client) NewTrimmer(cfg TrimConfig) *Trimmer { return nil }
func (t *Trimmer) Run(ctx context.Context) error     { return errSoon }

// Floor is the lowest id of the stream that any group still needs, as of now.
// Everything below it is finished by every group.
func (c *Client) Floor(ctx context.Context, stream string) (id string, holder string, err error) {
	return "", "", errSoon
}

// Gate holds a producer while a stream is too long or Redis is nearly full.
type Gate struct{}
type GateConfig struct {
	Stream    string
	High, Low int64   // entries; Low defaults to 80 % of High
	Memory    float64 // share of maxmemory at which it closes. Default 0.85
	Every     time.Duration
	// OnChange is called when the gate opens or closes.
	OnChange func(closed bool)
}

func (c *Client) NewGate(cfg GateConfig) *Gate { return nil }
func (g *Gate) Run(ctx context.Context) error  { return errSoon }
func (g *Gate) Wait(ctx context.Context) error { return errSoon }
func (g *Gate) Closed() bool                   { return false }

// Monitor exports length, lag, pending … of every stream of the suite.
type Monitor struct{}
type MonitorConfig struct {
	Streams map[string][]string
	Every   time.Duration // Default 10s
}

func (c *Client) NewMonitor(cfg MonitorConfig) *Monitor { return nil }
func (m *Monitor) Run(ctx context.Context) error        { return errSoon }
func (m *Monitor) Stats(stream string) StreamStats      { return StreamStats{} }

// StreamStats is one stream at one moment.
type StreamStats struct {
	Length, Added, Pending int64
	Lag                    int64 // -1 is unknown
	OldestPending          time.Duration
}

// Delayed is a sorted set of entries to be appended to a stream later; it survives restarts.
type Delayed struct{}

func (c *Client) NewDelayed(key, stream string) *Delayed { return nil }

// AddAndAck schedules fields for stream at time at and acks d, in one step.
func (q *Delayed) AddAndAck(ctx context.Context, d Delivery, group string, fields []Field, at time.Time) error {
	return errSoon
}

// Run moves what is due to the stream.
func (q *Delayed) Run(ctx context.Context) error { return errSoon }
