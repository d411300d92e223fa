package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/progress"
)

// mostDifferences is how many files of a layer that is not reproducible are named.
const mostDifferences = 20

// compare reports whether a step that was done again gave the same result, and tells
// which files differ. What is remembered stays; the other result is thrown away.
func (b *Builder) compare(ctx context.Context, s *rootfsStep, before, now rootfs) (same bool, err error) {
	if slices.Equal(before.Layers, now.Layers) {
		b.notice(s.l, progress.Notice, "reproducible: built again, it is the same")
		return true, nil
	}
	old, err := b.contents(ctx, s, before)
	if err != nil {
		return false, err
	}
	again, err := b.contents(ctx, s, now)
	if err != nil {
		return false, err
	}
	changes := changedFiles(old, again)
	b.notice(s.l, progress.Warning, "not reproducible: built again of the same inputs, %s", filesDiffer(len(changes)))
	for i, change := range changes {
		if i == mostDifferences {
			b.notice(s.l, progress.Warning, "… and %d more", len(changes)-i)
			break
		}
		b.notice(s.l, progress.Warning, "%s", change)
	}
	return false, b.discard(ctx, s, before, now)
}

func filesDiffer(files int) string {
	if files == 1 {
		return "1 file differs"
	}
	return fmt.Sprintf("%d files differ", files)
}

// A content is what one layer of a step's result holds.
type content struct {
	entries []imports.Entry
	status  map[string]syscall.Stat_t // by path; what entries do not tell: owner and mtime
}

// contents returns what the layers of a result hold, by what made them.
func (b *Builder) contents(ctx context.Context, s *rootfsStep, fs rootfs) (map[string]content, error) {
	all := map[string]content{}
	links := fs.onto(s.base.chain).all()
	links = links[len(links)-len(fs.Layers):]
	for i, c := range links {
		if err := b.ensure(ctx, s.l, c); err != nil {
			return nil, err
		}
		held, err := b.content(ctx, c.id)
		if err != nil {
			return nil, err
		}
		all[fs.Layers[i].By] = held
	}
	return all, nil
}

func (b *Builder) content(ctx context.Context, id digest.Digest) (c content, err error) {
	dir, release, err := b.Snapshots.Difference(ctx, id)
	if err != nil {
		return c, err
	}
	defer release()
	tree, err := b.Sources.Digest(ctx, imports.Source{Root: dir, Path: "/", Content: true})
	if err != nil {
		return c, err
	}
	if c.entries, err = b.Sources.Entries(tree.Digest); err != nil {
		return c, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return c, err
	}
	defer root.Close()
	c.status = map[string]syscall.Stat_t{}
	for _, entry := range c.entries {
		info, err := root.Lstat(entry.Path)
		if err != nil {
			return c, err
		}
		c.status[entry.Path] = *info.Sys().(*syscall.Stat_t)
	}
	return c, nil
}

// changedFiles says one line for each path in which two results differ.
func changedFiles(old, now map[string]content) (lines []string) {
	made := map[string]bool{}
	for by := range old {
		made[by] = true
	}
	for by := range now {
		made[by] = true
	}
	for _, by := range slices.Sorted(maps.Keys(made)) {
		changes := map[string]explain.Change{}
		for _, c := range explain.TreeChanges(old[by].entries, now[by].entries) {
			changes[c.Path] = c
		}
		for path, was := range old[by].status {
			if is, ok := now[by].status[path]; ok {
				c := explain.ChangeAt(path)
				c.Attributes = slices.Concat(changes[c.Path].Attributes, statusChange(was, is).Attributes)
				if len(c.Attributes) > 0 {
					changes[c.Path] = c
				}
			}
		}
		for _, path := range slices.Sorted(maps.Keys(changes)) {
			c := changes[path]
			lines = append(lines, c.Text("/", explain.Options{}))
		}
	}
	return lines
}

// statusChange is what of a file's status differs and is no part of a tree.
func statusChange(old, now syscall.Stat_t) (c explain.Change) {
	c.Add("owner", fmt.Sprintf("%d:%d", old.Uid, old.Gid), fmt.Sprintf("%d:%d", now.Uid, now.Gid))
	c.Add("mtime", nanoText(old.Mtim.Nano()), nanoText(now.Mtim.Nano()))
	if old.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		c.Add("hard links", strconv.FormatUint(uint64(old.Nlink), 10), strconv.FormatUint(uint64(now.Nlink), 10)) //nolint:unconvert // arm64 has 32 bits
	}
	return c
}

func nanoText(nanoseconds int64) string {
	return time.Unix(0, nanoseconds).UTC().Format(time.RFC3339Nano)
}

// discard removes the snapshots of a result that is not remembered.
func (b *Builder) discard(ctx context.Context, s *rootfsStep, keep, fs rootfs) error {
	kept := map[digest.Digest]bool{}
	for _, c := range keep.onto(s.base.chain).all() {
		kept[c.id] = true
	}
	for c := fs.onto(s.base.chain); c != nil && !kept[c.id]; c = c.below {
		b.Snapshots.Release(c.id)
		if err := b.Snapshots.Remove(ctx, c.id); err != nil {
			return fmt.Errorf("removing a snapshot that is not reproducible: %w", err)
		}
	}
	return nil
}
