package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"sync"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
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

// sameImage tells whether two manifests are the same but for the tool's own
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

// A gitFolders knows the versions of folders in git, and asks once for each.
type gitFolders struct {
	sink func(progress.Event)

	mu       sync.Mutex
	versions map[string]func() string
}

// version returns what git calls the commit of a folder, "" outside of git.
func (g *gitFolders) version(ctx context.Context, dir string) string {
	g.mu.Lock()
	version, ok := g.versions[dir]
	if !ok {
		version = sync.OnceValue(func() string {
			v, err := gitVersion(ctx, dir)
			if err != nil && ctx.Err() == nil {
				g.sink(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("images will not say the git version of %s: %s", dir, err)})
			}
			return v
		})
		g.versions[dir] = version
	}
	g.mu.Unlock()
	return version()
}

// gitVersion is `git describe --tags`, or the commit when there are no tags, and
// -dirty when tracked files are changed. Commits are written in full: how far git
// shortens them depends on the clone.
func gitVersion(ctx context.Context, dir string) (string, error) {
	if workTree(dir) == "" { // most are in none, and git takes longer to say so than a build that finds everything in the cache
		return "", nil
	}
	version, err := git(ctx, dir, "describe", "--tags", "--abbrev=40")
	if err != nil {
		if version, err = git(ctx, dir, "rev-parse", "HEAD"); err != nil {
			return "", err
		}
	}
	changes, err := git(ctx, dir, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return "", err
	}
	if changes != "" {
		version += "-dirty"
	}
	return version, nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks", "-C", dir}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); err != nil && said != "" {
		err = errors.New(said)
	}
	return strings.TrimSpace(string(out)), err
}
