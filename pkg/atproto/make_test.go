package atproto_test

import (
	"bytes"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
)

func newKey(tb testing.TB) atcrypto.PrivateKey {
	tb.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(tb, err)
	return key
}

func publicKey(tb testing.TB, key atcrypto.PrivateKey) atcrypto.PublicKey {
	tb.Helper()
	pub, err := key.PublicKey()
	require.NoError(tb, err)
	return pub
}

func readRepo(tb testing.TB, car []byte) (atproto.RepoInfo, error) {
	tb.Helper()
	return atproto.ReadRepo(tb.Context(), bytes.NewReader(car), atproto.RepoOptions{}, func(atproto.Record) error { return nil })
}
