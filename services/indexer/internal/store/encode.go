package store

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// textArray is a codec of text[] that encodes slices of strings in one go. The
// one that pgx comes with grows its buffer element by element, which is a large
// part of what a batch costs us.
type textArray struct {
	pgtype.Codec

	room *valueRoom
}

// PlanEncode implements pgtype.Codec.
func (c textArray) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case []string:
			return encodeTexts{c.room}
		case []*string:
			return encodeNullableTexts{c.room}
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
		m.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: textArray{t.Codec, new(valueRoom)}})
	}
}

type encodeTexts struct{ room *valueRoom }

// Encode implements pgtype.EncodePlan.
func (e encodeTexts) Encode(value any, buf []byte) ([]byte, error) {
	texts, _ := value.([]string)
	if texts == nil {
		return nil, nil
	}
	size := 0
	for _, s := range texts {
		size += 4 + len(s)
	}
	buf = appendHeader(e.room.grow(buf, headerSize+size), len(texts), false)
	for _, s := range texts {
		buf = appendText(buf, s)
	}
	return buf, nil
}

type encodeNullableTexts struct{ room *valueRoom }

// Encode implements pgtype.EncodePlan.
func (e encodeNullableTexts) Encode(value any, buf []byte) ([]byte, error) {
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
	buf = appendHeader(e.room.grow(buf, headerSize+size), len(texts), nulls)
	for _, s := range texts {
		if s == nil {
			buf = binary.BigEndian.AppendUint32(buf, 0xffffffff)
		} else {
			buf = appendText(buf, *s)
		}
	}
	return buf, nil
}

// headerSize is the length of what stands before the elements of an array.
const headerSize = 20

// appendHeader begins an array of one dimension.
func appendHeader(buf []byte, n int, nulls bool) []byte {
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
