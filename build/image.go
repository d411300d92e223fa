package build

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/oci"
)

// author is who built an image, unless its times are the wall clock's.
const author = "layerbuild"

// makeImage composes the layer's image, and puts it into the OCI layout unless
// it is build_only or there already. A build_only one is composed too: others
// inherit its configuration.
func (b *Builder) makeImage(ctx context.Context, s *rootfsStep, fs rootfs, made time.Time, generated map[string]string) (*oci.Image, error) {
	spec := b.imageSpec(s, fs, made, generated)
	if s.l.BuildOnly || b.Plan {
		return oci.Compose(spec)
	}
	if err := b.packAll(ctx, s, &spec); err != nil {
		return nil, err
	}
	image, err := oci.Compose(spec)
	if err != nil {
		return nil, err
	}
	return image, b.output.Put(ctx, b.blobs, s.l.Name, image)
}

// imageSpec is all that decides the image.
func (b *Builder) imageSpec(s *rootfsStep, fs rootfs, made time.Time, generated map[string]string) oci.ImageSpec {
	l := s.l
	spec := oci.ImageSpec{
		Base:        s.base.image,
		OS:          l.OS,
		Arch:        l.Arch,
		Author:      author,
		Epoch:       s.epoch,
		Environment: l.Environment,
		Labels:      maps.Clone(l.Labels),
		Annotations: l.Annotations,
		Volumes:     l.Volumes,
		WorkingDir:  l.WorkingDir,
		RuntimeUser: l.RuntimeUser,
		Cmd:         l.Cmd,
		Entrypoint:  l.Entrypoint,
		FullCommand: l.FullCommand,
	}
	if b.Clock.Now {
		// The time is that of the record, so that a hit makes the same image again.
		spec.Epoch, spec.Author = made, userAtHost()
	}
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	maps.Copy(spec.Labels, generated)
	for _, layer := range fs.Layers {
		spec.Layers = append(spec.Layers, oci.SpecLayer{Layer: oci.Layer{DiffID: layer.DiffID}, CreatedBy: createdBy(l.Name, layer.By)})
	}
	if len(fs.Layers) == 0 {
		spec.Layers = []oci.SpecLayer{{CreatedBy: createdBy(l.Name, "nothing changed")}}
	}
	return spec
}

func createdBy(layer, what string) string {
	return fmt.Sprintf("layerbuild: layer %s: %s", layer, what)
}

func userAtHost() string {
	name, host := "unknown", "localhost"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// packAll finds or makes the blobs of all layers of an image. Layers of
// build_only parents have none until an image needs them.
func (b *Builder) packAll(ctx context.Context, s *rootfsStep, spec *oci.ImageSpec) error {
	below := s.base.chain()
	for i := range below {
		if err := b.pack(ctx, s, below[:i+1]); err != nil {
			return err
		}
	}
	if spec.Base != nil {
		packed := *spec.Base
		packed.Layers = below
		spec.Base = &packed
	}
	c := below
	for i, layer := range spec.Layers {
		if layer.DiffID == "" {
			continue
		}
		c = c.with(layer.Layer)
		if err := b.pack(ctx, s, c); err != nil {
			return err
		}
		spec.Layers[i].Layer = c[len(c)-1]
	}
	return nil
}

// pack fills in the blob of the highest layer of a chain. If none is there, it is
// made of the snapshot.
func (b *Builder) pack(ctx context.Context, s *rootfsStep, c chain) error {
	layer := &c[len(c)-1]
	if b.packed(layer) {
		return nil
	}
	if err := b.ensure(ctx, s.l, c); err != nil {
		return err
	}
	start := time.Now()
	dir, release, err := b.snapshots.Difference(ctx, c.id())
	if err != nil {
		return err
	}
	defer release()
	packed, err := b.blobs.Pack(ctx, dir, oci.PackOptions{Epoch: s.epoch, Root: true})
	if err != nil {
		return err
	}
	if packed.DiffID != layer.DiffID {
		return fmt.Errorf("snapshot %s is damaged: `layerbuild clean --all` starts over", c.id())
	}
	layer.Descriptor = packed.Descriptor
	_, err = b.cache.Put(buildcache.Pack, packInputs(layer.DiffID), packed.Descriptor, time.Since(start), origin(s.l))
	return err
}
