package dagcbor

import "bytes"

// Validate says whether b is one DAG-CBOR value and nothing else. It does not
// allocate.
func Validate(b []byte) error {
	r := Reader{b: b}
	if err := r.skip(0); err != nil {
		return err
	}
	return r.Done()
}

// IsMap says whether b begins with a map, as a record must.
func IsMap(b []byte) bool { return len(b) > 0 && b[0]>>5 == majorMap }

// skip takes one value that stands inside of depth containers.
func (r *Reader) skip(depth int) error {
	switch r.Kind() {
	case Int:
		_, err := r.Int()
		return err
	case Text:
		_, err := r.Text()
		return err
	case Bytes:
		_, err := r.Bytes()
		return err
	case Link:
		_, err := r.Link()
		return err
	case Map:
		return r.skipMap(depth + 1)
	case Array:
		return r.skipArray(depth + 1)
	case Bool, Null:
		r.pos++
		return nil
	case Float:
		_, err := r.Float()
		return err
	case End:
		return r.fail(errShort)
	default:
		return r.fail(r.simpleError())
	}
}

// simpleError tells the floats of other widths from the rest of major 7.
func (r *Reader) simpleError() string {
	if c := r.b[r.pos]; c == 0xf9 || c == 0xfa {
		return errFloat
	}
	return errSimple
}

func (r *Reader) skipArray(depth int) error {
	n, err := r.Array()
	if err != nil {
		return err
	}
	if depth > MaxDepth {
		return r.fail(errDepth)
	}
	for range n {
		if err := r.skip(depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) skipMap(depth int) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	if depth > MaxDepth {
		return r.fail(errDepth)
	}
	var prev []byte
	for i := range n {
		key, err := r.key(prev, i == 0)
		if err != nil {
			return err
		}
		prev = key
		if err := r.skip(depth); err != nil {
			return err
		}
	}
	return nil
}

// key takes a map key, which must sort after the one before it.
func (r *Reader) key(prev []byte, first bool) ([]byte, error) {
	if r.pos < len(r.b) && r.b[r.pos]>>5 != majorText {
		return nil, r.fail(errKeyType)
	}
	key, err := r.Text()
	if err != nil {
		return nil, err
	}
	if !first && !r.anyOrder && !keyLess(prev, key) {
		return nil, r.fail(errKeyOrder)
	}
	return key, nil
}

// keyLess is the order of map keys: shorter first, then by bytes.
func keyLess(a, b []byte) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return bytes.Compare(a, b) < 0
}
