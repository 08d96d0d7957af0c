package dagcbor_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"sluice/pkg/dagcbor"
)

const sampleRecord = `{"$type":"app.bsky.feed.post","text":"A post of an ordinary length, with a line\nbreak and an é.","langs":["en"],` +
	`"reply":{"root":{"cid":"bafyreiftot7eltsc3f6g4qktykmbv6jcmdmhcx5osscan6jpdxkpqcmcza","uri":"at://did:plc:r2zybk6op3ymzpz6jhqpkoy5/app.bsky.feed.post/3mpsjbtci2c2o"}},` +
	`"createdAt":"2026-07-04T14:38:08.999Z","thumb":{"$type":"blob","ref":{"$link":"bafkreias7oxbr6swsuggccmtnqpoeami4jza5x4w3urltn6gzhqf4k6k2e"},"mimeType":"image/jpeg","size":119635}}`

func sample(tb testing.TB) []byte {
	tb.Helper()
	b, err := dagcbor.FromJSON([]byte(sampleRecord))
	require.NoError(tb, err)
	return b
}

func BenchmarkRecord(b *testing.B) {
	in := sample(b)
	j, err := dagcbor.AppendJSON(nil, in)
	require.NoError(b, err)
	mode, err := cbor.DecOptions{DefaultMapType: reflect.TypeFor[map[string]any]()}.DecMode()
	require.NoError(b, err)
	dst := make([]byte, 0, 4096)
	for name, work := range map[string]func() error{
		"validate": func() error { return dagcbor.Validate(in) },
		"json":     func() (err error) { _, err = dagcbor.AppendJSON(dst, in); return err },
		"fromjson": func() (err error) { _, err = dagcbor.FromJSON(j); return err },
		"cid":      func() error { _ = dagcbor.CID(in); return nil },
		"peer": func() error {
			var v map[string]any
			if err := mode.Unmarshal(in, &v); err != nil {
				return err
			}
			_, err := json.Marshal(v)
			return err
		},
		"peer wellformed": func() error { return cbor.Wellformed(in) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if err := work(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
