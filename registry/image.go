package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image reads one image from wherever it may be found: the mirrors of registries.conf
// first. Each place is tried for what the ones before it did not provide. It is safe for
// concurrent use.
type Image struct {
	places []endpoint
	client *Client

	mu   sync.Mutex
	from int // those before it could not be reached
}

// Image returns the image that ref names, without contacting a registry.
func (c *Client) Image(ref Ref) (*Image, error) {
	conf, err := c.conf()
	if err != nil {
		return nil, err
	}
	places, err := conf.endpoints(ref)
	return &Image{client: c, places: places}, err
}

// try calls do with one place after the other until it succeeds. It returns the error of
// the last place, which is not a mirror.
func (i *Image) try(ctx context.Context, do func(r *Repository, identifier string) error) error {
	i.mu.Lock()
	from := i.from
	i.mu.Unlock()
	var mirrors string
	for n, at := range i.places[from:] {
		err := do(i.client.at(place{at.ref.Context(), at.insecure, Pull}), at.ref.Identifier())
		if err == nil || ctx.Err() != nil {
			return err
		}
		if from+n == len(i.places)-1 {
			if mirrors != "" {
				err = fmt.Errorf("%w; before that%s", err, mirrors)
			}
			return err
		}
		mirrors += fmt.Sprintf(", the mirror %s: %s", at.ref.Context(), err)
		if errors.Is(err, ErrUnreachable) {
			i.mu.Lock()
			i.from = max(i.from, from+n+1)
			i.mu.Unlock()
		}
	}
	return nil
}

// Head describes the manifest or index that the name stands for now.
func (i *Image) Head(ctx context.Context) (d ispec.Descriptor, err error) {
	err = i.try(ctx, func(r *Repository, identifier string) (err error) {
		d, err = r.Head(ctx, identifier)
		return err
	})
	return d, err
}

// Document returns a manifest, index or config of the image, after checking it. d.Size
// may be 0 if it is not known.
func (i *Image) Document(ctx context.Context, d ispec.Descriptor) (data []byte, err error) {
	err = i.try(ctx, func(r *Repository, _ string) (err error) {
		data, err = r.Document(ctx, d)
		return err
	})
	return data, err
}

// Blob writes what sink lacks of a blob. If one place cuts it, the next continues.
// It fails with ErrCorrupt, and empties sink, if the content is not what d says.
func (i *Image) Blob(ctx context.Context, d ispec.Descriptor, sink Sink) error {
	return i.try(ctx, func(r *Repository, _ string) error { return r.Blob(ctx, d, sink) })
}
