package repo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"gitlab.com/yawning/secp256k1-voi/secec"
)

// Curve names one of the two curves of the protocol.
type Curve int

// The curves.
const (
	K256 Curve = iota
	P256
)

// Key is a signing key whose signatures are the same for the same content, so
// that a network made from a seed is the same byte for byte.
type Key struct {
	Curve Curve
	k256  *secec.PrivateKey
	p256  *ecdsa.PrivateKey
	pub   atcrypto.PublicKey
}

// NewKey derives a key from a seed.
func NewKey(curve Curve, seed string) (*Key, error) {
	raw := sha256.Sum256([]byte("sluice test key " + seed))
	k := &Key{Curve: curve}
	if curve == K256 {
		priv, err := secec.NewPrivateKey(raw[:])
		if err != nil {
			return nil, fmt.Errorf("derive K-256 key: %w", err)
		}
		pub, err := atcrypto.ParsePublicBytesK256(priv.PublicKey().CompressedBytes())
		if err != nil {
			return nil, fmt.Errorf("derive K-256 key: %w", err)
		}
		k.k256, k.pub = priv, pub
		return k, nil
	}
	priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:])
	if err != nil {
		return nil, fmt.Errorf("derive P-256 key: %w", err)
	}
	sdk, err := atcrypto.ParsePrivateBytesP256(raw[:])
	if err != nil {
		return nil, fmt.Errorf("derive P-256 key: %w", err)
	}
	if k.pub, err = sdk.PublicKey(); err != nil {
		return nil, fmt.Errorf("derive P-256 key: %w", err)
	}
	k.p256 = priv
	return k, nil
}

// Sign returns the low-S signature, r and s in 64 bytes, of the content's
// SHA-256, with the nonce of RFC 6979.
func (k *Key) Sign(content []byte) ([]byte, error) {
	digest := sha256.Sum256(content)
	if k.Curve == K256 {
		return k.k256.Sign(secec.RFC6979SHA256(), digest[:], &secec.ECDSAOptions{
			Hash: crypto.SHA256, Encoding: secec.EncodingCompact, RejectMalleable: true,
		})
	}
	der, err := k.p256.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	order := elliptic.P256().Params().N
	if half := new(big.Int).Rsh(order, 1); sig.S.Cmp(half) > 0 {
		sig.S.Sub(order, sig.S)
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

// Public returns the public half.
func (k *Key) Public() atcrypto.PublicKey { return k.pub }

// Multibase returns the public key as a DID document has it.
func (k *Key) Multibase() string { return k.pub.Multibase() }
