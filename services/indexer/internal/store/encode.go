package store

import (
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// textArray is a codec of text[] that encodes slices of strings in one go. The
// one that pgx comes with grows its buffer element by element, which is a large
// part of what a batch costs us.
type textArray struct{ pgtype.Codec }

// PlanEncode implements pgtype.Codec.
func (c textArray) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case []string:
			return encodeTexts{}
		case []*string:
			return encodeNullableTexts{}
		}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

// useTextArray gives a connection the codec.
func useTextArray(conn *pgx.Conn) {
	m := conn.TypeMap()
	t, ok := m.TypeForOID(pgtype.TextArrayOID)
	if !ok {
		return
	}
	if _, done := t.Codec.(textArray); !done {
		m.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: textArray{t.Codec}})
	}
}

type encodeTexts struct{}

// Encode implements pgtype.EncodePlan.
func (encodeTexts) Encode(value any, buf []byte) ([]byte, error) {
	texts, _ := value.([]string)
	if texts == nil {
		return nil, nil
	}
	size := 0
	for _, s := range texts {
		size += 4 + len(s)
	}
	buf = arrayHeader(buf, len(texts), size, false)
	for _, s := range texts {
		buf = appendText(buf, s)
	}
	return buf, nil
}

type encodeNullableTexts struct{}

// Encode implements pgtype.EncodePlan.
func (encodeNullableTexts) Encode(value any, buf []byte) ([]byte, error) {
	texts, _ := value.([]*string)
	if texts == nil {
		return nil, nil
	}
	size, nulls := 0, false
	for _, s := range texts {
		size += 4
		if s == nil {
			nulls = true
		} else {
			size += len(*s)
		}
	}
	buf = arrayHeader(buf, len(texts), size, nulls)
	for _, s := range texts {
		if s == nil {
			buf = binary.BigEndian.AppendUint32(buf, 0xffffffff)
		} else {
			buf = appendText(buf, *s)
		}
	}
	return buf, nil
}

// arrayHeader begins an array of one dimension, with room for its elements.
func arrayHeader(buf []byte, n, size int, nulls bool) []byte {
	const header = 20
	buf = slices.Grow(buf, header+size)
	flags := uint32(0)
	if nulls {
		flags = 1
	}
	buf = binary.BigEndian.AppendUint32(buf, 1)
	buf = binary.BigEndian.AppendUint32(buf, flags)
	buf = binary.BigEndian.AppendUint32(buf, pgtype.TextOID)
	buf = binary.BigEndian.AppendUint32(buf, uint32(n))
	return binary.BigEndian.AppendUint32(buf, 1)
}

func appendText(buf []byte, s string) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
	return append(buf, s...)
}
