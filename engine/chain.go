package engine

import (
	"cmp"
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
	"github.com/layerbuild/layerbuild/progress"
)

// A chain is a rootfs as a list of layers: the highest one, and the chain below
// it. A rootfs is the beginning of many, so that chains share what they have in
// common. The nil chain is the empty rootfs.
type chain struct {
	below *chain
	diff  digest.Digest // DiffID of the highest layer
	id    digest.Digest // ChainID of them all: OCI image spec, config.md, "Layer ChainID"
	depth int           // how many layers it has

	ofBase bool          // it is of an image from outside
	of     *layers.Layer // whose step made the highest layer; nil while that is not known, and of a base

	// again makes the highest layer once more, its snapshot or its blob, where both are
	// lost; nil while nobody knows how.
	again func(context.Context) error

	packing sync.Mutex
	lost    atomic.Bool                    // nobody has its blob any more
	packs   map[string]oci.Descriptor      // what the highest layer was packed to in this build, by type
	blob    atomic.Pointer[oci.Descriptor] // the highest layer as a tar; nil while it is not known to be packed
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

// pack makes the blobs of a rootfs that are not there, of the snapshots, and returns its
// layers; known is false where one would have to be made. Layers of build_only parents
// have no blob until an image needs them.
func (b *Builder) pack(ctx context.Context, s *rootfsStep, c *chain) (packed []oci.Layer, known bool, err error) {
	for _, link := range c.all() {
		if known, err := b.packOne(ctx, s, link); err != nil || !known {
			return nil, false, err
		}
		packed = append(packed, link.layer())
	}
	return packed, true, nil
}

// packOne makes the blob of a chain's highest layer, unless this build knows it already.
func (b *Builder) packOne(ctx context.Context, s *rootfsStep, c *chain) (known bool, err error) {
	c.packing.Lock()
	defer c.packing.Unlock()
	if _, done := c.packs[TypeTar]; c.ofBase || done {
		return true, nil
	}
	step := b.packStep(origin(c.maker(s.l)), c.diff)
	step.Lazy = !c.lost.Load()
	b.packs(step, s, c, TypeTar+" with "+string(b.Compression))
	step.Do = func(ctx context.Context) (blob oci.Descriptor, err error) {
		dir, release, err := b.Snapshots.Difference(ctx, c.id)
		if err != nil {
			return blob, snapshotDamage(err)
		}
		defer release()
		made, err := b.packFolder(ctx, s, dir, false)
		if err == nil && made.DiffID != c.diff {
			_, err = b.Snapshots.PutAside(c.id)
			err = errors.Join(damageError{fmt.Errorf("snapshot %s does not hold what it held when it was made", c.id)}, err)
		}
		return made.Descriptor, err
	}
	blob, came, err := remember(ctx, b, s.l, step)
	if err != nil || !came.Known() {
		return false, err
	}
	c.blob.Store(&blob)
	c.isPacked(TypeTar, blob)
	return true, nil
}

// maker returns the layer whose steps are those on the highest layer of a chain that
// another one starts from.
func (c *chain) maker(l *layers.Layer) *layers.Layer { return cmp.Or(c.of, l) }

// isPacked notes what the highest layer is packed to. The caller has packing locked.
func (c *chain) isPacked(layerType string, blob oci.Descriptor) {
	if c.packs == nil {
		c.packs = map[string]oci.Descriptor{}
	}
	c.packs[layerType] = blob
}

// packStep is the step that makes a tar of a snapshot's difference, as far as it takes to
// look it up.
func (b *Builder) packStep(from buildcache.Origin, diff digest.Digest) *buildcache.Step[oci.Descriptor] {
	return &buildcache.Step[oci.Descriptor]{
		Task:   buildcache.Task{Kind: buildcache.Pack, Inputs: b.packInputs(diff), Origin: from},
		Usable: b.hasBlob,
	}
}

// packs makes a step one that packs the snapshot of a chain's highest layer.
func (b *Builder) packs(step *buildcache.Step[oci.Descriptor], s *rootfsStep, c *chain, as string) {
	step.Doing = "has been packing the same layer"
	step.Missed = func(context.Context, error) error { b.tellPack(s.l, as); return nil }
	step.Prepare = func(ctx context.Context) error { return b.ensure(ctx, s.l, c) }
	step.Slot = func(ctx context.Context) (func(), error) { return b.limits.cores.acquire(ctx, b.worth()[s.l]) }
	step.Compare = func(_ context.Context, before, again oci.Descriptor) (bool, error) {
		if before.Digest != again.Digest {
			b.notice(s.l, progress.Warning, "not reproducible: packed again as %s, layer %s is blob %s and was %s", as, c.diff, again.Digest, before.Digest)
		}
		return before.Digest == again.Digest, nil
	}
}

// hasBlob fails where a blob is neither in the store nor in a remote cache.
func (b *Builder) hasBlob(_ context.Context, blob oci.Descriptor) error {
	if !b.Blobs.Has(blob) && !b.remote.has(blob.Digest) {
		return fmt.Errorf("blob %s: %w", blob.Digest, buildcache.ErrNotFound)
	}
	return nil
}

// packFolder packs a folder, or only finds out its DiffID. The caller has a core.
func (b *Builder) packFolder(ctx context.Context, s *rootfsStep, dir string, discard bool) (oci.Packed, error) {
	what := "packing"
	if discard {
		what = "digesting"
	}
	defer b.doing(s.l, what)()
	return b.Blobs.Pack(ctx, dir, oci.PackOptions{Compression: b.Compression, Level: b.CompressionLevel, Epoch: s.epoch, Root: true, Discard: discard, Progress: b.meter(s.l, what)})
}

// packed reports whether the highest layer has a blob, remembered and there.
func (b *Builder) packed(ctx context.Context, c *chain) bool {
	if blob := c.blob.Load(); blob != nil && b.Blobs.Has(*blob) {
		return true // a base's layer, taken over as it was, or packed by this build
	}
	blob, err := buildcache.Recall(ctx, b.session, b.packStep(buildcache.Origin{}, c.diff))
	if err == nil {
		c.blob.Store(&blob)
	}
	return err == nil
}

// keepPacked makes a blob the one that a snapshot's difference is packed to. A
// difference has one blob of each type. That it is kept again changes nothing; one
// that is not in the store is refused, and so is another one beside one that is:
// images would differ by the order of builds.
func (b *Builder) keepPacked(ctx context.Context, l *layers.Layer, layer oci.Layer, took time.Duration) error {
	if !b.Blobs.Has(layer.Descriptor) {
		return fmt.Errorf("blob %s of layer %s is not in the store", layer.Digest, layer.DiffID)
	}
	kept, err := buildcache.Keep(ctx, b.session, b.packStep(origin(l), layer.DiffID), layer.Descriptor, took)
	if err == nil && kept.Digest != layer.Digest {
		err = fmt.Errorf("layer %s is packed to blob %s already, and now to %s: the compressor is not deterministic", layer.DiffID, kept.Digest, layer.Digest)
	}
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
