package redstream

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"sluice/pkg/fault"
)

// ReasonPoison is the reason of entries that were delivered too often without
// being finished.
const ReasonPoison = "poison"

const (
	// maxErrorText bounds the text of the cause in a dead letter, in bytes.
	maxErrorText = 4096
	// maxParkFields bounds the fields that a script can carry into the dead
	// letters as they are.
	maxParkFields = 3000
	// packedField holds the fields of a wider entry, encoded by packFields.
	packedField = "packed"
)

// Park moves one entry to the dead letters of its stream and acks it, in one
// step; durable on return. It is repeated until ctx ends. An entry that is not
// pending any more is left alone: somebody else has finished it.
func (cons *Consumer) Park(ctx context.Context, d Delivery, reason string, cause error) error {
	s := cons.source(d.Stream)
	if s == nil {
		return fault.Fatalf("park %s: stream %q is not of this consumer", d.ID, d.Stream)
	}
	args := append([]string{s.group, d.ID}, deadFields(d, reason, cause, time.Now())...)
	err := persist(ctx, once(func(err error) {
		s.log.WarnContext(ctx, "park repeated", slog.String("id", d.ID), slog.Any("err", err))
	}), func(ctx context.Context) error {
		code, err := s.c.script(ctx, parkEntry, []string{s.key, s.dlq}, args).AsInt64()
		switch {
		case err != nil:
			return classify("park in", s.dlq, err)
		case code < 0:
			return fault.Fatalf("park in %s: %w", s.dlq, ErrWrongType)
		case code > 0:
			s.c.metrics.parked.WithLabelValues(s.stream, reason).Inc()
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.held.release(d.ID)
	return nil
}

// deadFields are the fields of a dead letter: those of the entry, then why and
// when it was parked.
func deadFields(d Delivery, reason string, cause error, now time.Time) []string {
	fields := d.Fields
	if len(fields) > maxParkFields {
		fields = []Field{{Name: packedField, Value: packFields(fields)}}
	}
	args := make([]string, 0, 2*len(fields)+12)
	for _, f := range fields {
		args = append(args, f.Name, f.Value)
	}
	text := ""
	if cause != nil {
		text = cause.Error()
		text = text[:min(len(text), maxErrorText)]
	}
	return append(args,
		"reason", reason, "error", text, "attempts", strconv.FormatInt(d.Deliveries, 10),
		"first_seen", stamp(idTime(d.ID)), "parked_at", stamp(now), "source_id", d.ID)
}

func idTime(id string) time.Time {
	parsed, err := parseID(id)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(parsed.ms))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// packFields writes fields as one string: the length and the bytes of each
// name and value.
func packFields(fields []Field) string {
	var b []byte
	for _, f := range fields {
		for _, s := range []string{f.Name, f.Value} {
			b = strconv.AppendInt(b, int64(len(s)), 10)
			b = append(b, ':')
			b = append(b, s...)
		}
	}
	return string(b)
}

// unpackFields reads what packFields wrote.
func unpackFields(packed string) ([]Field, error) {
	var texts []string
	for packed != "" {
		digits := 0
		for digits < len(packed) && packed[digits] != ':' {
			digits++
		}
		n, err := strconv.ParseUint(packed[:digits], 10, 31)
		if err != nil || digits+1+int(n) > len(packed) {
			return nil, fault.Permanentf("packed fields: bad length")
		}
		texts = append(texts, packed[digits+1:digits+1+int(n)])
		packed = packed[digits+1+int(n):]
	}
	if len(texts)%2 != 0 {
		return nil, fault.Permanentf("packed fields: %w", fmt.Errorf("%d texts", len(texts)))
	}
	fields := make([]Field, 0, len(texts)/2)
	for i := 0; i < len(texts); i += 2 {
		fields = append(fields, Field{Name: texts[i], Value: texts[i+1]})
	}
	return fields, nil
}
