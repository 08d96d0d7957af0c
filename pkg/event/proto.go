package event

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	sluicev1 "sluice/proto/sluice/v1"
)

func marshal(m proto.Message) (string, error) {
	b, err := proto.Marshal(m)
	if err != nil { // a text that is not UTF-8
		return "", Drop(ReasonBadEntry, fmt.Errorf("encode protobuf: %w", err))
	}
	return string(b), nil
}

func unmarshal(value string, m proto.Message) error {
	if err := proto.Unmarshal([]byte(value), m); err != nil {
		return Drop(ReasonBadEntry, fmt.Errorf("decode protobuf: %w", err))
	}
	return nil
}

func marshalEvent(e *Event) (string, error) {
	switch e.Type {
	case Create, Update, Delete, Repo, Account, Identity:
	default:
		return "", Dropf(ReasonBadType, "encode event of type %.32q", string(e.Type))
	}
	record, err := e.DAGCBOR()
	if err != nil {
		return "", err
	}
	if len(record) == 0 && (e.Type == Create || e.Type == Update) {
		return "", Dropf(ReasonNoRecord, "encode %s: no record", e.URI())
	}
	return marshal(&sluicev1.Event{
		Type: string(e.Type), Seq: e.Seq, Time: e.Time, Did: e.DID, Commit: e.Commit, Rev: e.Rev,
		Collection: e.Collection, Rkey: e.RKey, Cid: e.CID, RecordCbor: record,
		Snapshot: e.Snapshot, Count: e.Count, Active: e.Active, Status: e.Status, Handle: e.Handle,
	})
}

func unmarshalEvent(e *Event, value string) error {
	var m sluicev1.Event
	if err := unmarshal(value, &m); err != nil {
		return err
	}
	*e = Event{
		Type: Type(m.GetType()), Seq: m.GetSeq(), Time: m.GetTime(), DID: m.GetDid(), Commit: m.GetCommit(), Rev: m.GetRev(),
		Collection: m.GetCollection(), RKey: m.GetRkey(), CID: m.GetCid(), RecordCBOR: m.GetRecordCbor(),
		Snapshot: m.GetSnapshot(), Count: m.GetCount(), Active: m.GetActive(), Status: m.GetStatus(), Handle: m.GetHandle(),
	}
	return nil
}

func marshalJob(j *RepoJob) (string, error) {
	return marshal(&sluicev1.RepoJob{
		Did: j.DID, Host: j.Host, Rev: j.Rev, Status: j.Status, Active: j.Active, Reason: j.Reason, Priority: int32(j.Priority),
	})
}

func unmarshalJob(j *RepoJob, value string) error {
	var m sluicev1.RepoJob
	if err := unmarshal(value, &m); err != nil {
		return err
	}
	*j = RepoJob{
		DID: m.GetDid(), Host: m.GetHost(), Rev: m.GetRev(), Status: m.GetStatus(), Active: m.GetActive(),
		Reason: m.GetReason(), Priority: int(m.GetPriority()),
	}
	return nil
}

func marshalLabel(l *LabelEvent) (string, error) {
	m := &sluicev1.Label{
		Ver: l.Label.Ver, Src: l.Label.Src, Uri: l.Label.URI, Cid: l.Label.CID, Val: l.Label.Val, Neg: l.Label.Neg,
		Cts: l.Label.CTS, Exp: l.Label.Exp,
	}
	if l.Label.Sig != nil {
		m.Sig = &sluicev1.Bytes{Value: l.Label.Sig}
	}
	return marshal(&sluicev1.LabelEvent{Type: "label", Seq: l.Seq, Host: l.Host, Label: m})
}

func unmarshalLabel(value string) ([]LabelEvent, error) {
	var m sluicev1.LabelEvent
	if err := unmarshal(value, &m); err != nil {
		return nil, err
	}
	if m.GetType() != "label" {
		return nil, Dropf(ReasonBadType, "label entry of type %.32q", m.GetType())
	}
	l := m.GetLabel()
	out := LabelEvent{Seq: m.GetSeq(), Host: m.GetHost(), Label: Label{
		Src: l.GetSrc(), URI: l.GetUri(), CID: l.GetCid(), Val: l.GetVal(), Neg: l.GetNeg(), CTS: l.GetCts(), Exp: l.GetExp(),
	}}
	if l != nil {
		out.Label.Ver = l.Ver
	}
	if l.GetSig() != nil {
		out.Label.Sig = append([]byte{}, l.GetSig().GetValue()...)
	}
	return []LabelEvent{out}, nil
}
