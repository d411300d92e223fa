package registry

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// A Ref names an image in a registry.
type Ref struct {
	// Name is docker://host/repository:tag@digest, or the same without docker://. A name
	// without a host, as in debian:12, is Docker Hub's; the tag defaults to latest. A
	// digest overrides the tag.
	Name string

	// Insecure allows https without a check of the certificate, and plain http where
	// https is not served.
	Insecure bool
}

func (r Ref) parse() (name.Reference, error) {
	text := strings.TrimPrefix(r.Name, "docker://")
	if host, _, _ := strings.Cut(text, "/"); strings.Contains(host, "@") && strings.Contains(text, "/") {
		return nil, errors.New("an image's name must not hold credentials: log in with `skopeo login`")
	}
	options := []name.Option{name.WeakValidation}
	if r.Insecure {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(text, options...)
	if err != nil {
		return nil, fmt.Errorf("%q is not the name of an image: want docker://host/repository:tag or @sha256:…", r.Name)
	}
	if pinned, ok := ref.(name.Digest); ok && !isDigest(digest.Digest(pinned.DigestStr())) {
		// One that cannot be checked would be followed blindly.
		return nil, fmt.Errorf("%q: only sha256 digests are supported", r.Name)
	}
	return ref, nil
}

// Pinned returns the digest that ref names, of a manifest or an index; "" when it
// names none.
func (r Ref) Pinned() digest.Digest {
	ref, err := r.parse()
	if err != nil {
		return ""
	}
	if pinned, ok := ref.(name.Digest); ok {
		return digest.Digest(pinned.DigestStr())
	}
	return ""
}

// isDigest reports whether d is a sha256 digest in canonical form.
func isDigest(d digest.Digest) bool {
	_, err := v1.NewHash(string(d))
	return err == nil && d.Algorithm() == digest.SHA256
}
