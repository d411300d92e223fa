package remote

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry"
)

// A Repository keeps bundles under tags, and blobs under digests. It may be used by
// many goroutines.
type Repository interface {
	// Manifest returns the manifest that a tag stands for. The error is ErrNotFound
	// where there is none.
	Manifest(ctx context.Context, tag string) ([]byte, error)

	// Blob appends to a sink what it lacks of a blob. The caller compares what has come
	// with the digest. The error is ErrNotFound where there is none.
	Blob(ctx context.Context, d ispec.Descriptor, to Sink) error

	// PutBlob brings a blob there, and opens it only if it is not there.
	PutBlob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) error

	// Tag makes a tag stand for an artifact whose blobs, the config excepted, are there. The
	// error is ErrRefused where configs must be of images.
	Tag(ctx context.Context, tag string, a *Artifact) error
}

// ErrRefused reports that a registry does not take an artifact's type of config.
var ErrRefused = errors.New("the registry takes images only")

// A Sink takes in a blob.
type Sink = registry.Sink

// Read returns the envelope that a repository has under a tag, and the blobs that are
// kept with it.
func Read(ctx context.Context, r Repository, tag string) (envelope []byte, blobs []ispec.Descriptor, err error) {
	manifest, err := r.Manifest(ctx, tag)
	if err != nil {
		return nil, nil, err
	}
	stored, err := ParseManifest(manifest)
	if err != nil {
		return nil, nil, err
	}
	config := stored.Config.Data
	if config == nil {
		if config, err = readBlob(ctx, r, stored.Config); err != nil {
			return nil, nil, err
		}
	}
	envelope, err = stored.Envelope(config)
	return envelope, stored.Blobs, err
}

// readBlob returns a small blob. It is not yet compared with its digest.
func readBlob(ctx context.Context, r Repository, d ispec.Descriptor) ([]byte, error) {
	var to memory
	err := r.Blob(ctx, d, &to)
	return to.Bytes(), err
}

// memory is a Sink for what is small.
type memory struct{ bytes.Buffer }

func (m *memory) Size() int64           { return int64(m.Len()) }
func (m *memory) Digest() digest.Digest { return digest.FromBytes(m.Bytes()) }
func (m *memory) Reset() error          { m.Buffer.Reset(); return nil }

// content opens what is in memory.
func content(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}
