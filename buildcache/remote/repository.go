package remote

import (
	"context"
	"fmt"
	"io"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Repository keeps bundles under tags, and blobs under digests. It may be used by
// many goroutines.
type Repository interface {
	// Manifest returns the manifest that a tag stands for. The error is ErrNotFound
	// where there is none.
	Manifest(ctx context.Context, tag string) ([]byte, error)

	// Blob opens a blob. The caller compares what it reads with the digest. The error is
	// ErrNotFound where there is none.
	Blob(ctx context.Context, d ispec.Descriptor) (io.ReadCloser, error)

	// PutBlob brings a blob there, and opens it only if it is not there.
	PutBlob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) error

	// Tag makes a tag stand for an artifact whose blobs, the config excepted, are there.
	Tag(ctx context.Context, tag string, a *Artifact) error
}

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

func readBlob(ctx context.Context, r Repository, d ispec.Descriptor) ([]byte, error) {
	from, err := r.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	data, err := io.ReadAll(io.LimitReader(from, d.Size+1))
	if err == nil && int64(len(data)) != d.Size {
		err = fmt.Errorf("%w: its config is not as long as its manifest says", ErrDamaged)
	}
	return data, err
}
