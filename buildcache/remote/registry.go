package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry"
)

// answerTime is how long a registry may take to give a bundle's manifest, attempts and
// logging in included: a build does not wait longer for one that is dead.
const answerTime = 5 * time.Second

// ClientOptions are those of a registry.Client whose registries a build can do without.
func ClientOptions() registry.Options {
	return registry.Options{
		Allow:     "registry.insecure=true",
		FirstByte: answerTime,
		Stall:     30 * time.Second,
		Attempts:  3,
	}
}

// A Registry is a Repository in a registry.
type Registry struct {
	repository *registry.Repository
}

// NewRegistry returns the Repository at a place of TypeRegistry. It asks no registry yet.
func NewRegistry(c *registry.Client, at Place, access registry.Access) (*Registry, error) {
	repository, _, err := c.Repository(registry.Ref{Name: at.Name, Insecure: at.Insecure}, access)
	if err != nil {
		return nil, err
	}
	return &Registry{repository}, nil
}

// Manifest is a method of Repository.
func (r *Registry) Manifest(ctx context.Context, tag string) ([]byte, error) {
	limited, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("%w: no answer within %s", registry.ErrUnreachable, answerTime))
	defer cancel()
	data, _, err := r.repository.Manifest(limited, tag)
	return data, known(err)
}

// Blob is a method of Repository.
func (r *Registry) Blob(ctx context.Context, d ispec.Descriptor, to Sink) error {
	return known(r.repository.Blob(ctx, d, to))
}

// PutBlob is a method of Repository.
func (r *Registry) PutBlob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) error {
	_, err := r.repository.Upload(ctx, d, open)
	return err
}

// Tag is a method of Repository.
func (r *Registry) Tag(ctx context.Context, tag string, a *Artifact) error {
	config := ispec.Descriptor{MediaType: a.Type, Digest: digest.FromBytes(a.Config), Size: int64(len(a.Config))}
	if _, err := r.repository.Upload(ctx, config, content(a.Config)); err != nil {
		return err
	}
	err := r.repository.Put(ctx, tag, ispec.MediaTypeImageManifest, a.Manifest)
	var answer *registry.StatusError
	if errors.As(err, &answer) && (answer.Status == http.StatusBadRequest || answer.Status == http.StatusUnsupportedMediaType) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// known makes an ErrNotFound of what a registry has not.
func known(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
