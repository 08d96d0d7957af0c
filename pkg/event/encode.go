package event

import (
	"encoding/base64"
	"fmt"
	"strconv"

	"sluice/pkg/dagcbor"
)

// appendEvent writes the flat JSON form. The order of keys is part of the form.
func appendEvent(dst []byte, e *Event) ([]byte, error) {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, e.Type...)
	dst = append(dst, `","seq":`...)
	dst = strconv.AppendInt(dst, e.Seq, 10)
	dst = appendField(dst, `,"time":`, e.Time)
	dst = appendField(dst, `,"did":`, e.DID)
	switch e.Type {
	case Create, Update:
		dst = appendOp(dst, e)
		dst = appendField(dst, `,"cid":`, e.CID)
		dst = append(dst, `,"record":`...)
		var err error
		if dst, err = appendRecord(dst, e); err != nil {
			return nil, err
		}
	case Delete:
		dst = appendOp(dst, e)
	case Repo:
		dst = appendField(dst, `,"commit":`, e.Commit)
		dst = appendField(dst, `,"rev":`, e.Rev)
		if e.Snapshot {
			dst = append(dst, `,"snapshot":true,"count":`...)
			dst = strconv.AppendInt(dst, e.Count, 10)
		}
	case Account:
		dst = append(dst, `,"active":`...)
		dst = strconv.AppendBool(dst, e.Active)
		if e.Status != "" {
			dst = appendField(dst, `,"status":`, e.Status)
		}
	case Identity:
		if e.Handle != "" {
			dst = appendField(dst, `,"handle":`, e.Handle)
		}
	default:
		return nil, Dropf(ReasonBadType, "encode event of type %.32q", string(e.Type))
	}
	return append(dst, '}'), nil
}

func appendOp(dst []byte, e *Event) []byte {
	dst = appendField(dst, `,"commit":`, e.Commit)
	dst = appendField(dst, `,"rev":`, e.Rev)
	dst = appendField(dst, `,"collection":`, e.Collection)
	return appendField(dst, `,"rkey":`, e.RKey)
}

func appendField(dst []byte, key, value string) []byte {
	return dagcbor.AppendString(append(dst, key...), value)
}

func appendRecord(dst []byte, e *Event) ([]byte, error) {
	if len(e.Record) > 0 {
		return append(dst, e.Record...), nil
	}
	if len(e.RecordCBOR) == 0 {
		return nil, Drop(ReasonNoRecord, fmt.Errorf("encode %s: no record", e.URI()))
	}
	dst, err := dagcbor.AppendJSON(dst, e.RecordCBOR)
	if err != nil {
		return nil, Dropf(ReasonBadRecord, "record of %s: %w", e.URI(), err)
	}
	return dst, nil
}

func appendLabelEvent(dst []byte, l *LabelEvent) []byte {
	dst = append(dst, `{"type":"label","seq":`...)
	dst = strconv.AppendInt(dst, l.Seq, 10)
	dst = appendField(dst, `,"host":`, l.Host)
	dst = append(dst, `,"label":`...)
	return append(appendLabel(dst, &l.Label), '}')
}

func appendLabel(dst []byte, l *Label) []byte {
	dst = append(dst, '{')
	if l.Ver != nil {
		dst = append(dst, `"ver":`...)
		dst = append(strconv.AppendInt(dst, *l.Ver, 10), ',')
	}
	dst = appendField(dst, `"src":`, l.Src)
	dst = appendField(dst, `,"uri":`, l.URI)
	if l.CID != "" {
		dst = appendField(dst, `,"cid":`, l.CID)
	}
	dst = appendField(dst, `,"val":`, l.Val)
	if l.Neg {
		dst = append(dst, `,"neg":true`...)
	}
	dst = appendField(dst, `,"cts":`, l.CTS)
	if l.Exp != "" {
		dst = appendField(dst, `,"exp":`, l.Exp)
	}
	if l.Sig != nil {
		dst = append(dst, `,"sig":{"$bytes":"`...)
		dst = base64.RawStdEncoding.AppendEncode(dst, l.Sig)
		dst = append(dst, `"}`...)
	}
	return append(dst, '}')
}
