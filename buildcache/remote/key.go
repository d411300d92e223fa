package remote

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// A PublicKey verifies what the holder of its private key has signed.
type PublicKey struct {
	key ed25519.PublicKey
	id  string
}

// A PrivateKey signs bundles.
type PrivateKey struct {
	key ed25519.PrivateKey
	PublicKey
}

// The types of PEM blocks, as openssl writes them: RFC 8410, section 10.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// GenerateKey returns a new private key and its public key as PEM, as `openssl genpkey
// -algorithm ed25519` and `openssl pkey -pubout` write them.
func GenerateKey() (private, public []byte, err error) {
	publicKey, privateKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(privateKey)
	if err != nil {
		return nil, nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(publicKey)
	if err != nil {
		return nil, nil, err
	}
	encode := func(block string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der})
	}
	return encode(privateBlock, der), encode(publicBlock, pub), nil
}

// ParsePrivateKey reads an ed25519 private key in PEM. No error holds any of it.
func ParsePrivateKey(text []byte) (*PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM: make a key with `layerbuild cache keygen`")
	}
	if block.Type == publicBlock {
		return nil, errors.New("it is a public key, and signing needs the private one")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("it is not an unencrypted ed25519 key but a %s: make one with `layerbuild cache keygen`", block.Type)
	}
	public, err := newPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &PrivateKey{key, *public}, nil
}

// ParsePublicKey reads an ed25519 public key in PEM.
func ParsePublicKey(text []byte) (*PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM: `layerbuild cache keygen` and `openssl pkey -pubout` write public keys")
	}
	if block.Type == privateBlock {
		return nil, errors.New("it is a private key, and verifying needs the public one: `openssl pkey -pubout` makes that")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("it is not an ed25519 key but a %s", block.Type)
	}
	return newPublicKey(key)
}

func newPublicKey(key ed25519.PublicKey) (*PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &PublicKey{key, hex.EncodeToString(sum[:])}, nil
}

// ID returns the key's name: the sha256 of its DER form, in hexadecimal digits.
func (k *PublicKey) ID() string { return k.id }

// KeyID is a method of dsse.Verifier.
func (k *PublicKey) KeyID() (string, error) { return k.id, nil }

// Public is a method of dsse.Verifier.
func (k *PublicKey) Public() crypto.PublicKey { return k.key }

// Verify is a method of dsse.Verifier.
func (k *PublicKey) Verify(_ context.Context, data, signature []byte) error {
	if !ed25519.Verify(k.key, data, signature) {
		return ErrUntrusted
	}
	return nil
}

// Sign is a method of dsse.Signer.
func (k *PrivateKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(k.key, data), nil
}
