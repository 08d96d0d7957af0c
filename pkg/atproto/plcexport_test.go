package atproto_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

const (
	exportDID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
	exportKey = "did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"
)

func exportLine(did, at, operation string, nullified bool) []byte {
	return fmt.Appendf(nil, `{"did":%q,"operation":%s,"cid":"bafyreigp6shzy6dlcxuowwoxz7u5nemdrkad2my5zwzpwilcnhih7bw6zm","nullified":%t,"createdAt":%q}`, did, operation, nullified, at)
}

func plcOp(handle, pds string) string {
	return fmt.Sprintf(`{"type":"plc_operation","verificationMethods":{"atproto":%q,"other":"x"},"alsoKnownAs":["https://x","at://%s"],
		"services":{"atproto_pds":{"type":"AtprotoPersonalDataServer","endpoint":%q},"bsky_chat":{"type":"X","endpoint":{"a":1}}},"rotationKeys":[],"prev":null,"sig":"x"}`, exportKey, handle, pds)
}

func TestPLCOperationForms(t *testing.T) {
	t.Parallel()
	op, err := atproto.ParsePLCOperation(exportLine(exportDID, "2023-04-12T04:53:57.057Z", plcOp("Alice.Test", "https://pds.test/"), false))
	require.NoError(t, err)
	require.Equal(t, "alice.test", op.Identity.Handle)
	require.Equal(t, "https://pds.test", op.Identity.PDS)
	require.Equal(t, exportKey, op.Identity.SigningKey)
	require.Equal(t, time.Date(2023, 4, 12, 4, 53, 57, 57_000_000, time.UTC), op.At)
	_, err = op.Identity.PublicKey()
	require.NoError(t, err)

	op, err = atproto.ParsePLCOperation(exportLine(exportDID, "2022-11-17T00:35:16.391Z",
		`{"type":"create","signingKey":"`+exportKey+`","recoveryKey":"did:key:x","handle":"old.test","service":"pds.old.test","prev":null,"sig":"x"}`, false))
	require.NoError(t, err)
	require.Equal(t, "old.test", op.Identity.Handle)
	require.Equal(t, "https://pds.old.test", op.Identity.PDS)
	require.Equal(t, exportKey, op.Identity.SigningKey)

	op, err = atproto.ParsePLCOperation(exportLine(exportDID, "2024-01-01T00:00:00Z", `{"type":"plc_tombstone","prev":"x","sig":"x"}`, false))
	require.NoError(t, err)
	require.True(t, op.Tombstone)

	_, err = atproto.ParsePLCOperation(exportLine(exportDID, "2024-01-01T00:00:00Z", plcOp("a.test", "https://x"), true))
	require.ErrorIs(t, err, atproto.ErrNullified)
	for _, bad := range [][]byte{
		nil, []byte("{"), []byte("[]"), exportLine("did:web:x", "2024-01-01T00:00:00Z", plcOp("a.test", "https://x"), false),
		exportLine(exportDID, "yesterday", plcOp("a.test", "https://x"), false), exportLine(exportDID, "2024-01-01T00:00:00Z", `5`, false),
		exportLine(exportDID, "2024-01-01T00:00:00Z", `{"type":"plc_new"}`, false), exportLine("", "2024-01-01T00:00:00Z", `{}`, false),
	} {
		_, err := atproto.ParsePLCOperation(bad)
		require.Error(t, err, "%s", bad)
		require.Equal(t, fault.Permanent, fault.ClassOf(err))
	}
}

// bulk is a BulkCache in memory.
type bulk struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (b *bulk) GetMany(_ context.Context, dids []string) ([][]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([][]byte, len(dids))
	for i, d := range dids {
		out[i] = b.m[d]
	}
	return out, nil
}

func (b *bulk) SetMany(_ context.Context, dids []string, values [][]byte, _ time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, d := range dids {
		b.m[d] = values[i]
	}
	return nil
}

func (b *bulk) Get(_ context.Context, did string) ([]byte, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.m[did]
	return v, ok, nil
}

func (b *bulk) Set(ctx context.Context, did string, v []byte, ttl time.Duration) error {
	return b.SetMany(ctx, []string{did}, [][]byte{v}, ttl)
}

// Whatever the order of the operations and however they are cut into batches,
// the latest one is what a Directory then says, without asking anybody.
func TestImportIdentitiesLatestWins(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var ops []atproto.PLCOperation
		for i := range 12 {
			op, err := atproto.ParsePLCOperation(exportLine(exportDID, fmt.Sprintf("2024-01-01T00:00:%02dZ", i), plcOp(fmt.Sprintf("h%d.test", i), "https://pds.test"), false))
			require.NoError(t, err)
			ops = append(ops, op)
		}
		rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		cache := &bulk{m: map[string][]byte{}}
		for chunk := range slices.Chunk(ops, 1+rng.IntN(5)) {
			_, err := atproto.ImportIdentities(t.Context(), cache, chunk, time.Hour)
			require.NoError(t, err)
		}
		d := newDirectory(t, atproto.DirectoryConfig{PLCURL: "http://127.0.0.1:1", Cache: cache})
		id, err := d.Identity(t.Context(), exportDID)
		require.NoError(t, err)
		require.Equal(t, "h11.test", id.Handle, "seed %d", seed)
		_, err = id.PublicKey()
		require.NoError(t, err)
	}
}

func TestImportIdentitiesKeepsWhatIsNewer(t *testing.T) {
	t.Parallel()
	plc := newPLC(t)
	plc.set(exportDID, document(t, exportDID, "now.test", "https://pds.test", multibase(t)), 0)
	cache := &bulk{m: map[string][]byte{}}
	asked := newDirectory(t, atproto.DirectoryConfig{PLCURL: plc.URL, Cache: cache})
	_, err := asked.Identity(t.Context(), exportDID)
	require.NoError(t, err)
	older, err := atproto.ParsePLCOperation(exportLine(exportDID, "2024-01-01T00:00:00Z", plcOp("old.test", "https://pds.test"), false))
	require.NoError(t, err)
	n, err := atproto.ImportIdentities(t.Context(), cache, []atproto.PLCOperation{older}, time.Hour)
	require.NoError(t, err)
	require.Zero(t, n, "the document was fetched after the operation")
	newer := older
	newer.At = time.Now().Add(time.Minute)
	newer.Tombstone = true
	n, err = atproto.ImportIdentities(t.Context(), cache, []atproto.PLCOperation{newer, older}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = newDirectory(t, atproto.DirectoryConfig{PLCURL: "http://127.0.0.1:1", Cache: cache}).Identity(t.Context(), exportDID)
	require.ErrorContains(t, err, "tombstoned")
	require.Equal(t, fault.Permanent, fault.ClassOf(err))
	broken := &failing{}
	_, err = atproto.ImportIdentities(t.Context(), broken, []atproto.PLCOperation{newer}, time.Hour)
	require.ErrorIs(t, err, errBroken)
}

var errBroken = errors.New("broken")

type failing struct{}

func (*failing) GetMany(context.Context, []string) ([][]byte, error) { return nil, errBroken }
func (*failing) SetMany(context.Context, []string, [][]byte, time.Duration) error {
	return errBroken
}

func FuzzPLCOperation(f *testing.F) {
	f.Add(exportLine(exportDID, "2023-04-12T04:53:57.057Z", plcOp("alice.test", "https://pds.test/"), false))
	f.Add(exportLine(exportDID, "2024-01-01T00:00:00Z", `{"type":"plc_tombstone"}`, false))
	f.Fuzz(func(t *testing.T, line []byte) {
		op, err := atproto.ParsePLCOperation(line)
		if err == nil && op.Identity.DID == "" {
			t.Fatal("an operation of nobody")
		}
	})
}

func BenchmarkParsePLCOperation(b *testing.B) {
	line := exportLine(exportDID, "2023-04-12T04:53:57.057Z", plcOp("alice.test", "https://pds.test/"), false)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := atproto.ParsePLCOperation(line); err != nil {
			b.Fatal(err)
		}
	}
}
