package oci

import (
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Replaced returns what the tags of images stand for so far, where that is another
// image.
func (l *Layout) Replaced(images map[string]*Image) (map[string]Descriptor, error) {
	index, err := l.readIndex()
	if err != nil {
		return nil, err
	}
	replaced := map[string]Descriptor{}
	for _, e := range index.entries {
		tag, tagged := e.Annotations[ispec.AnnotationRefName]
		if image := images[tag]; tagged && image != nil && image.Manifest.Digest != e.Digest {
			replaced[tag] = e.Descriptor
		}
	}
	return replaced, nil
}

// Changed names what an image of the layout says otherwise than another, by the
// directives of a stackerfile; "files" are its layers.
func (l *Layout) Changed(was Descriptor, image *Image) ([]string, error) {
	var manifests [2]ispec.Manifest
	var configs [2]configDocument
	old, err := l.ReadDocument(was)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(json.Unmarshal(old, &manifests[0]), json.Unmarshal(image.ManifestBytes, &manifests[1])); err != nil {
		return nil, err
	}
	if old, err = l.ReadDocument(manifests[0].Config); err != nil {
		return nil, err
	}
	if err := cmp.Or(json.Unmarshal(old, &configs[0]), json.Unmarshal(image.ConfigBytes, &configs[1])); err != nil {
		return nil, err
	}
	var changed []string
	a, b := &configs[0], &configs[1]
	for _, part := range []struct {
		name string
		same bool
	}{
		{"files", slices.Equal(a.RootFS.DiffIDs, b.RootFS.DiffIDs)},
		{"os", a.OS == b.OS},
		{"arch", a.Architecture == b.Architecture && a.Variant == b.Variant},
		{"author", a.Author == b.Author},
		{"cmd", slices.Equal(a.Config.Cmd, b.Config.Cmd)},
		{"entrypoint", slices.Equal(a.Config.Entrypoint, b.Config.Entrypoint)},
		{"environment", slices.Equal(a.Config.Env, b.Config.Env)},
		{"labels", maps.Equal(a.Config.Labels, b.Config.Labels)},
		{"working_dir", a.Config.WorkingDir == b.Config.WorkingDir},
		{"runtime_user", a.Config.User == b.Config.User},
		{"volumes", maps.Equal(a.Config.Volumes, b.Config.Volumes)},
		{"expose", maps.Equal(a.Config.ExposedPorts, b.Config.ExposedPorts)},
		{"stop_signal", a.Config.StopSignal == b.Config.StopSignal},
		{"healthcheck", reflect.DeepEqual(a.Config.Healthcheck, b.Config.Healthcheck)},
		{"shell", slices.Equal(a.Config.Shell, b.Config.Shell)},
		{"on_build", slices.Equal(a.Config.OnBuild, b.Config.OnBuild)},
		{"annotations", maps.Equal(manifests[0].Annotations, manifests[1].Annotations)},
	} {
		if !part.same {
			changed = append(changed, part.name)
		}
	}
	return changed, nil
}
