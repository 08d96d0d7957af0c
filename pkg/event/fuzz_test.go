package event_test

import (
	"encoding/json"
	"errors"
	"testing"

	"sluice/pkg/event"
	"sluice/pkg/fault"
)

// classed fails when an error of an entry is not a drop with a reason.
func classed(t *testing.T, err error) {
	t.Helper()
	var drop *event.DropError
	if err != nil && (!errors.As(err, &drop) || fault.ClassOf(err) != fault.Permanent) {
		t.Fatalf("error without reason: %v", err)
	}
}

// What is read as an event can be written, and is the same when read again.
func FuzzDecodeEvent(f *testing.F) {
	for _, e := range events() {
		_, j, err := event.JSON.Event(&e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("event", j)
		_, pb, err := event.Protobuf.Event(&e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("pb", pb)
	}
	f.Add("event", `{"type":"account","seq":-2,"did":"`+did+`","status":"Takendown"}`)
	f.Fuzz(func(t *testing.T, field, value string) {
		e, err := event.DecodeEvent(fields(field, value))
		classed(t, err)
		if err != nil {
			return
		}
		_, j, err := event.JSON.Event(e)
		classed(t, err)
		if err != nil {
			return // a record that is no DAG-CBOR
		}
		if !json.Valid([]byte(j)) {
			t.Fatalf("%q is not JSON", j)
		}
		back, err := event.DecodeEvent(fields("event", j))
		if err != nil {
			t.Fatalf("read %q again: %v", j, err)
		}
		_, again, err := event.JSON.Event(back)
		if err != nil || again != j {
			t.Fatalf("%q became %q, %v", j, again, err)
		}
	})
}

func FuzzDecodeLabels(f *testing.F) {
	for _, l := range labels() {
		_, j, err := event.JSON.Label(&l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("event", j)
	}
	f.Add("labels", `{"seq":9,"labels":[{"src":"`+did+`","uri":"at://x","val":"a","cts":"2025-10-31 18:00:00 UTC","sig":[1]}]}`)
	f.Fuzz(func(t *testing.T, field, value string) {
		ls, err := event.DecodeLabels(fields(field, value))
		classed(t, err)
		for i := range ls {
			_, j, err := event.JSON.Label(&ls[i])
			if err != nil || !json.Valid([]byte(j)) {
				t.Fatalf("%q, %v", j, err)
			}
		}
	})
}

func FuzzDecodeJob(f *testing.F) {
	f.Add("repo", `{"did":"`+did+`","host":"h","rev":"r","status":null,"active":true}`)
	f.Fuzz(func(t *testing.T, field, value string) {
		_, err := event.DecodeJob(fields(field, value))
		classed(t, err)
	})
}
