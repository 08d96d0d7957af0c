package event

import (
	"encoding/json"
	"fmt"

	"sluice/pkg/dagcbor"
)

// Encoding is the form in which entries are written. Both forms are always
// read.
type Encoding string

// The encodings.
const (
	JSON     Encoding = "json"
	Protobuf Encoding = "protobuf"
)

// The fields of a stream entry.
const (
	// FieldEvent has an Event or a LabelEvent as JSON.
	FieldEvent = "event"
	// FieldRepo has a RepoJob as JSON.
	FieldRepo = "repo"
	// FieldProto has any of them as protobuf.
	FieldProto = "pb"
	// FieldLabels has several labels of one frame as JSON: read, not written.
	FieldLabels = "labels"
)

// RecordJSON returns the record in the JSON form of the data model, made from
// RecordCBOR where Record is empty; nil when the event has none. It does not
// change the event.
func (e *Event) RecordJSON() (json.RawMessage, error) {
	if len(e.Record) > 0 || len(e.RecordCBOR) == 0 {
		return e.Record, nil
	}
	b, err := dagcbor.AppendJSON(make([]byte, 0, 2*len(e.RecordCBOR)), e.RecordCBOR)
	if err != nil {
		return nil, Dropf(ReasonBadRecord, "record of %s: %w", e.URI(), err)
	}
	return b, nil
}

// DAGCBOR returns the record as DAG-CBOR, made from Record where RecordCBOR is
// empty; nil when the event has none. It does not change the event.
func (e *Event) DAGCBOR() ([]byte, error) {
	if len(e.RecordCBOR) > 0 || len(e.Record) == 0 {
		return e.RecordCBOR, nil
	}
	b, err := dagcbor.FromJSON(e.Record)
	if err != nil {
		return nil, Dropf(ReasonBadRecord, "record of %s: %w", e.URI(), err)
	}
	return b, nil
}

// envelopeSize is about what the JSON of an event takes beside its record.
const envelopeSize = 384

// Event encodes e as one field of a stream entry.
func (enc Encoding) Event(e *Event) (field, value string, err error) {
	if enc == Protobuf {
		value, err = marshalEvent(e)
		return FieldProto, value, err
	}
	b, err := appendEvent(make([]byte, 0, envelopeSize+len(e.Record)+3*len(e.RecordCBOR)/2), e)
	return FieldEvent, string(b), err
}

// Job encodes j as one field of a stream entry.
func (enc Encoding) Job(j *RepoJob) (field, value string, err error) {
	if enc == Protobuf {
		value, err = marshalJob(j)
		return FieldProto, value, err
	}
	b, err := json.Marshal(j)
	if err != nil {
		return "", "", fmt.Errorf("encode job of %s: %w", j.DID, err)
	}
	return FieldRepo, string(b), nil
}

// Label encodes l as one field of a stream entry.
func (enc Encoding) Label(l *LabelEvent) (field, value string, err error) {
	if enc == Protobuf {
		value, err = marshalLabel(l)
		return FieldProto, value, err
	}
	return FieldEvent, string(appendLabelEvent(make([]byte, 0, 2*envelopeSize), l)), nil
}

// DecodeEvent reads an Event from the fields of a stream entry, which get looks
// up. It takes what the systems before this one wrote: seq -2 or none, a
// capitalised status. Its errors are Permanent and have a reason.
func DecodeEvent(get func(name string) (string, bool)) (*Event, error) {
	e := new(Event)
	if v, ok := get(FieldEvent); ok {
		if err := parseEvent(e, v); err != nil {
			return nil, err
		}
	} else if v, ok := get(FieldProto); ok {
		if err := unmarshalEvent(e, v); err != nil {
			return nil, err
		}
	} else {
		return nil, Dropf(ReasonBadEntry, "neither field %s nor %s", FieldEvent, FieldProto)
	}
	e.normalize()
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

// DecodeJob reads a RepoJob from the fields of a stream entry, which get looks
// up. Its errors are Permanent and have a reason.
func DecodeJob(get func(name string) (string, bool)) (*RepoJob, error) {
	j := new(RepoJob)
	if v, ok := get(FieldRepo); ok {
		if err := parseJob(j, v); err != nil {
			return nil, err
		}
	} else if v, ok := get(FieldProto); ok {
		if err := unmarshalJob(j, v); err != nil {
			return nil, err
		}
	} else {
		return nil, Dropf(ReasonBadEntry, "neither field %s nor %s", FieldRepo, FieldProto)
	}
	if !isDID(j.DID) {
		return nil, Dropf(ReasonBadDID, "job: did %.64q", j.DID)
	}
	return j, nil
}

// DecodeLabels reads the labels of a stream entry, whose fields get looks up:
// one label of ours, or the several of a frame that the system before this one
// put into an entry. Labels that lack a required field are left out and make
// the error; the others are returned all the same. Its errors are Permanent and
// have a reason.
func DecodeLabels(get func(name string) (string, bool)) ([]LabelEvent, error) {
	var (
		labels []LabelEvent
		err    error
	)
	if v, ok := get(FieldEvent); ok {
		labels, err = parseLabels(v)
	} else if v, ok := get(FieldLabels); ok {
		labels, err = parseLabels(v)
	} else if v, ok := get(FieldProto); ok {
		labels, err = unmarshalLabel(v)
	} else {
		err = Dropf(ReasonBadEntry, "none of the fields %s, %s, %s", FieldEvent, FieldLabels, FieldProto)
	}
	if err != nil {
		return nil, err
	}
	good := labels[:0]
	for _, l := range labels {
		if l.Label.Valid() {
			good = append(good, l)
			continue
		}
		err = Dropf(ReasonBadLabel, "label of seq %d lacks src, uri, val or cts", l.Seq)
	}
	return good, err
}

// Valid says whether the label has what every label must have.
func (l *Label) Valid() bool {
	return isDID(l.Src) && l.URI != "" && l.Val != "" && l.CTS != ""
}
