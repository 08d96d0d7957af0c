package dagcbor_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(tb, err)
	return b
}

const rawLink = "d82a 5825 00 0171 1220 0000000000000000000000000000000000000000000000000000000000000000"

func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"empty map":   {"a0", `{}`},
		"empty list":  {"80", `[]`},
		"int":         {"1903e8", `1000`},
		"max":         {"1b7fffffffffffffff", `9223372036854775807`},
		"min":         {"3b7fffffffffffffff", `-9223372036854775808`},
		"bools":       {"83f5f4f6", `[true,false,null]`},
		"text":        {"66 225c0a 01 c3a9", `"\"\\\n\u0001é"`},
		"separator":   {"63 e280a8", "\"\u2028\""},
		"nul":         {"61 00", `"\u0000"`},
		"bytes":       {"43 010203", `{"$bytes":"AQID"}`},
		"short bytes": {"41 01", `{"$bytes":"AQ"}`},
		"link":        {rawLink, `{"$link":"bafyreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`},
		"float":       {"fb3ff8000000000000", `1.5`},
		"whole float": {"fb4000000000000000", `2.0`},
		"huge float":  {"fb7fefffffffffffff", `1.7976931348623157e+308`},
		"order kept":  {"a2 6162 01 626161 02", `{"b":1,"aa":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := unhex(t, c.in)
			require.NoError(t, dagcbor.Validate(in))
			got, err := dagcbor.AppendJSON([]byte("x"), in)
			require.NoError(t, err)
			require.Equal(t, "x"+c.want, string(got))
			require.True(t, json.Valid(got[1:]))
			back, err := dagcbor.FromJSON(got[1:])
			require.NoError(t, err)
			require.Equal(t, in, back)
		})
	}
}

// Each of these was accepted by at least one decoder in use on the network.
func TestHostile(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("81", n) + "80" }
	for name, in := range map[string]string{
		"empty":                 "",
		"trailing":              "a000",
		"depth 65":              deep(64),
		"depth 1000":            deep(1000),
		"uint64 max":            "1bffffffffffffffff",
		"below int64":           "3bffffffffffffffff",
		"above int64":           "1b8000000000000000",
		"long int":              "1817",
		"long int 16":           "1900ff",
		"long int 32":           "1a0000ffff",
		"long int 64":           "1b00000000ffffffff",
		"long text head":        "7801 61",
		"indefinite list":       "9fff",
		"indefinite map":        "bfff",
		"indefinite text":       "7f6161ff",
		"indefinite bytes":      "5f4101ff",
		"unsorted by length":    "a2 626161 01 6162 02",
		"unsorted by bytes":     "a2 6162 01 6161 02",
		"duplicate key":         "a2 6161 01 6161 02",
		"int key":               "a1 01 01",
		"bytes key":             "a1 4161 01",
		"bad utf-8":             "61ff",
		"bad utf-8 key":         "a1 61ff 01",
		"surrogate":             "63eda080",
		"tag 0":                 "c0 6161",
		"tag 43":                "d82b 4100",
		"tag 42 text":           "d82a 6100",
		"tag 42 empty":          "d82a 40",
		"tag 42 no zero":        "d82a 5825 01 0171 1220 0000000000000000000000000000000000000000000000000000000000000000",
		"tag 42 short":          "d82a 5824 00 0171 1220 00000000000000000000000000000000000000000000000000000000000000",
		"float 16":              "f93e00",
		"float 32":              "fa3fc00000",
		"NaN":                   "fb7ff8000000000000",
		"infinity":              "fb7ff0000000000000",
		"undefined":             "f7",
		"simple 16":             "f0",
		"simple byte":           "f820",
		"break":                 "ff",
		"reserved length":       "1c",
		"text past end":         "7b7fffffffffffffff 61",
		"bytes past end":        "5a7fffffff 61",
		"list past end":         "9b00000001 00000000 00",
		"map past end":          "bb7fffffffffffffff",
		"list of a few missing": "8301",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := unhex(t, in)
			require.Error(t, dagcbor.Validate(b))
			got, err := dagcbor.AppendJSON([]byte("x"), b)
			require.Error(t, err)
			require.Equal(t, "x", string(got))
		})
	}
	require.NoError(t, dagcbor.Validate(unhex(t, deep(63))))
	bomb := bytes.Repeat([]byte{0x81}, 1_000_000)
	require.ErrorContains(t, dagcbor.Validate(bomb), "nested too deeply")
	_, err := dagcbor.AppendJSON(nil, bomb)
	require.ErrorContains(t, err, "nested too deeply")
	_, err = dagcbor.FromJSON(bytes.Repeat([]byte("["), 1_000_000))
	require.ErrorContains(t, err, "nested too deeply")
}

func TestFromJSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"sorted":        {` { "aa" : 2 , "b" : 1 } `, "a2 6162 01 626161 02"},
		"nested sorted": {`{"b":{"dd":[],"c":{}},"a":[{"z":1,"y":2}]}`, "a2 6161 81 a2 6179 02 617a 01 6162 a2 6163 a0 626464 80"},
		"padded bytes":  {`{"$bytes":"AQ=="}`, "4101"},
		"no link":       {`{"$link":1}`, "a1 65246c696e6b 01"},
		"two keys":      {`{"$link":"x","a":1}`, "a2 6161 01 65246c696e6b 6178"},
		"escapes":       {`"\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\"`, "6e c3a9 f09f9880 2f 08 0c 0a 0d 09 22 5c"},
		"float":         {`[2.0,1e3,-0.5]`, "83 fb4000000000000000 fb408f400000000000 fbbfe0000000000000"},
		"escaped key":   {`{"\u0062":1,"a":2}`, "a2 6161 02 6162 01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := dagcbor.FromJSON([]byte(c.in))
			require.NoError(t, err)
			require.Equal(t, hex.EncodeToString(unhex(t, c.want)), hex.EncodeToString(got))
			require.NoError(t, dagcbor.Validate(got))
		})
	}
	for _, bad := range []string{
		"", "{", "[1,]", `{"a":1,}`, `{"a" 1}`, `{a:1}`, `"a`, "\"\x01\"", "\"\xff\"", `"\x"`, `"\ud800"`, `"\ud800\u0041"`, `"\u12"`,
		"01", "-", "1.", "1e", "9223372036854775808", "1e999", "tru", "nul", "1 2", `{"a":1,"a":2}`, `{"$link":"nope"}`, `{"$bytes":"!"}`, "+1", "NaN",
	} {
		_, err := dagcbor.FromJSON([]byte(bad))
		require.Error(t, err, "%q", bad)
	}
}

func TestAppendString(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":             `""`,
		"a\"\\b":       `"a\"\\b"`,
		"é<>&\u2028":   "\"é<>&\u2028\"",
		"a\xffb\xc3":   "\"a\ufffdb\ufffd\"",
		"\x00\x1f\n":   `"\u0000\u001f\n"`,
		"\xed\xa0\x80": "\"\ufffd\ufffd\ufffd\"",
	} {
		got := dagcbor.AppendString(nil, in)
		require.Equal(t, want, string(got))
		require.True(t, json.Valid(got))
	}
}

func TestCID(t *testing.T) {
	t.Parallel()
	// The CID of the empty map and of the text "hello", as other
	// implementations print them.
	require.Equal(t, "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", dagcbor.CID([]byte{0xa0}))
	v0 := "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
	b, err := dagcbor.ParseCID(v0)
	require.NoError(t, err)
	require.Equal(t, v0, string(dagcbor.AppendCID(nil, b)))
	_, err = dagcbor.ParseCID(strings.Repeat("b", 10_000))
	require.Error(t, err)
	sum := dagcbor.Sum([]byte{0xa0})
	require.True(t, dagcbor.Equal(sum[:], []byte{0xa0}))
	require.False(t, dagcbor.Equal(sum[:], []byte{0xa1}))
}
