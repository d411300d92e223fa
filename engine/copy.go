package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/patternmatcher/ignorefile"
	"github.com/moby/sys/user"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/layers"
)

// selected returns an import with copy as one import of each path that it stands for now.
func (b *Builder) selected(ctx context.Context, s *rootfsStep, imp layers.Import) (all []imported, err error) {
	at := imports.Source{Normalize: imp.Normalize, Owners: imp.Source.Scheme == layers.SchemeStacker}
	if imp.Copy.IgnoreFile != "" {
		patterns, err := ignorePatterns(imp.Copy.IgnoreFile)
		if err != nil {
			return nil, err
		}
		at.Filters = []imports.Filter{{Exclude: patterns}}
	}
	if imp.Copy.Parents {
		one, err := b.withParents(ctx, s, imp, at)
		return []imported{one}, err
	}
	for _, pattern := range imp.Copy.Patterns {
		matches, err := b.matches(ctx, s, imp, at, pattern)
		if err != nil {
			return nil, err
		}
		for _, match := range matches {
			one, err := b.match(ctx, s, imp, at, match)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// ignorePatterns reads a .dockerignore. One that is not there ignores nothing.
func ignorePatterns(file string) ([]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ignore_file: %w", err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(io.LimitReader(f, layers.MaxSize))
	if err != nil {
		return nil, fmt.Errorf("ignore_file %s: %w", file, err)
	}
	return patterns, nil
}

// match measures one path that a pattern stands for.
func (b *Builder) match(ctx context.Context, s *rootfsStep, imp layers.Import, at imports.Source, match imports.Match) (imported, error) {
	for i := range at.Filters {
		at.Filters[i].Below = match.Path
	}
	excluded := at
	if len(imp.Copy.Exclude) > 0 {
		excluded.Filters = append(excluded.Filters[:len(excluded.Filters):len(excluded.Filters)], imports.Filter{Exclude: imp.Copy.Exclude})
	}
	imp.Name, imp.Source.Content = path.Base(match.Path), match.Dir
	from := imp.Source
	from.Raw = strings.TrimSuffix(imp.Source.Raw, "/") + "/" + match.Path
	source, tree, err := b.measuredBelow(ctx, s, from, match.Path, excluded)
	return imported{imp, source, tree}, err
}

// withParents measures what patterns stand for as one tree. A /./ in a pattern says which
// of the folders before it are left out.
func (b *Builder) withParents(ctx context.Context, s *rootfsStep, imp layers.Import, at imports.Source) (one imported, err error) {
	below, patterns := "", []string{}
	for i, pattern := range imp.Copy.Patterns {
		parent, rest, pivot := strings.Cut(pattern, "/./")
		if !pivot {
			parent, rest = "", pattern
		}
		parent = strings.Trim(path.Clean("/"+parent), "/")
		if i > 0 && parent != below {
			return one, fmt.Errorf("copy %s has another folder before /./ than %s: write two imports", pattern, imp.Copy.Patterns[0])
		}
		below = parent
		patterns = append(patterns, strings.TrimPrefix(path.Clean("/"+rest), "/"))
	}
	for i := range at.Filters {
		at.Filters[i].Below = below
	}
	at.Filters = append(at.Filters, imports.Filter{Include: patterns, Exclude: imp.Copy.Exclude})
	imp.Source.Content = true
	source, tree, err := b.measuredBelow(ctx, s, imp.Source, below, at)
	return imported{imp, source, tree}, err
}

// measuredBelow measures what is at a path below a folder or layer, which links do not
// leave.
func (b *Builder) measuredBelow(ctx context.Context, s *rootfsStep, from layers.Source, below string, at imports.Source) (*source, imports.Tree, error) {
	if from.Scheme == layers.SchemeStacker {
		from.Path = path.Join(from.Path, below)
	} else {
		at.Within = from.Path
		from.Path = path.Join("/", below)
	}
	return b.reads(ctx, s, from, "", at)
}

// matches returns the paths that a pattern stands for: of another layer, this is a step
// that is remembered, like what is measured.
func (b *Builder) matches(ctx context.Context, s *rootfsStep, imp layers.Import, at imports.Source, pattern string) ([]imports.Match, error) {
	if imp.Source.Scheme != layers.SchemeStacker {
		at.Within = imp.Source.Path
		return imports.Glob(at, pattern)
	}
	from, _, err := b.source(ctx, s.l, imp.Source, "", at)
	if err != nil {
		return nil, err
	}
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "chain", string(from.chain.ID()))
	in.Add(buildcache.Definition, "glob", path.Join(from.from.Path, pattern))
	step := inLayer(from, in, func(_ context.Context, at imports.Source) ([]imports.Match, error) {
		found, err := imports.Glob(at, pattern)
		if err != nil {
			err = fmt.Errorf("layer %q: %w", from.from.Layer, err)
		}
		return found, err
	})
	step.Compare = func(_ context.Context, before, again []imports.Match) (bool, error) {
		return slices.Equal(before, again), nil
	}
	found, came, err := remember(ctx, b, s.l, step)
	if err == nil && !came.Known() {
		s.notes(from.unread())
	}
	return found, err
}

// put brings into a rootfs what an import is.
func (b *Builder) put(ctx context.Context, imp imported, root string, o imports.CopyOptions) error {
	if imp.Owner != "" {
		uid, gid, err := ownerIn(root, imp.Owner)
		if err != nil {
			return err
		}
		o.UID, o.GID = &uid, &gid
	}
	o.Whole = imp.Copy != nil || imp.source == nil
	switch {
	case imp.Make:
		return imports.MakeFolder(root, imp.Dest, o)
	case imp.Text != nil:
		return imports.WriteFile(ctx, root, imp.Dest, []byte(*imp.Text), o)
	}
	return imp.source.copy(ctx, imp.tree, root, imp.Dest, o)
}

// ownerIn returns the ids of a USER or USER:GROUP in a rootfs. The group of a user alone is
// that user's; of a number alone, the same number, as with docker.
func ownerIn(root, owner string) (uid, gid int, err error) {
	u, err := userIn(root, owner)
	if err != nil {
		return 0, 0, err
	}
	if n, err := strconv.ParseUint(owner, 10, 31); err == nil {
		return int(n), int(n), nil
	}
	return u.Uid, u.Gid, nil
}

// userIn looks up a USER or USER:GROUP in a rootfs.
func userIn(root, name string) (*user.ExecUser, error) {
	var open []io.Reader
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		f, err := inroot.File(root, file)
		if errors.Is(err, fs.ErrNotExist) {
			open = append(open, strings.NewReader(""))
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		open = append(open, f)
	}
	u, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, open[0], open[1])
	if err != nil {
		return nil, fmt.Errorf("the image has no user or group %s: give numbers, or make it in a layer below", name)
	}
	return u, nil
}
