package store

import (
	"bytes"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
)

// TestTextArray: the codec writes what that of pgx writes.
func TestTextArray(t *testing.T) {
	t.Parallel()
	theirs, ours := pgtype.NewMap(), pgtype.NewMap()
	known, _ := ours.TypeForOID(pgtype.TextArrayOID)
	ours.RegisterType(&pgtype.Type{Name: known.Name, OID: known.OID, Codec: textArray{known.Codec, new(valueRoom)}})
	a, b := "a", "ü€"
	for _, value := range []any{
		[]string(nil),
		[]string{},
		[]string{""},
		[]string{"a", "", "ü€", "\\{}\"'\n"},
		[]*string(nil),
		[]*string{},
		[]*string{nil},
		[]*string{&a, nil, &b},
		[]*string{&a, &b},
		[]any{"a", nil},
	} {
		want, err := theirs.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, value, []byte("before"))
		require.NoError(t, err)
		have, err := ours.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, value, []byte("before"))
		require.NoError(t, err)
		require.Equal(t, want, have, "%#v", value)
	}
}

// TestValueRoom: the values of one statement stand one behind the other, in the
// room of the statements before it or in a larger one.
func TestValueRoom(t *testing.T) {
	t.Parallel()
	theirs, ours := pgtype.NewMap(), pgtype.NewMap()
	known, _ := ours.TypeForOID(pgtype.TextArrayOID)
	room := new(valueRoom)
	ours.RegisterType(&pgtype.Type{Name: known.Name, OID: known.OID, Codec: textArray{known.Codec, room}})
	long := strings.Repeat("x", roomSize)
	for _, statement := range [][][]string{
		{{"a", "b"}, {"c"}},
		{{"d"}, {"e", "f"}, {strings.Repeat("g", 1000)}},
		{{long}, {"h"}},
		{{"i"}},
	} {
		var want, have []byte
		var err error
		for _, column := range statement {
			want, err = theirs.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, column, want)
			require.NoError(t, err)
			have, err = ours.Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, column, have)
			require.NoError(t, err)
		}
		require.Equal(t, want, have)
		require.LessOrEqual(t, cap(*room), roomSize)
	}
}

// TestMessageRoom: what was to be sent before is sent, then what follows.
func TestMessageRoom(t *testing.T) {
	t.Parallel()
	var sent bytes.Buffer
	f := pgproto3.NewFrontend(nil, &sent)
	room := make(messageRoom, 0, 64)
	var want []byte
	for _, sql := range []string{"a", strings.Repeat("b", 100), strings.Repeat("c", 2000), "d"} {
		for _, m := range []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}, room, &pgproto3.Query{String: sql + "2"}} {
			f.Send(m)
			var err error
			if m, ok := m.(*pgproto3.Query); ok {
				want, err = m.Encode(want)
				require.NoError(t, err)
			}
		}
		require.NoError(t, f.Flush())
		require.Equal(t, want, sent.Bytes())
	}
}
