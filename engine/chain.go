package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/gc"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// A chain is a rootfs as a list of layers: the highest one, and the chain below
// it. A rootfs is the beginning of many, so that chains share what they have in
// common. The nil chain is the empty rootfs.
type chain struct {
	below *chain
	diff  digest.Digest // DiffID of the highest layer
	id    digest.Digest // ChainID of them all: OCI image spec, config.md, "Layer ChainID"
	depth int           // how many layers it has

	ofBase bool // it is of an image from outside

	packing sync.Mutex
	blob    atomic.Pointer[oci.Descriptor] // of the highest layer; nil while it is not known to be packed
}

// with returns the chain with one more layer.
func (c *chain) with(layer oci.Layer) *chain {
	up := &chain{below: c, diff: layer.DiffID, id: layer.DiffID, depth: c.layers() + 1}
	if layer.Digest != "" {
		up.blob.Store(&layer.Descriptor)
	}
	if c != nil {
		up.id = identity.ChainID([]digest.Digest{c.id, layer.DiffID})
	}
	return up
}

// layer returns the highest layer, which is packed.
func (c *chain) layer() oci.Layer { return oci.Layer{Descriptor: *c.blob.Load(), DiffID: c.diff} }

// ID returns the ChainID, "" for the empty rootfs.
func (c *chain) ID() digest.Digest {
	if c == nil {
		return ""
	}
	return c.id
}

// layers returns how many layers the rootfs has.
func (c *chain) layers() int {
	if c == nil {
		return 0
	}
	return c.depth
}

// all returns the chains of the rootfs, from the lowest to c itself.
func (c *chain) all() []*chain {
	links := make([]*chain, c.layers())
	for at := c; at != nil; at = at.below {
		links[at.depth-1] = at
	}
	return links
}

// onto returns the chain with the layers that a rootfs step added.
func (fs rootfs) onto(c *chain) *chain {
	for _, layer := range fs.Layers {
		c = c.with(oci.Layer{DiffID: layer.DiffID})
	}
	return c
}

// pack makes the blobs of a rootfs that are not there, of the snapshots, and
// returns its layers. Layers of build_only parents have no blob until an image
// needs them.
func (b *Builder) pack(ctx context.Context, s *rootfsStep, c *chain) ([]oci.Layer, error) {
	links := c.all()
	packed := make([]oci.Layer, len(links))
	for i, link := range links {
		if err := b.packOne(ctx, s, link); err != nil {
			return nil, err
		}
		packed[i] = link.layer()
	}
	return packed, nil
}

func (b *Builder) packOne(ctx context.Context, s *rootfsStep, c *chain) error {
	c.packing.Lock()
	defer c.packing.Unlock()
	if b.packed(c) {
		return nil
	}
	if err := b.mounts(); err != nil { // without root, owners are what they are in the user namespace only
		return err
	}
	if err := b.ensure(ctx, s.l, c); err != nil {
		return err
	}
	start := time.Now()
	dir, release, err := b.Snapshots.Difference(ctx, c.id)
	if err != nil {
		return snapshotDamage(err)
	}
	defer release()
	made, err := b.packFolder(ctx, s, dir, false)
	if err != nil {
		return err
	}
	if made.DiffID != c.diff {
		_, err := b.Snapshots.PutAside(c.id)
		return errors.Join(damaged(fmt.Errorf("snapshot %s does not hold what it held when it was made", c.id)), err)
	}
	c.blob.Store(&made.Descriptor)
	return b.rememberPacked(s.l, made.Layer, time.Since(start))
}

// packFolder packs a folder, or only finds out its DiffID.
func (b *Builder) packFolder(ctx context.Context, s *rootfsStep, dir string, discard bool) (oci.Packed, error) {
	release, err := b.limits.cores.acquire(ctx, b.worth()[s.l])
	if err != nil {
		return oci.Packed{}, err
	}
	defer release()
	what := "packing"
	if discard {
		what = "digesting"
	}
	defer b.doing(s.l, what)()
	return b.Blobs.Pack(ctx, dir, oci.PackOptions{Compression: b.Compression, Level: b.CompressionLevel, Epoch: s.epoch, Root: true, Discard: discard, Progress: b.meter(s.l, what)})
}

// packed tells whether the highest layer has a blob, remembered and there.
func (b *Builder) packed(c *chain) bool {
	if c.blob.Load() != nil {
		return true // a base's layer, taken over as it was, or packed by this build
	}
	var blob oci.Descriptor
	if _, err := b.lookup(buildcache.Pack, b.packInputs(c.diff), &blob); err != nil || !b.Blobs.Has(blob) {
		return false
	}
	c.blob.Store(&blob)
	return true
}

// rememberPacked makes a blob the one that a snapshot's difference is packed to. A
// difference has one blob of each type. That it is set again changes nothing; one
// that is not in the store is refused, and so is another one beside one that is:
// images would differ by the order of builds.
func (b *Builder) rememberPacked(l *layers.Layer, layer oci.Layer, cost time.Duration) error {
	if !b.Blobs.Has(layer.Descriptor) {
		return fmt.Errorf("blob %s of layer %s is not in the store", layer.Digest, layer.DiffID)
	}
	in := b.packInputs(layer.DiffID)
	var known oci.Descriptor
	if _, err := b.lookup(buildcache.Pack, in, &known); err == nil && b.Blobs.Has(known) {
		if known.Digest != layer.Digest {
			return fmt.Errorf("layer %s is packed to blob %s already, and now to %s: the compressor is not deterministic", layer.DiffID, known.Digest, layer.Digest)
		}
		return nil
	}
	_, err := b.Cache.Put(buildcache.Pack, in, layer.Descriptor, cost, origin(l))
	return err
}

// packInputs are the inputs of packing a snapshot's difference, whatever it lies on.
// The compression's default level is named by the compressor's version.
func (o *Options) packInputs(diff digest.Digest) (in buildcache.Inputs) {
	in.Add(buildcache.BaseChange, "diff", string(diff))
	in.Add(buildcache.Definition, "type", "tar")
	in.Add(buildcache.Definition, "compression", string(o.Compression))
	if !o.Compression.DefaultLevel(o.CompressionLevel) {
		in.Add(buildcache.Definition, "level", strconv.Itoa(o.CompressionLevel))
	}
	in.Add(buildcache.Format, "compressor", oci.CompressorVersion)
	return in
}

// origin tells people which layer of which stackerfile something is of.
func origin(l *layers.Layer) buildcache.Origin {
	return buildcache.Origin{Layer: l.Name, Stackerfile: l.File.Path}
}

func described(l *layers.Layer) string { return origin(l).String() }

// label tells of a layer's snapshot what it is.
func (b *Builder) label(l *layers.Layer, c *chain) overlay.Label {
	switch {
	case c != nil && c.ofBase:
		return overlay.Label{Kind: gc.KindBase, Description: "base of " + described(l)}
	case l.BuildOnly:
		return overlay.Label{Kind: gc.KindBuildOnly, Description: described(l)}
	default:
		return overlay.Label{Kind: gc.KindLayer, Description: described(l)}
	}
}
