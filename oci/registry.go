package oci

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry"
)

// A registrySource is an image in a registry as a source.
type registrySource struct{ *registry.Image }

func (r registrySource) document(ctx context.Context, d Descriptor) ([]byte, error) {
	return r.Document(ctx, d)
}
func (r registrySource) fetch(ctx context.Context, d Descriptor, w *Writer) error {
	return r.Blob(ctx, d, w)
}
func (r registrySource) far() bool { return true }

// Resolve returns the manifest that ref stands for now on a platform. It costs one
// HEAD request, and a GET for each index on the way. The error wraps those of package
// registry.
func Resolve(ctx context.Context, c *registry.Client, ref registry.Ref, p ispec.Platform) (Descriptor, error) {
	image, err := c.Image(ref)
	if err != nil {
		return Descriptor{}, err
	}
	root, err := image.Head(ctx)
	if err == nil {
		root, err = resolve(ctx, registrySource{image}, []Descriptor{root}, p)
	}
	if err != nil {
		return Descriptor{}, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return root, nil
}

// BaseFromRegistry takes in the image that ref names and whose manifest Resolve
// has found, now or in an earlier build. What ref stands for by now does not
// matter. Blobs that the store has are not fetched again; a layer that was cut is
// continued. progress, if not nil, receives how many bytes of the layers have come;
// it is called by several goroutines at once.
func (s *Store) BaseFromRegistry(
	ctx context.Context, c *registry.Client, ref registry.Ref, manifest digest.Digest, progress func(done, total int64),
) (*Base, error) {
	image, err := c.Image(ref)
	if err != nil {
		return nil, err
	}
	return s.takeIn(ctx, registrySource{image}, ref.Name, Descriptor{Digest: manifest}, progress)
}

// ConfigFromRegistry returns the configuration of the image that ref stands for now on a
// platform. It takes in nothing.
func ConfigFromRegistry(ctx context.Context, c *registry.Client, ref registry.Ref, p ispec.Platform) (ispec.Image, DockerConfig, error) {
	config, docker, err := readConfig(ctx, c, ref, p)
	if err != nil {
		err = fmt.Errorf("%s: %w", ref.Name, err)
	}
	return config, docker, err
}

func readConfig(ctx context.Context, c *registry.Client, ref registry.Ref, p ispec.Platform) (config ispec.Image, docker DockerConfig, err error) {
	image, err := c.Image(ref)
	if err != nil {
		return config, docker, err
	}
	src := registrySource{image}
	manifest, err := image.Head(ctx)
	if err == nil {
		manifest, err = resolve(ctx, src, []Descriptor{manifest}, p)
	}
	if err != nil {
		return config, docker, err
	}
	data, err := checkedDocument(ctx, src, manifest)
	if err != nil {
		return config, docker, err
	}
	m, err := parseManifest(data)
	if err != nil {
		return config, docker, err
	}
	if data, err = checkedDocument(ctx, src, m.Config); err != nil {
		return config, docker, err
	}
	return unmarshalConfig(data)
}
