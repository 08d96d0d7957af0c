package repos

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/testkit/repo"
)

// author is an account that commits.
type author struct {
	t    *testing.T
	did  string
	key  *repo.Key
	repo *repo.Repo
	n    int
}

func newAuthor(t *testing.T, ks keys, name string) *author {
	t.Helper()
	a := &author{t: t, did: fmt.Sprintf("did:plc:%s", strings.Repeat(name, 24)[:24])}
	var err error
	a.key, err = repo.NewKey(repo.K256, name)
	require.NoError(t, err)
	a.repo = repo.New(a.did, a.key)
	if ks != nil {
		ks[a.did] = a.identity()
	}
	return a
}

func (a *author) identity() atproto.Identity {
	doc, err := json.Marshal(map[string]any{
		"id": a.did, "alsoKnownAs": []string{"at://a.test"},
		"verificationMethod": []any{map[string]any{"id": a.did + "#atproto", "type": "Multikey", "controller": a.did, "publicKeyMultibase": a.key.Multibase()}},
		"service":            []any{map[string]any{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.test"}},
	})
	require.NoError(a.t, err)
	id, err := atproto.ParseDocument(a.did, doc)
	require.NoError(a.t, err)
	return id
}

var baseTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// rev is the TID of the n-th moment.
func rev(n int) string { return tid(baseTime.Add(time.Duration(n) * time.Second)) }

func tid(at time.Time) string {
	v := uint64(at.UnixMicro()) << 10
	var out [13]byte
	for i := 12; i >= 0; i-- {
		out[i] = tidAlphabet[v&31]
		v >>= 5
	}
	return string(out[:])
}

const frameTime = "2026-01-02T03:04:05.678Z"

func post(path string) repo.Write {
	record := repo.MustEncode(repo.Map{"$type": "app.bsky.feed.post", "text": "hello " + path, "createdAt": frameTime})
	return repo.Write{Action: repo.Create, Path: path, Record: record, CID: repo.CID(record)}
}

// commit makes the next commit: one new post, or the writes given.
func (a *author) commit(writes ...repo.Write) *repo.Commit {
	a.t.Helper()
	a.n++
	if len(writes) == 0 {
		writes = []repo.Write{post("app.bsky.feed.post/" + strconv.Itoa(a.n))}
	}
	c, err := a.repo.Apply(rev(a.n), writes)
	require.NoError(a.t, err)
	return c
}

// frame is a commit as seq of a relay, changed by the given functions.
func (a *author) frame(seq int64, c *repo.Commit, change ...func(*comatproto.SyncSubscribeRepos_Commit)) []byte {
	a.t.Helper()
	m := repo.CommitMessage(a.did, c, seq, frameTime)
	for _, f := range change {
		f(m)
	}
	raw, err := repo.Frame("#commit", m)
	require.NoError(a.t, err)
	return raw
}

func (a *author) next(seq int64) []byte { return a.frame(seq, a.commit()) }

func (a *author) sync(seq int64) []byte {
	a.t.Helper()
	head := a.repo.Head()
	raw, err := repo.Frame("#sync", repo.SyncMessage(a.did, &head, seq, frameTime))
	require.NoError(a.t, err)
	return raw
}

func (a *author) account(seq int64, active bool, status string) []byte {
	a.t.Helper()
	m := &comatproto.SyncSubscribeRepos_Account{Did: a.did, Seq: seq, Time: frameTime, Active: active}
	if status != "" {
		m.Status = &status
	}
	raw, err := repo.Frame("#account", m)
	require.NoError(a.t, err)
	return raw
}

func (a *author) identityFrame(seq int64, handle string) []byte {
	a.t.Helper()
	m := &comatproto.SyncSubscribeRepos_Identity{Did: a.did, Seq: seq, Time: frameTime}
	if handle != "" {
		m.Handle = &handle
	}
	raw, err := repo.Frame("#identity", m)
	require.NoError(a.t, err)
	return raw
}

func infoFrame(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := repo.Frame("#info", &comatproto.SyncSubscribeRepos_Info{Name: name})
	require.NoError(t, err)
	return raw
}
