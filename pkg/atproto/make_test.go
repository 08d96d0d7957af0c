package atproto_test

import (
	"bytes"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
)

func newKey(t testing.TB) atcrypto.PrivateKey {
	t.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	return key
}

func publicKey(t testing.TB, key atcrypto.PrivateKey) atcrypto.PublicKey {
	t.Helper()
	pub, err := key.PublicKey()
	require.NoError(t, err)
	return pub
}

func readRepo(t testing.TB, car []byte) (atproto.RepoInfo, error) {
	t.Helper()
	return atproto.ReadRepo(t.Context(), bytes.NewReader(car), atproto.RepoOptions{}, func(atproto.Record) error { return nil })
}
