package engine

import (
	"context"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// projects knows the projects of stackerfiles, and what was built in them before. It asks
// git, and reads, once for each.
type projects struct{ known, built sync.Map }

// A lastBuild is the last good build of a layer.
type lastBuild struct {
	record *buildcache.Record
	path   string // of its stackerfile in the project
	live   bool   // the record is in the cache, and not only buried
}

// lastBuilds returns what read finds of a project, which is called once.
func (p *projects) lastBuilds(project string, read func(string) []lastBuild) []lastBuild {
	found, _ := p.built.LoadOrStore(project, sync.OnceValue(func() []lastBuild { return read(project) }))
	return found.(func() []lastBuild)()
}

func (p *projects) of(ctx context.Context, file *layers.Stackerfile) buildcache.Project {
	find, _ := p.known.LoadOrStore(file.Path, sync.OnceValue(func() buildcache.Project { return projectOf(ctx, file) }))
	return find.(func() buildcache.Project)()
}

// projectOf returns the project of a stackerfile: clones of one git remote are one
// project, whichever way they reach it. Without a remote it is the working tree,
// and outside of git the stackerfile's folder.
func projectOf(ctx context.Context, file *layers.Stackerfile) buildcache.Project {
	if layers.IsURL(file.Path) {
		return buildcache.Project{Name: file.Path}
	}
	top := workTree(filepath.Dir(file.Path))
	if top == "" {
		return buildcache.Project{Name: filepath.Dir(file.Path), Path: filepath.Base(file.Path)}
	}
	path, err := filepath.Rel(top, file.Path)
	if err != nil {
		path = file.Path
	}
	remotes, _ := git(ctx, top, "config", "--get-regexp", `^remote\..*\.url$`) // it fails where there is none
	return buildcache.Project{Name: remoteName(remotes, top), Path: path}
}

// remoteName names the repository that a working tree was cloned from: of origin
// or, without one, of the first remote in what git lists. It has no user and no
// password, and is the same for https and ssh.
func remoteName(remotes, top string) string {
	var found string
	for line := range strings.Lines(remotes) {
		key, remote, _ := strings.Cut(strings.TrimSpace(line), " ")
		if remote != "" && (found == "" || key == "remote.origin.url") {
			found = remote
		}
	}
	if found == "" {
		return top
	}
	return strings.TrimSuffix(strings.TrimSuffix(place(found, top), "/"), ".git")
}

// scpLike matches a remote as ssh has it: user@host:path.
var scpLike = regexp.MustCompile(`^(?:[^/@:]+@)?([^/:]+):(.+)$`)

func place(remote, top string) string {
	if at, err := url.Parse(remote); err == nil && at.Scheme != "" && strings.Contains(remote, "://") {
		return at.Hostname() + at.Path
	}
	if parts := scpLike.FindStringSubmatch(remote); parts != nil {
		return parts[1] + "/" + strings.TrimPrefix(parts[2], "/")
	}
	if !filepath.IsAbs(remote) {
		return filepath.Join(top, remote)
	}
	return remote
}
