package repo

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atdata"
	atrepo "github.com/bluesky-social/indigo/atproto/repo"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"
)

func TestKeysSignAlikeAndVerify(t *testing.T) {
	t.Parallel()
	for _, curve := range []Curve{K256, P256} {
		for i := range 20 {
			k, err := NewKey(curve, fmt.Sprint(i))
			require.NoError(t, err)
			sig, err := k.Sign([]byte("content"))
			require.NoError(t, err)
			again, err := k.Sign([]byte("content"))
			require.NoError(t, err)
			require.Equal(t, sig, again)
			require.NoError(t, k.Public().HashAndVerify([]byte("content"), sig))
			require.Error(t, k.Public().HashAndVerify([]byte("other"), sig))
		}
	}
}

func TestEncodeIsTheDataModelsForm(t *testing.T) {
	t.Parallel()
	link := CID([]byte("x"))
	value := Map{
		"long key": int64(-1) << 40, "b": true, "a": nil, "list": []any{0, 23, 24, 255, 256, 65536, int64(1) << 33, "ü"},
		"link": link, "bytes": []byte{1, 2}, "map": Map{},
	}
	got := MustEncode(value)
	decoded, err := atdata.UnmarshalCBOR(got)
	require.NoError(t, err)
	want, err := atdata.MarshalCBOR(decoded)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = Encode(1.5)
	require.ErrorContains(t, err, "float64")
}

// TestBulkIsTheSameTree compares the streamed tree with the one in memory.
func TestBulkIsTheSameTree(t *testing.T) {
	t.Parallel()
	key, err := NewKey(K256, "bulk")
	require.NoError(t, err)
	for _, n := range []int{0, 1, 2, 5, 100, 3000} {
		record := func(i int) (string, []byte) {
			return fmt.Sprintf("com.example.a/%06d", i), MustEncode(Map{"n": i})
		}
		var writes []Write
		for i := range n {
			path, data := record(i)
			writes = append(writes, Write{Action: Create, Path: path, Record: data, CID: CID(data)})
		}
		r := New("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", key)
		require.NoError(t, r.Load("3aaaaaaaaaa2a", writes))
		require.Equal(t, n, r.Len())
		var car bytes.Buffer
		require.NoError(t, Bulk{DID: r.DID, Rev: "3aaaaaaaaaa2a", Key: key, N: n, Record: record}.Write(&car))
		commit, loaded, err := atrepo.LoadRepoFromCAR(context.Background(), &car)
		require.NoError(t, err)
		require.Equal(t, r.Head().Data, commit.Data)
		leaves := map[string]cid.Cid{}
		require.NoError(t, loaded.MST.WriteToMap(leaves))
		require.Len(t, leaves, n)
	}
}

func TestExportSinceLeavesOutOldRecords(t *testing.T) {
	t.Parallel()
	key, err := NewKey(P256, "since")
	require.NoError(t, err)
	r := New("did:plc:aaaaaaaaaaaaaaaaaaaaaaab", key)
	first, second := MustEncode(Map{"n": 1}), MustEncode(Map{"n": 2})
	require.NoError(t, r.Load("3aaaaaaaaaa2a", []Write{{Action: Create, Path: "c.a/1", Record: first, CID: CID(first)}}))
	_, err = r.Apply("3aaaaaaaaaa2b", []Write{{Action: Create, Path: "c.a/2", Record: second, CID: CID(second)}})
	require.NoError(t, err)
	var car bytes.Buffer
	require.NoError(t, r.Export(&car, "3aaaaaaaaaa2a"))
	_, blocks, err := ReadCAR(car.Bytes())
	require.NoError(t, err)
	has := map[cid.Cid]bool{}
	for _, b := range blocks {
		has[b.CID] = true
	}
	require.False(t, has[CID(first)])
	require.True(t, has[CID(second)])
	_, err = r.Apply("3aaaaaaaaaa2c", []Write{{Action: Delete, Path: "c.a/9"}})
	require.ErrorContains(t, err, "c.a/9")
}
