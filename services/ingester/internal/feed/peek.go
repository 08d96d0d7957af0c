package feed

import "sluice/pkg/dagcbor"

// Peek finds the sequence number and the account of a message of which only
// the beginning is there; 0 and empty where they are not in it.
func Peek(beginning []byte) (seq int64, did string) {
	r := dagcbor.NewReader(beginning)
	if _, err := r.Value(); err != nil { // the header
		return 0, ""
	}
	fields, err := r.Map()
	for range fields {
		if err != nil {
			break
		}
		var key []byte
		if key, err = r.Text(); err != nil {
			break
		}
		switch string(key) {
		case "seq":
			seq, err = r.Int()
		case "repo", "did":
			did, err = r.Str()
		default:
			_, err = r.Value()
		}
	}
	return max(seq, 0), did
}
