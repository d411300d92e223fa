package engine

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/renameio/v2"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
)

// metadata is what `docker buildx build --metadata-file` tells of an image.
type metadata struct {
	ConfigDigest string           `json:"containerimage.config.digest"`
	Descriptor   ispec.Descriptor `json:"containerimage.descriptor"`
	Digest       string           `json:"containerimage.digest"`
	Name         string           `json:"image.name"`
}

// only returns the layer that a file about one image is about: the only target,
// or the only layer that has an image; nil when there are several.
func (b *Builder) only() *layers.Layer {
	if len(b.Targets) == 1 {
		return b.graph.Layer(b.Targets[0])
	}
	var one *layers.Layer
	for _, l := range b.graph.Layers {
		if l.BuildOnly {
			continue
		}
		if one != nil {
			return nil
		}
		one = l
	}
	return one
}

// checkFiles refuses, before anything is built, files that could not be written.
func (b *Builder) checkFiles() error {
	l := b.only()
	switch {
	case l == nil && b.IIDFile != "":
		return errors.New("--iidfile is for one image, and there are several or none: name one with --target")
	case l != nil && l.BuildOnly && b.IIDFile+b.MetadataFile != "":
		return fmt.Errorf("layer %q is build_only: it has no image for --iidfile or --metadata-file", l.Name)
	}
	return nil
}

// first is the image of a layer whose type was named first.
func (b *Builder) first(l *layers.Layer) *oci.Image {
	return b.layers[l].tagged[typedName(l.Name, b.LayerTypes[0])]
}

// writeFiles writes the files that tell other programs what was built. As with
// `docker buildx bake` the metadata are a map by layer; when one target is
// named, they are those of its image alone, as with `docker buildx build`: of the
// layer type that was named first.
func (b *Builder) writeFiles() error {
	if b.IIDFile != "" {
		id := b.first(b.only()).Config.Digest
		if err := renameio.WriteFile(b.IIDFile, []byte(id), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if b.MetadataFile == "" {
		return nil
	}
	all := map[string]metadata{}
	for _, o := range b.layers {
		for tag, image := range o.tagged {
			all[tag] = metadata{image.Config.Digest.String(), image.Manifest, image.Manifest.Digest.String(), tag}
		}
	}
	var tell any = all
	if len(b.Targets) == 1 {
		tell = all[typedName(b.Targets[0], b.LayerTypes[0])]
	}
	text, err := json.MarshalIndent(tell, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(b.MetadataFile, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	return nil
}
