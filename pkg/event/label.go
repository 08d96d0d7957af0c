package event

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// labelEntry is the JSON of an entry of label_live: one label of ours, or
// several of the system before this one.
type labelEntry struct {
	Type   string      `json:"type"`
	Seq    *int64      `json:"seq"`
	Host   string      `json:"host"`
	Label  *labelJSON  `json:"label"`
	Labels []labelJSON `json:"labels"`
}

type labelJSON struct {
	Label
	Sig sigJSON `json:"sig"`
}

func parseLabels(text string) ([]LabelEvent, error) {
	var entry labelEntry
	if err := json.Unmarshal([]byte(text), &entry); err != nil {
		return nil, Dropf(ReasonBadEntry, "labels: %w", err)
	}
	if entry.Type != "" && entry.Type != "label" && entry.Type != "labels" {
		return nil, Dropf(ReasonBadType, "label entry of type %.32q", entry.Type)
	}
	all := entry.Labels
	if entry.Label != nil {
		all = append(all, *entry.Label)
	}
	if entry.Label == nil && entry.Labels == nil {
		return nil, Dropf(ReasonBadEntry, "label entry without label")
	}
	seq := SeqBackfill
	if entry.Seq != nil {
		seq = *entry.Seq
	}
	out := make([]LabelEvent, 0, len(all))
	for i := range all {
		l := all[i].Label
		l.Sig = all[i].Sig
		l.CTS = normalizeTime(l.CTS)
		l.Exp = normalizeTime(l.Exp)
		out = append(out, LabelEvent{Seq: seq, Host: entry.Host, Label: l})
	}
	return out, nil
}

// normalizeTime turns the "2025-10-31 18:00:00 UTC" of an older system into RFC
// 3339. Anything else is kept as it is.
func normalizeTime(s string) string {
	rest, ok := strings.CutSuffix(s, " UTC")
	if !ok {
		return s
	}
	t := strings.Replace(rest, " ", "T", 1) + "Z"
	if _, err := time.Parse(time.RFC3339Nano, t); err != nil {
		return s
	}
	return t
}

// sigJSON takes a signature as {"$bytes": base64}, as base64, or as a list of
// bytes.
type sigJSON []byte

var errSig = errors.New("signature is neither $bytes, base64 nor a list of bytes")

// UnmarshalJSON implements json.Unmarshaler.
func (s *sigJSON) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var text string
	switch b[0] {
	case '[':
		var list []uint8
		var ints []int
		if err := json.Unmarshal(b, &ints); err != nil {
			return errSig
		}
		for _, v := range ints {
			if v < 0 || v > 255 {
				return errSig
			}
			list = append(list, uint8(v))
		}
		*s = list
		return nil
	case '{':
		var wrapped struct {
			Bytes *string `json:"$bytes"`
		}
		if err := json.Unmarshal(b, &wrapped); err != nil || wrapped.Bytes == nil {
			return errSig
		}
		text = *wrapped.Bytes
	default:
		if err := json.Unmarshal(b, &text); err != nil {
			return errSig
		}
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return errSig
	}
	*s = raw
	return nil
}
