package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
)

// A Tagged is one image of an OCI layout.
type Tagged struct {
	Tag      string
	Manifest oci.Descriptor
	Layers   []oci.Layer
	Image    ispec.Image
	Missing  []oci.Descriptor // blobs that should be there and are not

	// Damage says why the manifest or the configuration cannot be read, and with
	// it what Layers and Image should be.
	Damage error

	// Stale says that no layer of the stackerfile is named like the tag: it is of
	// an earlier build, or of another tool. It is false if the stackerfile is not
	// there or cannot be read.
	Stale bool
}

// An Inspection is what was found in an OCI layout.
type Inspection struct {
	Images []Tagged

	// Unread says why the stackerfile cannot be read; nil if it can, or is not there.
	Unread error
}

// Size is the bytes of all the image's layers as they are stored.
func (t Tagged) Size() int64 {
	var size int64
	for _, layer := range t.Layers {
		size += layer.Size
	}
	return size
}

// Inspect reads the images with these tags, or all, of an OCI layout.
func Inspect(ociDir, stackerfile string, load layers.Options, tags ...string) (*Inspection, error) {
	layout, err := openLayout(ociDir)
	if err != nil {
		return nil, err
	}
	all, err := layout.Tags()
	if err != nil {
		return nil, err
	}
	for _, name := range tags {
		if !slices.ContainsFunc(all, func(tag oci.Tag) bool { return tag.Name == name }) {
			return nil, fmt.Errorf("%s has no tag %q: it has %s", ociDir, name, tagNames(all))
		}
	}
	found := &Inspection{}
	current, err := currentTags(stackerfile, load)
	if err != nil {
		found.Unread = err
	}
	for _, tag := range all {
		if len(tags) > 0 && !slices.Contains(tags, tag.Name) {
			continue
		}
		image, err := inspect(layout, tag)
		image.Damage = err
		image.Stale = current != nil && !current[tag.Name]
		found.Images = append(found.Images, image)
	}
	return found, nil
}

// openLayout opens the OCI layout that images were built to.
func openLayout(ociDir string) (*oci.Layout, error) {
	layout, err := oci.OpenLayout(ociDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no OCI layout at %s: `layerbuild build` makes one, --oci-dir names another", ociDir)
	}
	return layout, err
}

func tagNames(tags []oci.Tag) string {
	if len(tags) == 0 {
		return "none"
	}
	var names []string
	for _, tag := range tags {
		names = append(names, fmt.Sprintf("%q", tag.Name))
	}
	return strings.Join(names, ", ")
}

// currentTags are the tags that the stackerfile's layers have now; nil when there
// is no stackerfile.
func currentTags(stackerfile string, load layers.Options) (map[string]bool, error) {
	if _, err := os.Stat(stackerfile); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	graph, err := layers.Load(stackerfile, load)
	if err != nil {
		return nil, err
	}
	current := map[string]bool{}
	for _, l := range graph.Layers {
		for _, tag := range tagsOf(l) {
			current[tag] = current[tag] || !l.BuildOnly
		}
	}
	return current, nil
}

func inspect(layout *oci.Layout, tag oci.Tag) (Tagged, error) {
	image := Tagged{Tag: tag.Name, Manifest: tag.Manifest, Missing: tag.Missing}
	raw, err := layout.ReadDocument(tag.Manifest)
	if err != nil {
		return image, err
	}
	var manifest ispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return image, fmt.Errorf("manifest %s: %w", tag.Manifest.Digest, err)
	}
	if raw, err = layout.ReadDocument(manifest.Config); err != nil {
		return image, err
	}
	if err := json.Unmarshal(raw, &image.Image); err != nil {
		return image, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	for i, blob := range manifest.Layers {
		layer := oci.Layer{Descriptor: blob}
		if ids := image.Image.RootFS.DiffIDs; i < len(ids) {
			layer.DiffID = ids[i]
		}
		image.Layers = append(image.Layers, layer)
	}
	return image, nil
}
