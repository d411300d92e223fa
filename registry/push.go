package registry

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Has reports whether the repository has a blob.
func (r *Repository) Has(ctx context.Context, d digest.Digest) (bool, error) {
	resp, err := r.request(ctx, http.MethodHead, "blobs/"+d.String(), http.Header{}, http.StatusOK)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// Upload stores a blob in the repository, and reports whether it had to be sent. It is
// not sent if the repository has it, or the registry mounts it from another repository:
// one in which the Client has seen it, or that of an image named in others. Upload calls
// open for each attempt to send it, and returns read errors unchanged.
func (r *Repository) Upload(
	ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error), others ...string,
) (sent bool, err error) {
	h, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return false, err
	}
	blob := &upload{d: d, hash: h, open: open}
	layer, err := partial.CompressedToLayer(blob)
	if err != nil {
		return false, err
	}
	if from, ok := r.client.elsewhere(r.name, d.Digest, others); ok {
		layer = &remote.MountableLayer{Layer: layer, Reference: from.Digest(d.Digest.String())}
	}
	err = r.with(ctx, func(s *session) error { return r.explain(ctx, s.pusher.Upload(ctx, r.name, layer)) })
	sent, failed := blob.outcome()
	if err = cmp.Or(failed, err); err == nil {
		r.Remember(d)
	}
	return sent, err
}

// Put writes a manifest under a tag or its digest.
func (r *Repository) Put(ctx context.Context, identifier, mediaType string, manifest []byte) error {
	ref := name.Reference(r.name.Tag(identifier))
	if isDigest(digest.Digest(identifier)) {
		ref = r.name.Digest(identifier)
	}
	return r.with(ctx, func(s *session) error {
		return r.explain(ctx, s.pusher.Put(ctx, ref, &document{types.MediaType(mediaType), manifest}))
	})
}

// Delete removes a tag or a manifest.
func (r *Repository) Delete(ctx context.Context, identifier string) error {
	resp, err := r.request(ctx, http.MethodDelete, "manifests/"+identifier, http.Header{}, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// A document is a manifest as go-containerregistry takes it.
type document struct {
	mediaType types.MediaType
	text      []byte
}

func (d *document) MediaType() (types.MediaType, error) { return d.mediaType, nil }
func (d *document) RawManifest() ([]byte, error)        { return d.text, nil }

// An upload is a blob being sent. It implements partial.CompressedLayer.
type upload struct {
	d    ispec.Descriptor
	hash v1.Hash
	open func() (io.ReadCloser, error)

	mu   sync.Mutex
	sent bool
	err  error // of opening or reading it
}

func (u *upload) Digest() (v1.Hash, error)            { return u.hash, nil }
func (u *upload) Size() (int64, error)                { return u.d.Size, nil }
func (u *upload) MediaType() (types.MediaType, error) { return types.MediaType(u.d.MediaType), nil }

// Compressed is a method of partial.CompressedLayer.
func (u *upload) Compressed() (io.ReadCloser, error) {
	body, err := u.open()
	u.note(err)
	return &uploadBody{body, u}, err
}

func (u *upload) note(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent = true
	if err != nil && err != io.EOF {
		u.err = err
	}
}

func (u *upload) outcome() (sent bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent, u.err
}

// An uploadBody records its read errors, which would otherwise pass for failures of the
// registry.
type uploadBody struct {
	io.ReadCloser
	of *upload
}

func (b *uploadBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.of.note(err)
	return n, err
}

// Remember records that the repository has blobs, so that Upload can mount them elsewhere.
func (r *Repository) Remember(blobs ...ispec.Descriptor) {
	r.client.mu.Lock()
	defer r.client.mu.Unlock()
	for _, d := range blobs {
		if seen := r.client.seen[d.Digest]; !slices.Contains(seen, r.name) {
			r.client.seen[d.Digest] = append(seen, r.name)
		}
	}
}

// elsewhere returns another repository of the same registry that has, or may have, a blob.
func (c *Client) elsewhere(to name.Repository, d digest.Digest, others []string) (name.Repository, bool) {
	c.mu.Lock()
	known := slices.Clone(c.seen[d])
	c.mu.Unlock()
	for _, other := range others {
		if ref, err := (Ref{Name: other}).parse(); err == nil {
			known = append(known, ref.Context())
		}
	}
	for _, repo := range known {
		if repo.RegistryStr() == to.RegistryStr() && repo.RepositoryStr() != to.RepositoryStr() {
			return repo, true
		}
	}
	return name.Repository{}, false
}
