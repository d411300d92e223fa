package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/layers"
)

// The tool's own annotations, each with the namespace before it. The names are
// stacker's.
const (
	gitVersionAnnotation  = ".stacker.git_version"
	contentAnnotation     = ".stacker.stacker_yaml"
	toolVersionAnnotation = ".stacker.stacker_version"
)

// DefaultAnnotationsNamespace is stacker's.
const DefaultAnnotationsNamespace = "io.stackeroci"

// annotations are those of a layer's manifest: the stackerfile's, and over them
// the tool's own if there is a namespace, which say of what it was built: the
// commit and the text of the stackerfile. They are the same in every clone, but
// change with every commit and every word of the stackerfile. The version of the
// tool is there for wall-clock times only, since with each release it would change
// the digest of every image.
func (b *Builder) annotations(ctx context.Context, l *layers.Layer) map[string]string {
	namespace := b.AnnotationsNamespace
	if namespace == "" {
		return l.Annotations
	}
	all := maps.Clone(l.Annotations)
	if all == nil {
		all = map[string]string{}
	}
	if version := b.git.version(ctx, l.File.Dir); version != "" {
		all[namespace+gitVersionAnnotation] = version
	}
	all[namespace+contentAnnotation] = l.File.Portable
	if b.Clock.Now && b.ToolVersion != "" {
		all[namespace+toolVersionAnnotation] = b.ToolVersion
	}
	return all
}

// sameImage reports whether two manifests are equal except for the tool's own
// annotations: a commit, or a change of another layer, makes no other image.
func sameImage(a, b []byte, namespace string) (bool, error) {
	var texts [2][]byte
	for i, data := range [][]byte{a, b} {
		var m ispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return false, err
		}
		for _, name := range []string{gitVersionAnnotation, contentAnnotation, toolVersionAnnotation} {
			delete(m.Annotations, namespace+name)
		}
		var err error
		if texts[i], err = json.Marshal(m); err != nil {
			return false, err
		}
	}
	return bytes.Equal(texts[0], texts[1]), nil
}
