package store

import (
	"testing"

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
