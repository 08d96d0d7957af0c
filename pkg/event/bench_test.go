package event_test

import (
	"testing"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

func BenchmarkEvent(b *testing.B) {
	e := events()["create"]
	cbor, err := dagcbor.FromJSON(e.Record)
	if err != nil {
		b.Fatal(err)
	}
	e.Record, e.RecordCBOR = nil, cbor
	for _, enc := range []event.Encoding{event.JSON, event.Protobuf} {
		field, value, err := enc.Event(&e)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("encode "+string(enc), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := enc.Event(&e); err != nil {
					b.Fatal(err)
				}
			}
		})
		get := fields(field, value)
		b.Run("decode "+string(enc), func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := event.DecodeEvent(get); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
