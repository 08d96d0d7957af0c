package feed

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"sluice/pkg/redstream"
)

const (
	// deadFrameBytes bounds how much of an unreadable frame is kept.
	deadFrameBytes = 16 << 10
	// deadRate and deadBurst bound how many unreadable frames are kept; the
	// rest is counted.
	deadRate, deadBurst = rate.Limit(1), 500
)

// LetterBox takes frames that cannot be read. Append is durable on return;
// Len is the number of letters kept. Both are safe for concurrent use.
type LetterBox interface {
	Append(ctx context.Context, items []redstream.Item) error
	Len(ctx context.Context) (int64, error)
}

// DeadLetters parks frames within bounds: a relay that sends garbage cannot
// fill Redis.
type DeadLetters struct {
	to     LetterBox
	most   int64
	limit  *rate.Limiter
	parked *prometheus.CounterVec
}

// What became of a dead letter: the values of the label kept.
const (
	Stored  = "stored"
	Counted = "counted"
)

// NewDeadLetters keeps at most about most letters in the box. parked counts
// them by Stored and Counted.
func NewDeadLetters(to LetterBox, most int64, parked *prometheus.CounterVec) *DeadLetters {
	return &DeadLetters{to: to, most: most, limit: rate.NewLimiter(deadRate, deadBurst), parked: parked}
}

// DeadLetter is a frame that could not be read.
type DeadLetter struct {
	frame  []byte // its beginning
	size   int    // of the whole
	reason string
	err    error
}

// NewDeadLetter copies what is kept of the frame.
func NewDeadLetter(frame []byte, reason string, err error) *DeadLetter {
	return &DeadLetter{frame: bytes.Clone(frame[:min(len(frame), deadFrameBytes)]), size: len(frame), reason: reason, err: err}
}

// Park keeps the letter, or only counts it when there are too many. Durable on
// return.
func (d *DeadLetters) Park(ctx context.Context, host string, l *DeadLetter) error {
	if !d.limit.Allow() {
		d.parked.WithLabelValues(Counted).Inc()
		return nil
	}
	n, err := d.to.Len(ctx)
	if err != nil || n >= d.most {
		d.parked.WithLabelValues(Counted).Inc()
		return nil //nolint:nilerr // a letter is for people; the stream does not wait for it
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	item := redstream.Item{Fields: []redstream.Field{
		{Name: "frame", Value: base64.StdEncoding.EncodeToString(l.frame)},
		{Name: "frame_bytes", Value: strconv.Itoa(l.size)},
		{Name: "host", Value: host},
		{Name: "reason", Value: l.reason},
		{Name: "error", Value: fmt.Sprintf("%.500s", l.err.Error())},
		{Name: "attempts", Value: "1"},
		{Name: "first_seen", Value: now},
		{Name: "parked_at", Value: now},
		{Name: "source_id", Value: ""},
	}}
	if err := d.to.Append(ctx, []redstream.Item{item}); err != nil {
		return fmt.Errorf("park frame: %w", err)
	}
	d.parked.WithLabelValues(Stored).Inc()
	return nil
}
