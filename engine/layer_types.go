package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/stores"
)

// Types of the layers of an image.
const (
	TypeTar      = "tar"
	TypeSquashfs = string(oci.Squashfs)
	TypeErofs    = string(oci.Erofs)
)

var layerTypes = []string{TypeTar, TypeSquashfs, TypeErofs}

// checkTypes refuses what is no layer type, and returns the default for none.
func checkTypes(types []string) ([]string, error) {
	if len(types) == 0 {
		return []string{TypeTar}, nil
	}
	var all []string
	for _, t := range types {
		if !slices.Contains(layerTypes, t) {
			return nil, fmt.Errorf("--layer-type is %q: it should be tar, squashfs or erofs", t)
		}
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all, nil
}

// typedName is what a layer's or a tag's name becomes for a layer type, as in
// stacker.
func typedName(name, layerType string) string {
	if layerType == TypeTar {
		return name
	}
	return name + "-" + layerType
}

// typedImages returns the images of a layer by their tags, one of each layer type;
// none of a build_only one. Known is false where something would have to be packed.
func (b *Builder) typedImages(ctx context.Context, s *rootfsStep, o *outcome, spec oci.ImageSpec) (images map[string]*oci.Image, known bool, err error) {
	images = map[string]*oci.Image{}
	if s.l.BuildOnly {
		return images, true, nil
	}
	for _, t := range b.LayerTypes {
		if t == TypeTar {
			images[s.l.Name] = o.image
			continue
		}
		var packed []oci.Layer
		for _, c := range o.chain.all() {
			blob, known, err := b.packFilesystem(ctx, s, c, oci.Filesystem(t))
			if err != nil || !known {
				return nil, false, err
			}
			packed = append(packed, oci.Layer{Descriptor: blob, DiffID: blob.Digest})
		}
		image, err := compose(spec, packed)
		if err != nil {
			return nil, false, err
		}
		images[typedName(s.l.Name, t)] = image
	}
	return images, true, nil
}

// packFilesystem makes the highest layer of a chain a filesystem, of its snapshot,
// unless this build knows one already.
func (b *Builder) packFilesystem(ctx context.Context, s *rootfsStep, c *chain, f oci.Filesystem) (blob oci.Descriptor, known bool, err error) {
	c.packing.Lock()
	defer c.packing.Unlock()
	if blob, done := c.packs[string(f)]; done {
		return blob, true, nil
	}
	version, err := b.makers.version(ctx, f)
	if err != nil {
		return blob, false, err
	}
	step := &buildcache.Step[oci.Descriptor]{
		Task:   buildcache.Task{Kind: buildcache.Pack, Inputs: filesystemInputs(c, f, version, !b.NoVerity), Origin: origin(c.maker(s.l))},
		Usable: b.hasBlob,
		Lazy:   !c.lost.Load(),
		Do:     func(ctx context.Context) (oci.Descriptor, error) { return b.makeFilesystem(ctx, s.l, c, f) },
	}
	b.packs(step, s, c, string(f))
	blob, came, err := remember(ctx, b, s.l, step)
	if err != nil || !came.Known() {
		return blob, false, err
	}
	c.isPacked(string(f), blob)
	return blob, true, nil
}

func (b *Builder) makeFilesystem(ctx context.Context, l *layers.Layer, c *chain, f oci.Filesystem) (blob oci.Descriptor, err error) {
	dir, release, err := b.Snapshots.Difference(ctx, c.id)
	if err != nil {
		return blob, snapshotDamage(err)
	}
	defer release()
	if err := b.compareFirst(ctx, c); err != nil {
		return blob, err
	}
	defer b.doing(l, "packing as "+string(f))()
	layer, warnings, err := b.Blobs.PackFilesystem(ctx, dir, f, !b.NoVerity)
	for _, warning := range warnings {
		b.notice(l, progress.Warning, "%s", warning)
	}
	return layer.Descriptor, privileged(err, ", or with --layer-type tar")
}

// compareFirst compares a snapshot with its DiffID, since a filesystem of it has no DiffID that could be
// compared. A damaged one is put aside.
func (b *Builder) compareFirst(ctx context.Context, c *chain) error {
	snap, err := b.Snapshots.Get(c.id)
	if err != nil {
		return snapshotDamage(err)
	}
	comparer, err := b.comparer()
	if err != nil {
		return err
	}
	_, err = comparer.Compare(ctx, snap)
	if errors.Is(err, stores.ErrDiffers) {
		_, aside := b.Snapshots.PutAside(c.id)
		return errors.Join(damageError{fmt.Errorf("snapshot %s: %w", c.id, err)}, aside)
	}
	return err
}

// filesystemInputs are the inputs of making a filesystem of a snapshot. Unlike a
// tar it has overlayfs's marks, which depend on what is below.
func filesystemInputs(c *chain, f oci.Filesystem, version string, verity bool) (in buildcache.Inputs) {
	in.Add(buildcache.BaseChange, "chain", string(c.id))
	in.Add(buildcache.Definition, "type", string(f))
	in.Add(buildcache.Definition, "verity", strconv.FormatBool(verity))
	in.Add(buildcache.Format, "compressor", version)
	return in
}

// makers knows the versions of the programs that make filesystems, and asks once
// for each.
type makers struct {
	mu       sync.Mutex
	versions map[oci.Filesystem]string
}

func (m *makers) version(ctx context.Context, f oci.Filesystem) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.versions[f]; ok {
		return v, nil
	}
	v, err := f.Version(ctx)
	if err == nil {
		m.versions[f] = v
	}
	return v, err
}

// tagsOf are the tags that a layer's images may have.
func tagsOf(l *layers.Layer) []string {
	tags := make([]string, len(layerTypes))
	for i, t := range layerTypes {
		tags[i] = typedName(l.Name, t)
	}
	return tags
}
