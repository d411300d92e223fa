package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
)

// A chain is the layers of a rootfs, lowest first. Blobs of layers that were
// built here may be missing from their descriptors until they are packed.
type chain []oci.Layer

func (c chain) diffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(c))
	for i, layer := range c {
		ids[i] = layer.DiffID
	}
	return ids
}

// ids returns the ChainID of each layer with all those below it. OCI image
// spec, config.md, "Layer ChainID".
func (c chain) ids() []digest.Digest { return identity.ChainIDs(c.diffIDs()) }

// id returns the ChainID of the whole rootfs; "" for an empty one.
func (c chain) id() digest.Digest {
	if len(c) == 0 {
		return ""
	}
	ids := c.ids()
	return ids[len(ids)-1]
}

// with returns a longer chain, and leaves c alone.
func (c chain) with(layers ...oci.Layer) chain {
	return append(c[:len(c):len(c)], layers...)
}

// A base is what a layer starts from, whatever its type.
type base struct {
	image *oci.Base // nil: nothing
}

// chain returns a copy of the base's layers.
func (b *base) chain() chain {
	if b.image == nil {
		return nil
	}
	return slices.Clone(b.image.Layers)
}

func (b *base) created() *time.Time {
	if b.image == nil {
		return nil
	}
	return b.image.Config.Created
}

// base finds out what a layer starts from, by digest.
func (b *Builder) base(ctx context.Context, l *layers.Layer) (*base, error) {
	var image *oci.Base
	var err error
	switch l.From.Type {
	case layers.BaseScratch:
	case layers.BaseBuilt:
		image = b.layers[b.graph.Layer(l.From.Tag)].image.Base()
	case layers.BaseOCI:
		image, err = b.layoutBase(ctx, l)
	case layers.BaseDocker:
		image, err = b.registryBase(ctx, l)
	case layers.BaseTar:
		image, err = b.tarBase(ctx, l)
	default:
		err = fmt.Errorf("unknown type of base %q", l.From.Type)
	}
	return &base{image}, b.failAt(ctx, l, l.From.Pos, err)
}

func platform(l *layers.Layer) ispec.Platform {
	return ispec.Platform{OS: l.OS, Architecture: l.Arch}
}

func (b *Builder) layoutBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	path, tag := l.From.Source.Path, l.From.Tag
	manifest, err := oci.ResolveLayout(ctx, path, tag, platform(l))
	if err != nil {
		return nil, err
	}
	if image, err := b.blobs.Base(manifest.Digest); err == nil {
		return image, nil
	}
	return b.blobs.BaseFromLayout(ctx, path, tag, platform(l))
}

// registryBase asks the registry what the reference stands for now. When that
// cannot be known, what it stood for the last time serves, and is said.
func (b *Builder) registryBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	ref := oci.ImageRef{Name: l.From.URL, Insecure: l.From.Insecure}
	name := l.From.URL + " " + l.OS + "/" + l.Arch
	manifest, err := b.resolve(ctx, l, ref, name)
	if err != nil {
		return nil, err
	}
	if image, err := b.blobs.Base(manifest); err == nil {
		return image, nil
	}
	if err := b.mounts(); err != nil {
		return nil, err
	}
	b.notice(l, progress.Notice, "pulling %s", l.From.URL)
	return b.blobs.BaseFromRegistry(ctx, b.registry(), ref, manifest)
}

func (b *Builder) resolve(ctx context.Context, l *layers.Layer, ref oci.ImageRef, name string) (digest.Digest, error) {
	manifest, err := b.registry().Resolve(ctx, ref, platform(l))
	if err == nil {
		return manifest.Digest, b.remember(name, manifest.Digest)
	}
	if !errors.Is(err, oci.ErrUnreachable) {
		return "", err
	}
	known, unknown := b.cache.Resolution(name)
	if unknown != nil {
		return "", err
	}
	b.notice(l, progress.Warning, "%s; using %s as it was on %s (%s)", err, l.From.URL, known.Time.Format(time.DateOnly), known.Digest)
	return digest.Digest(known.Digest), nil
}

func (b *Builder) remember(name string, manifest digest.Digest) error {
	if known, err := b.cache.Resolution(name); err == nil && known.Digest == string(manifest) {
		return nil
	}
	return b.cache.SetResolution(name, string(manifest))
}

// tarBase makes a base of a tar file: an image of one layer, told apart by the
// file's digest.
func (b *Builder) tarBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	file, err := b.source(ctx, l, l.From.Source, "", "")
	if err != nil {
		return nil, err
	}
	sum, err := file.digest(ctx)
	if err != nil {
		return nil, err
	}
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "tar", string(sum))
	in.Add(buildcache.Platform, "platform", l.OS+"/"+l.Arch)
	in.Add(buildcache.Format, "compressor", oci.CompressorVersion)
	var manifest digest.Digest
	if _, err := b.lookup(buildcache.Resolve, in, &manifest); err == nil {
		if image, err := b.blobs.Base(manifest); err == nil {
			return image, nil
		}
	}
	if err := b.mounts(); err != nil {
		return nil, err
	}
	start := time.Now()
	at, release, err := file.open(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	path, err := securejoin.SecureJoin(cmp.Or(at.Root, "/"), at.Path)
	if err != nil {
		return nil, err
	}
	image, err := b.blobs.BaseFromTar(ctx, path, sum, platform(l))
	if err != nil {
		return nil, err
	}
	_, err = b.cache.Put(buildcache.Resolve, in, image.Manifest, time.Since(start), origin(l))
	return image, err
}

// ensure makes the snapshots of a chain that are not on disk, from their blobs.
// Each layer is unpacked onto a view of those below it, so that whiteouts are
// deletions, and folders that the layer does not mention keep their attributes.
func (b *Builder) ensure(ctx context.Context, l *layers.Layer, c chain) error {
	ids := c.ids()
	for i, layer := range c {
		if b.snapshots.Has(ids[i]) {
			continue
		}
		if err := b.mounts(); err != nil {
			return err
		}
		if err := b.unpack(ctx, l, c[:i], layer, ids[i]); err != nil {
			return fmt.Errorf("unpacking layer %s of the base: %w", layer.Descriptor.Digest, err)
		}
	}
	return nil
}

func (b *Builder) unpack(ctx context.Context, l *layers.Layer, below chain, layer oci.Layer, id digest.Digest) error {
	lock, err := b.lock(ctx, l, buildcache.Key(id.Encoded()))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if b.snapshots.Has(id) {
		return nil
	}
	if !b.packed(&layer) {
		return fmt.Errorf("neither its snapshot nor its blob is in the state folder: build again")
	}
	upper, err := b.snapshots.Prepare(ctx, below.id())
	if err != nil {
		return err
	}
	defer upper.Drop()
	root, err := upper.Mount(ctx)
	if err != nil {
		return err
	}
	if err := b.blobs.Unpack(ctx, layer, root); err != nil {
		return err
	}
	if err := upper.Unmount(); err != nil {
		return err
	}
	_, err = upper.Commit(ctx, layer.DiffID, described(l))
	return err
}

// origin tells people which layer of which stackerfile something is of.
func origin(l *layers.Layer) buildcache.Origin {
	return buildcache.Origin{Layer: l.Name, Stackerfile: l.File.Path}
}

func described(l *layers.Layer) string {
	return fmt.Sprintf("layer %s of %s", l.Name, filepath.Base(l.File.Path))
}
