package remote

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/layerbuild/layerbuild/buildcache"
)

// maxEnvelope bounds an envelope, in bytes.
const maxEnvelope = 16 << 20

// Seal returns the envelope of a bundle, signed by key; without a key it has no
// signature.
func Seal(ctx context.Context, b *Bundle, key *PrivateKey) ([]byte, error) {
	payload, err := b.marshal()
	if err != nil {
		return nil, err
	}
	envelope := &dsse.Envelope{PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(payload), Signatures: []dsse.Signature{}}
	if key != nil {
		signer, err := dsse.NewEnvelopeSigner(key)
		if err != nil {
			return nil, err
		}
		if envelope, err = signer.SignPayload(ctx, PayloadType, payload); err != nil {
			return nil, err
		}
	}
	return json.Marshal(envelope)
}

// Trust is what a reader believes.
type Trust struct {
	Keys     []*PublicKey  // a bundle must be signed by one of them, and a record first vouched for by one
	Registry bool          // without Keys: whoever can write to the registry is believed
	MaxAge   time.Duration // how old a record may be; 0 is any age
}

// Open verifies an envelope that was found under a tag, and returns its bundle with
// those records that are to be believed at the time now. Nothing of the payload is
// read before a signature holds. The error is ErrUntrusted, ErrNewer or ErrDamaged.
func (t Trust) Open(ctx context.Context, envelope []byte, tag string, now time.Time) (*Bundle, error) {
	payload, err := t.payload(ctx, envelope)
	if err != nil {
		return nil, err
	}
	b, err := unmarshal(payload)
	if err != nil {
		return nil, err
	}
	if b.Tag != tag {
		return nil, fmt.Errorf("%w: it was made for the tag %q and found under %s", ErrUntrusted, b.Tag, tag)
	}
	b.Records = slices.DeleteFunc(b.Records, func(r *buildcache.Record) bool { return !t.believes(r, now) })
	return b, nil
}

// payload returns what a trusted key has signed.
func (t Trust) payload(ctx context.Context, text []byte) ([]byte, error) {
	var envelope dsse.Envelope
	if len(text) > maxEnvelope {
		return nil, fmt.Errorf("%w: its envelope has %d bytes, of at most %d", ErrDamaged, len(text), maxEnvelope)
	}
	if err := json.Unmarshal(text, &envelope); err != nil {
		return nil, fmt.Errorf("%w: its envelope: %w", ErrDamaged, err)
	}
	if envelope.PayloadType != PayloadType {
		return nil, fmt.Errorf("%w: its envelope holds a %.100q", ErrDamaged, envelope.PayloadType)
	}
	if len(t.Keys) == 0 {
		if !t.Registry {
			return nil, ErrUntrusted
		}
		payload, err := envelope.DecodeB64Payload()
		if err != nil {
			return nil, fmt.Errorf("%w: its envelope: %w", ErrDamaged, err)
		}
		return payload, nil
	}
	var keys []dsse.Verifier
	for _, key := range t.Keys {
		keys = append(keys, key)
	}
	verifier, err := dsse.NewEnvelopeVerifier(keys...)
	if err != nil {
		return nil, err
	}
	_, payload, err := verifier.VerifyAndDecode(ctx, &envelope)
	if err != nil {
		return nil, ErrUntrusted
	}
	return payload, nil
}

// clockSkew is how far ahead of ours the clock of another machine may be.
const clockSkew = 5 * time.Minute

// believes reports whether a record of a bundle that was opened is to be used. Trust
// is not handed on: that a trusted key has signed the bundle does not make another
// key's records its own. What no key has vouched for, the registry vouches for.
func (t Trust) believes(r *buildcache.Record, now time.Time) bool {
	if len(t.Keys) > 0 {
		if r.Vouched == nil || !t.Knows(r.Vouched.By) {
			return false
		}
	} else {
		made := r.Created
		if r.Vouched != nil {
			made = r.Vouched.Time
		}
		r.Vouched = &buildcache.Vouch{By: buildcache.VouchRegistry, Time: made}
	}
	age := now.Sub(r.Vouched.Time)
	return t.MaxAge == 0 || age <= t.MaxAge && age >= -clockSkew
}

// Knows reports whether one of the keys has that id.
func (t Trust) Knows(id string) bool {
	return slices.ContainsFunc(t.Keys, func(key *PublicKey) bool { return key.ID() == id })
}
