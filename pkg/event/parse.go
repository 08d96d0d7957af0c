package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// isDID is the shape of a DID: what comes from our own streams is not parsed
// again, what is plainly something else is refused.
func isDID(s string) bool {
	if len(s) < len("did:a:b") || len(s) > 2048 || !strings.HasPrefix(s, "did:") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// normalize maps what other systems write to what ours does.
func (e *Event) normalize() {
	if e.Seq < 0 {
		e.Seq = SeqBackfill
	}
	e.Status = strings.ToLower(e.Status)
	switch e.Type {
	case Create, Update:
	default:
		e.Record, e.RecordCBOR = nil, nil
	}
}

func (e *Event) check() error {
	if !isDID(e.DID) {
		return Dropf(ReasonBadDID, "event: did %.64q", e.DID)
	}
	switch e.Type {
	case Create, Update:
		if len(e.Record) == 0 && len(e.RecordCBOR) == 0 {
			return Dropf(ReasonNoRecord, "%s %s", e.Type, e.URI())
		}
		if e.CID == "" {
			return Dropf(ReasonBadCID, "%s %s: no cid", e.Type, e.URI())
		}
		return e.checkPath()
	case Delete:
		return e.checkPath()
	case Repo, Account, Identity:
		return nil
	}
	return Dropf(ReasonBadType, "event type %.32q", string(e.Type))
}

func (e *Event) checkPath() error {
	if e.Collection == "" || e.RKey == "" || e.Rev == "" {
		return Dropf(ReasonBadEntry, "%s %s: no collection, rkey or rev", e.Type, e.URI())
	}
	return nil
}

// parseEvent reads the JSON form. An unknown field is ignored.
func parseEvent(e *Event, text string) error {
	s, ok := scanObject([]byte(text))
	if !ok {
		return Dropf(ReasonBadEntry, "event is not a JSON object")
	}
	e.Seq = SeqBackfill
	for {
		key, value, ok := s.next()
		if !ok {
			return nil
		}
		if err := e.set(string(key), value); err != nil {
			return Dropf(ReasonBadEntry, "event field %.32q: %w", key, err)
		}
	}
}

func (e *Event) set(key string, value []byte) (err error) {
	switch key {
	case "type":
		var t string
		t, err = text(value)
		e.Type = Type(t)
	case "seq":
		e.Seq, err = integer(value, SeqBackfill)
	case "time":
		e.Time, err = text(value)
	case "did":
		e.DID, err = text(value)
	case "commit":
		e.Commit, err = text(value)
	case "rev":
		e.Rev, err = text(value)
	case "collection":
		e.Collection, err = text(value)
	case "rkey":
		e.RKey, err = text(value)
	case "cid":
		e.CID, err = text(value)
	case "record":
		if e.Record = value; isNull(value) {
			e.Record = nil
		} else if value[0] != '{' {
			err = errNotObject
		}
	case "snapshot":
		e.Snapshot, err = boolean(value)
	case "count":
		e.Count, err = integer(value, 0)
	case "active":
		e.Active, err = boolean(value)
	case "status":
		e.Status, err = text(value)
	case "handle":
		e.Handle, err = text(value)
	}
	return err
}

var (
	errNotObject  = fmt.Errorf("not an object")
	errNotText    = fmt.Errorf("not a text")
	errNotBoolean = fmt.Errorf("not a boolean")
	errNotInteger = fmt.Errorf("not an integer")
)

func isNull(value []byte) bool { return string(value) == "null" }

func text(value []byte) (string, error) {
	if isNull(value) {
		return "", nil
	}
	if value[0] != '"' {
		return "", errNotText
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1]), nil
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err
}

func boolean(value []byte) (bool, error) {
	switch string(value) {
	case "true":
		return true, nil
	case "false", "null":
		return false, nil
	}
	return false, errNotBoolean
}

// integer takes a number, or one in quotes as protojson writes it.
func integer(value []byte, absent int64) (int64, error) {
	if isNull(value) {
		return absent, nil
	}
	v, err := strconv.ParseInt(strings.Trim(string(value), `"`), 10, 64)
	if err != nil {
		return 0, errNotInteger
	}
	return v, nil
}

// parseJob reads the JSON form. A job that does not say whether the repository
// is active is taken as active.
func parseJob(j *RepoJob, text string) error {
	j.Active = true
	if err := json.Unmarshal([]byte(text), j); err != nil {
		return Dropf(ReasonBadEntry, "job: %w", err)
	}
	return nil
}
