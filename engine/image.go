package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
)

// author is who built an image, unless its times are the wall clock's.
const author = "layerbuild"

// packImage packs what is not packed of the layer's image, and composes it with its
// blobs. A build_only one has none, unless a remote cache is to have them. The image is
// nil where something would have to be packed.
func (b *Builder) packImage(ctx context.Context, s *rootfsStep, c *chain, spec oci.ImageSpec) (*oci.Image, error) {
	if s.l.BuildOnly && !b.remote.takesAll() {
		return oci.Compose(spec)
	}
	packed, known, err := b.pack(ctx, s, c)
	if err != nil || !known {
		return nil, err
	}
	return compose(spec, packed)
}

// compose makes an image of all its layers, the base's included.
func compose(spec oci.ImageSpec, packed []oci.Layer) (*oci.Image, error) {
	spec.Layers = slices.Clone(spec.Layers)
	if spec.Base != nil {
		base := *spec.Base
		base.Layers, packed = packed[:len(base.Layers)], packed[len(base.Layers):]
		spec.Base = &base
	}
	for i, layer := range packed {
		spec.Layers[i].Layer = layer
	}
	return oci.Compose(spec)
}

// putImages puts the images of a build into the OCI layout, all at once.
func (b *Builder) putImages(ctx context.Context) error {
	if b.Output.Type == OutputCacheOnly {
		return nil
	}
	before := roomOf(b.OCIDir)
	output, err := b.layout(ctx)
	if err != nil {
		return before.explain(err)
	}
	if err := b.Cache.AddLayout(b.OCIDir); err != nil {
		return err
	}
	if known, err := b.bringImages(ctx, output); err != nil || !known {
		return before.explain(err)
	}
	b.tellChanged(output, b.images())
	defer b.lingering("", "writing images to "+b.OCIDir)()
	for try := 1; ; try++ {
		err = output.Put(ctx, b.Blobs, b.images())
		if !errors.Is(err, oci.ErrCorrupt) || try == attempts {
			break
		}
		b.tellDamage(err)
		if known, err := b.restore(ctx); err != nil || !known {
			return err
		}
	}
	if err != nil || b.allHits() {
		return before.explain(err)
	}
	_, err = output.GC(ctx, unusedAge)
	return err
}

// images returns the images of all layers, by their tags.
func (b *Builder) images() map[string]*oci.Image {
	images := map[string]*oci.Image{}
	for _, o := range b.layers {
		maps.Copy(images, o.tagged)
	}
	return images
}

// tellChanged says of layers for which nothing was to be done that their images are
// others than those in the OCI layout all the same, and what of them.
func (b *Builder) tellChanged(output *oci.Layout, images map[string]*oci.Image) {
	replaced, err := output.Replaced(images)
	if err != nil || len(replaced) == 0 {
		return
	}
	for _, l := range b.graph.Layers {
		was, ok := replaced[l.Name]
		if !ok || !b.layers[l].hit() {
			continue
		}
		if changed, err := output.Changed(was, images[l.Name]); err == nil && len(changed) > 0 { // it is only told
			b.notice(l, progress.Notice, "image changed: %s", strings.Join(changed, ", "))
		}
	}
}

// layout opens the OCI layout that images go to, and makes it if need be. One
// that an earlier build has written, and whose index is damaged since, is made
// anew: what was damaged is put aside.
func (b *Builder) layout(ctx context.Context) (*oci.Layout, error) {
	output, err := oci.CreateLayout(b.OCIDir)
	if err == nil || !b.Cache.HasLayout(b.OCIDir) {
		return output, err
	}
	if _, missing := os.Stat(filepath.Join(b.OCIDir, "blobs")); missing != nil {
		return nil, err // something else is there now
	}
	aside, restoreErr := oci.Restore(ctx, b.OCIDir)
	if restoreErr != nil {
		return nil, errors.Join(err, restoreErr)
	}
	b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("%s; put aside: %s. Tags of other builds come back when those build again", err, strings.Join(aside, ", "))})
	return oci.OpenLayout(b.OCIDir)
}

// unusedAge is how old a blob of the OCI layout must be to be removed when no tag
// leads to it: other tools write blobs before they name them.
const unusedAge = time.Hour

func (b *Builder) allHits() bool {
	for _, o := range b.layers {
		if !o.hit() {
			return false
		}
	}
	return true
}

// imageSpec is all that decides the image.
func (b *Builder) imageSpec(ctx context.Context, s *rootfsStep, fs rootfs, made time.Time, generated map[string]string) oci.ImageSpec {
	l := s.l
	spec := oci.ImageSpec{
		Base:        s.base.image,
		OS:          l.OS,
		Arch:        platform(l).Architecture,
		Variant:     platform(l).Variant,
		Author:      cmp.Or(b.Author, author),
		Epoch:       b.Clock.created(s.epoch),
		Environment: l.Environment,
		Labels:      maps.Clone(l.Labels),
		Annotations: b.annotations(ctx, l),
		Volumes:     l.Volumes,
		WorkingDir:  l.WorkingDir,
		RuntimeUser: l.RuntimeUser,
		Cmd:         l.Cmd,
		Entrypoint:  l.Entrypoint,
		FullCommand: l.FullCommand,
		Expose:      l.Expose,
		StopSignal:  l.StopSignal,
		Docker:      oci.DockerConfig{Healthcheck: l.Healthcheck, Shell: l.Shell, OnBuild: l.OnBuild},
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
		spec.Layers = append(spec.Layers, oci.SpecLayer{Layer: oci.Layer{DiffID: layer.DiffID}, CreatedBy: b.createdBy(l.Name, layer.By)})
	}
	if len(fs.Layers) == 0 {
		spec.Layers = []oci.SpecLayer{{CreatedBy: b.createdBy(l.Name, "nothing changed")}}
	}
	return spec
}

func (b *Builder) createdBy(layer, what string) string {
	return fmt.Sprintf("%s: layer %s: %s", cmp.Or(b.CreatedBy, author), layer, what)
}

func userAtHost() string {
	name, host := namespace.UserName(), "localhost"
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}
