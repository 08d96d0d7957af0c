package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/testkit/world"
)

func (r *rig) imported(args ...string) (code int, got importReport, errs string) {
	r.t.Helper()
	code, out, errs := r.run(append([]string{"identity", "import", "--json"}, args...)...)
	require.NoError(r.t, json.Unmarshal([]byte(out), &got), "%s%s", out, errs)
	return code, got, errs
}

// cold is a directory with the cache of the rig and a PLC directory that only
// counts what it is asked.
func (r *rig) cold() (*atproto.Directory, *atomic.Int64) {
	r.t.Helper()
	asked := new(atomic.Int64)
	plc := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "", http.StatusInternalServerError)
	}))
	r.t.Cleanup(plc.Close)
	d, err := atproto.NewDirectory(atproto.DirectoryConfig{PLCURL: plc.URL, Cache: r.client().NewCache(identityCache, 200_000)})
	require.NoError(r.t, err)
	return d, asked
}

func download(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return b
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

// After an import the directory is asked for nobody, in whatever way the
// export came.
func TestIdentityImportWarmsTheCache(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"file", "gzip", "stdin", "address", "endpoint"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			r := newNetRig(t, world.Options{Seed: 11, Accounts: 50, Records: 100, PDS: 3})
			export := download(t, r.net.PLCURL+"/export")
			path := filepath.Join(t.TempDir(), "export.jsonl")
			from := path
			switch form {
			case "file":
				require.NoError(t, os.WriteFile(path, export, 0o600))
			case "gzip":
				require.NoError(t, os.WriteFile(path, zipped(t, export), 0o600))
			case "stdin":
				r.in, from = string(export), "-"
			case "address":
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(zipped(t, export)) }))
				t.Cleanup(srv.Close)
				from = srv.URL + "/dump.jsonl.gz"
			case "endpoint":
				from = r.net.PLCURL + "/export"
			}
			code, got, errs := r.imported(from)
			require.Equal(t, 0, code, errs)
			require.EqualValues(t, 50, got.Stored)
			require.NotEmpty(t, got.Last)
			dir, asked := r.cold()
			for _, a := range r.net.World.Accounts() {
				id, err := dir.Identity(t.Context(), a.DID)
				if s := r.net.World.State(a); s.Tombstoned {
					require.ErrorContains(t, err, "tombstoned")
				} else {
					require.NoError(t, err)
					require.Equal(t, r.net.PDSURLs[s.PDS], id.PDS)
					require.Equal(t, s.Handle, id.Handle)
					key, err := id.PublicKey()
					require.NoError(t, err)
					require.Equal(t, a.Key.Public().DIDKey(), key.DIDKey())
				}
			}
			require.Zero(t, asked.Load())
		})
	}
}

func exported(did string, second int, handle string, nullified bool) string {
	return fmt.Sprintf(`{"did":%q,"operation":{"type":"plc_operation","verificationMethods":{"atproto":"did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"},`+
		`"alsoKnownAs":["at://%s"],"services":{"atproto_pds":{"type":"AtprotoPersonalDataServer","endpoint":"https://pds.test"}}},`+
		`"cid":"x","nullified":%t,"createdAt":"2026-01-01T00:%02d:%02dZ"}`+"\n", did, handle, nullified, second/60%60, second%60)
}

func TestIdentityImportTellsBadLines(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 11, Accounts: 8, Records: 10})
	did := "did:plc:" + name(1)
	r.in = exported(did, 30, "last.test", false) + "{\n\n" + exported(did, 40, "undone.test", true) +
		strings.Repeat("x", 200<<10) + "\n" + exported(did, 20, "earlier.test", false) + `{"did":"did:plc:x"}`
	code, got, errs := r.imported("-")
	require.Equal(t, 2, code)
	require.EqualValues(t, 3, got.Bad)
	require.EqualValues(t, 1, got.Nullified)
	require.EqualValues(t, 1, got.Stored)
	lines := make([]int64, 0, 3)
	for _, b := range got.BadLines {
		lines = append(lines, b.Line)
		require.Contains(t, errs, fmt.Sprintf("-:%d: ", b.Line))
	}
	require.Equal(t, []int64{2, 5, 7}, lines)
	dir, _ := r.cold()
	id, err := dir.Identity(t.Context(), did)
	require.NoError(t, err)
	require.Equal(t, "last.test", id.Handle)

	// An older export on top changes nothing, a newer one does.
	r.in = exported(did, 10, "older.test", false)
	_, got, _ = r.imported("-")
	require.Zero(t, got.Stored)
	r.in = exported(did, 50, "newer.test", false)
	_, got, _ = r.imported("-")
	require.EqualValues(t, 1, got.Stored)
	dir, _ = r.cold()
	id, err = dir.Identity(t.Context(), did)
	require.NoError(t, err)
	require.Equal(t, "newer.test", id.Handle)

	r.in = fmt.Sprintf(`{"did":%q,"operation":{"type":"plc_tombstone"},"nullified":false,"createdAt":"2026-01-01T01:00:00Z"}`, did)
	_, got, _ = r.imported("-")
	require.EqualValues(t, 1, got.Stored)
	dir, asked := r.cold()
	_, err = dir.Identity(t.Context(), did)
	require.ErrorContains(t, err, "tombstoned")
	require.Zero(t, asked.Load())

	for _, args := range [][]string{{"--after", "yesterday", "-"}, {"--after", "2026-01-01T00:00:00Z", "-"}, {"/does/not/exist"}, {"ftp://x/y"}, {}} {
		code, _, errs := r.run(append([]string{"identity", "import"}, args...)...)
		require.Equal(t, 1, code, "%v: %s", args, errs)
	}
}

// An endpoint is read to its end over pages that begin and end within the same
// millisecond; one that throttles is waited for; --after begins later.
func TestIdentityImportPages(t *testing.T) {
	t.Parallel()
	r := newNetRig(t, world.Options{Seed: 11, Accounts: 8, Records: 10})
	var lines []string
	for i := range 2500 {
		lines = append(lines, exported("did:plc:"+name(i), i/700, fmt.Sprintf("h%d.test", i), false))
	}
	var requests atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch requests.Add(1) {
		case 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case 3:
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		after, _ := time.Parse(time.RFC3339, req.URL.Query().Get("after"))
		n := 0
		for i, l := range lines {
			at := time.Date(2026, 1, 1, 0, 0, i/700, 0, time.UTC)
			if at.After(after) && n < 1000 {
				_, _ = io.WriteString(w, l)
				n++
			}
		}
	}))
	t.Cleanup(srv.Close)
	code, got, errs := r.imported(srv.URL + "/export")
	require.Equal(t, 0, code, errs)
	require.Equal(t, "2026-01-01T00:00:03.000Z", got.Last)
	dir, asked := r.cold()
	for _, i := range []int{0, 699, 700, 1399, 1400, 2100, 2499} {
		id, err := dir.Identity(t.Context(), "did:plc:"+name(i))
		require.NoError(t, err, i)
		require.Equal(t, fmt.Sprintf("h%d.test", i), id.Handle)
	}
	require.Zero(t, asked.Load())
	_, got, _ = r.imported(srv.URL+"/export", "--after", "2026-01-01T00:00:02Z")
	require.EqualValues(t, 400, got.Lines)
}

// endlessExport makes an export line by line.
type endlessExport struct {
	n, left int
	rest    []byte
}

func (e *endlessExport) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.left == 0 {
			return 0, io.EOF
		}
		e.left--
		e.n++
		e.rest = []byte(exported("did:plc:"+name(e.n%5000), e.n%3600, "x.test", false))
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// The memory of an import does not grow with the export.
//
//nolint:paralleltest // it measures the heap
func TestIdentityImportBoundedMemory(t *testing.T) {
	n := 60_000
	if os.Getenv("SLUICE_SOAK") != "" {
		n = 2_000_000
	}
	r := newNetRig(t, world.Options{Seed: 11, Accounts: 8, Records: 10})
	runtime.GC()
	var before, peak runtime.MemStats
	runtime.ReadMemStats(&before)
	var grown uint64
	var errs bytes.Buffer
	source := &endlessExport{left: n}
	tl := &tool{version: "v1", environ: r.env, out: &bytes.Buffer{}, err: &errs, in: readerFunc(func(p []byte) (int, error) {
		if source.n%5000 == 0 {
			runtime.ReadMemStats(&peak)
			grown = max(grown, peak.HeapAlloc-min(peak.HeapAlloc, before.HeapAlloc))
		}
		return source.Read(p)
	})}
	start := time.Now()
	require.Equal(t, 0, tl.run(t.Context(), []string{"identity", "import", "-"}), errs.String())
	t.Logf("%d operations in %s, heap grew by at most %d MB", n, time.Since(start).Round(time.Millisecond), grown>>20)
	require.Less(t, grown, uint64(64<<20))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
