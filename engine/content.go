package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
)

// A hit needs no content: what others have built may be known here by its digests alone.
// What this file does brings the content when something needs it.

// parallelBlobs is how many blobs are fetched for images at a time.
const parallelBlobs = 4

// bring makes sure that the blob of a chain's highest layer is in the store. The error is
// ErrCorrupt where nobody has it: then the layer is made again.
func (b *Builder) bring(ctx context.Context, l *layers.Layer, c *chain) error {
	blob := *c.blob.Load()
	if b.Blobs.Has(blob) {
		return nil
	}
	err := b.fetch(ctx, l, blob)
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case c.ofBase:
		return c.again(ctx)
	}
	c.lost.Store(true)
	return absentError{fmt.Sprintf("blob %s: %s", blob.Digest, err)}
}

// fetch brings a blob from a remote cache.
func (b *Builder) fetch(ctx context.Context, l *layers.Layer, blob oci.Descriptor) error {
	if !b.remote.has(blob.Digest) {
		return errors.New("neither this machine nor a remote cache has it")
	}
	what := "fetching " + blob.Digest.Encoded()[:12]
	defer b.doing(l, what)()
	return b.remote.fetch(ctx, blob, b.meter(l, what))
}

// bringImages makes sure that what an OCI layout lacks of the images of the build is in
// the store. Layers that nobody has any more are made again; known is false where this
// process may not do that.
func (b *Builder) bringImages(ctx context.Context, output *oci.Layout) (known bool, err error) {
	for try := 1; ; try++ {
		lost, err := b.bringBlobs(ctx, output)
		if err != nil || !lost {
			return err == nil, err
		}
		if try == attempts {
			return false, fmt.Errorf("layers of images are lost again and again")
		}
		for _, l := range b.graph.Layers {
			pack := b.layers[l].pack
			if pack == nil { // it has failed, and the others are kept
				continue
			}
			if known, err := pack(ctx); err != nil || !known {
				return false, err
			}
		}
	}
}

// bringBlobs fetches the blobs of images, and reports whether some are lost.
func (b *Builder) bringBlobs(ctx context.Context, output *oci.Layout) (lost bool, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelBlobs)
	for l, need := range b.lacking(output) {
		for _, n := range need {
			group.Go(func() error {
				err := b.fetch(ctx, l, n.blob)
				if err == nil || ctx.Err() != nil {
					return err
				}
				if n.of.ofBase {
					return n.of.again(ctx)
				}
				b.tellAgain(n.of.maker(l), absentError{fmt.Sprintf("blob %s: %s", n.blob.Digest, err)})
				n.of.lose()
				mu.Lock()
				defer mu.Unlock()
				lost = true
				return nil
			})
		}
	}
	err = group.Wait()
	return lost, err
}

// A needed blob is one of an image, and what it is made from.
type neededBlob struct {
	blob oci.Descriptor
	of   *chain
}

// lacking returns the blobs of images that neither the store nor an OCI layout has, each
// once, by the layers whose images need them.
func (b *Builder) lacking(output *oci.Layout) map[*layers.Layer][]neededBlob {
	all := map[*layers.Layer][]neededBlob{}
	seen := map[string]bool{}
	for _, l := range b.graph.Layers {
		o := b.layers[l]
		for _, image := range o.tagged {
			links := o.chain.all()
			for i, layer := range image.Layers {
				if d := layer.Descriptor; !seen[d.Digest.String()] {
					seen[d.Digest.String()] = true
					if !b.Blobs.Has(d) && !output.HasBlob(d) {
						all[l] = append(all[l], neededBlob{d, links[i]})
					}
				}
			}
		}
	}
	return all
}

// lose forgets what the highest layer was packed to: nobody has that any more.
func (c *chain) lose() {
	c.packing.Lock()
	defer c.packing.Unlock()
	c.packs = nil
	c.lost.Store(true)
	c.blob.Store(nil)
}
