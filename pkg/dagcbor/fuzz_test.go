package dagcbor_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
)

// peer is another decoder, set to the rules that it has.
func peer(tb testing.TB) cbor.DecMode {
	tb.Helper()
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		MaxNestedLevels: dagcbor.MaxDepth, UTF8: cbor.UTF8RejectInvalid,
		TimeTag: cbor.DecTagIgnored,
	}.DecMode()
	require.NoError(tb, err)
	return mode
}

// What is accepted here is accepted by a decoder that others wrote, means the
// same there, and survives the way to JSON and back. What that decoder accepts
// and this does not, breaks a rule that only this one has.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{"a0", "80", "1903e8", rawLink, "fb3ff8000000000000", "a2 6162 01 626161 02", "66 225c0a 01 c3a9", "43 010203", "a1 61ff 01", "1bffffffffffffffff"} {
		f.Add(unhex(f, s))
	}
	mode := peer(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		err := dagcbor.Validate(b)
		j, jerr := dagcbor.AppendJSON(nil, b)
		if (err == nil) != (jerr == nil) {
			t.Fatalf("validate %v, transcode %v", err, jerr)
		}
		r := dagcbor.NewReader(b)
		_, verr := r.Value()
		if verr == nil {
			verr = r.Done()
		}
		if (verr == nil) != (err == nil) {
			t.Fatalf("value %v, validate %v", verr, err)
		}
		if err != nil {
			return
		}
		var v any
		if err := mode.Unmarshal(b, &v); err != nil {
			t.Fatalf("accepted %x, the peer says %v", b, err)
		}
		if !json.Valid(j) {
			t.Fatalf("%x became invalid JSON %q", b, j)
		}
		if bytes.Contains(j, []byte(`"$link"`)) && bytes.Contains(b, []byte("$link")) || bytes.Contains(b, []byte("$bytes")) {
			return // a map that looks like a link or bytes
		}
		back, err := dagcbor.FromJSON(j)
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x became %s and then %x, %v", b, j, back, err)
		}
		same(t, v, j)
	})
}

// same compares the texts and numbers of what the peer read with the JSON.
func same(t *testing.T, v any, j []byte) {
	t.Helper()
	var w any
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	require.NoError(t, d.Decode(&w))
	equal(t, v, w)
}

func equal(t *testing.T, v, w any) {
	t.Helper()
	switch v := v.(type) {
	case map[any]any:
		m, _ := w.(map[string]any)
		require.Len(t, m, len(v))
		for k, x := range v {
			key, _ := k.(string)
			equal(t, x, m[key])
		}
	case []any:
		l, _ := w.([]any)
		require.Len(t, l, len(v))
		for i := range v {
			equal(t, v[i], l[i])
		}
	case string:
		require.Equal(t, v, w)
	case uint64, int64:
		n, _ := w.(json.Number)
		require.Equal(t, json.Number(strings.TrimSpace(string(mustJSON(t, v)))), n)
	case float64:
		n, _ := w.(json.Number)
		got, err := n.Float64()
		require.NoError(t, err)
		require.Equal(t, math.Float64bits(v), math.Float64bits(got))
	case bool, nil:
		require.Equal(t, v, w)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// What comes out of FromJSON is canonical, and comes back as the same JSON.
func FuzzFromJSON(f *testing.F) {
	for _, s := range []string{`{"b":[1,-2,1.5,"x",null,true],"aa":{"$link":"bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"}}`, `{"$bytes":"AQ=="}`, `"\ud83d\ude00"`, `[1e3]`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, j []byte) {
		b, err := dagcbor.FromJSON(j)
		if err != nil {
			return
		}
		if !json.Valid(j) {
			t.Fatalf("accepted %q", j)
		}
		if err := dagcbor.Validate(b); err != nil {
			t.Fatalf("%q became %x: %v", j, b, err)
		}
		again, err := dagcbor.AppendJSON(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		back, err := dagcbor.FromJSON(again)
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%q: %x became %x, %v", j, b, back, err)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\x00é\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(dagcbor.AppendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); got != want && strings.Count(got, "\ufffd") < strings.Count(want, "\ufffd") {
			t.Fatalf("%q became %q", s, got)
		}
	})
}
