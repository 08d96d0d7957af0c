package atproto

import (
	"slices"

	"github.com/bluesky-social/indigo/atproto/atcrypto"

	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// Labels is the body of a #labels frame.
type Labels struct {
	Seq    int64
	Labels []event.Label
	// Bad are the errors of the labels that could not be used.
	Bad []error
}

// maxLabels bounds the labels of one frame.
const maxLabels = 10_000

func parseLabels(r *dagcbor.Reader) (*Labels, error) {
	ls := new(Labels)
	err := eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "seq":
			ls.Seq, err = r.Int()
		case "labels":
			err = ls.parse(r)
		default:
			_, err = r.Item()
		}
		return err
	})
	return ls, err
}

func (ls *Labels) parse(r *dagcbor.Reader) error {
	n, err := r.Array()
	if err != nil {
		return err
	}
	if n > maxLabels {
		return event.Dropf(event.ReasonTooBig, "frame with %d labels", n)
	}
	for range n {
		raw, err := r.Item()
		if err != nil {
			return err
		}
		l, err := parseLabel(raw)
		if err == nil && !l.Valid() {
			err = event.Dropf(event.ReasonBadLabel, "label lacks src, uri, val or cts")
		}
		if err != nil {
			ls.Bad = append(ls.Bad, asDrop(event.ReasonBadLabel, "label", err))
			continue
		}
		ls.Labels = append(ls.Labels, l)
	}
	return nil
}

func parseLabel(raw []byte) (l event.Label, err error) {
	r := dagcbor.NewReader(raw)
	err = eachField(r, func(key []byte) (err error) {
		switch string(key) {
		case "ver":
			if r.TakeNull() {
				return nil
			}
			var v int64
			v, err = r.Int()
			l.Ver = &v
		case "src":
			l.Src, err = r.Str()
		case "uri":
			l.URI, err = r.Str()
		case "cid":
			l.CID, err = optionalText(r)
		case "val":
			l.Val, err = r.Str()
		case "neg":
			if r.TakeNull() {
				return nil
			}
			l.Neg, err = r.Bool()
		case "cts":
			l.CTS, err = r.Str()
		case "exp":
			l.Exp, err = optionalText(r)
		case "sig":
			if r.TakeNull() {
				return nil
			}
			l.Sig, err = r.Bytes()
			l.Sig = slices.Clone(l.Sig)
		default:
			_, err = r.Item()
		}
		return err
	})
	return l, err
}

// VerifyLabel checks the signature of a label with the key of its labeler. A
// label does not say whether a neg of false was written out or left out when it
// was signed; either is accepted.
func VerifyLabel(l *event.Label, key atcrypto.PublicKey) error {
	if len(l.Sig) == 0 {
		return event.Dropf(event.ReasonBadSignature, "label of %s is not signed", l.Src)
	}
	err := key.HashAndVerify(unsignedLabel(l, l.Neg), l.Sig)
	if err != nil && !l.Neg {
		err = key.HashAndVerify(unsignedLabel(l, true), l.Sig)
	}
	if err != nil {
		return event.Dropf(event.ReasonBadSignature, "label of %s: %w", l.Src, err)
	}
	return nil
}

// unsignedLabel is what a labeler signs: the label as DAG-CBOR without sig.
func unsignedLabel(l *event.Label, withNeg bool) []byte {
	n := 4
	for _, has := range []bool{l.CID != "", l.Exp != "", withNeg, l.Ver != nil} {
		if has {
			n++
		}
	}
	b := dagcbor.AppendMap(nil, n)
	field := func(key, value string) { b = dagcbor.AppendText(dagcbor.AppendText(b, key), value) }
	if l.CID != "" {
		field("cid", l.CID)
	}
	field("cts", l.CTS)
	if l.Exp != "" {
		field("exp", l.Exp)
	}
	if withNeg {
		b = dagcbor.AppendBool(dagcbor.AppendText(b, "neg"), l.Neg)
	}
	field("src", l.Src)
	field("uri", l.URI)
	field("val", l.Val)
	if l.Ver != nil {
		b = dagcbor.AppendInt(dagcbor.AppendText(b, "ver"), *l.Ver)
	}
	return b
}
