package build

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/progress"
)

// mostDifferences is how many files of a layer that is not reproducible are named.
const mostDifferences = 20

// compare tells whether a step that was done again gave another result, and says
// in which files. What is remembered stays; the other result is thrown away.
func (b *Builder) compare(ctx context.Context, s *rootfsStep, before, now rootfs) (differs bool, err error) {
	if slices.Equal(before.Layers, now.Layers) {
		b.notice(s.l, progress.Notice, "reproducible: built again, it is the same")
		return false, nil
	}
	old, err := b.entries(ctx, s, before)
	if err != nil {
		return true, err
	}
	again, err := b.entries(ctx, s, now)
	if err != nil {
		return true, err
	}
	changes := imports.Compare(old, again)
	b.notice(s.l, progress.Warning, "not reproducible: built again of the same inputs, %s", count(len(changes), "file differ"))
	for i, change := range changes {
		if i == mostDifferences {
			b.notice(s.l, progress.Warning, "… and %d more", len(changes)-i)
			break
		}
		b.notice(s.l, progress.Warning, "%s", change)
	}
	return true, b.discard(ctx, s, before, now)
}

// entries lists what a step's result changes of its base.
func (b *Builder) entries(ctx context.Context, s *rootfsStep, fs rootfs) ([]imports.Entry, error) {
	var all []imports.Entry
	links := fs.onto(s.base.chain).all()
	for _, c := range links[len(links)-len(fs.Layers):] {
		if err := b.ensure(ctx, s.l, c); err != nil {
			return nil, err
		}
		dir, release, err := b.snapshots.Difference(ctx, c.id)
		if err != nil {
			return nil, err
		}
		tree, err := b.sources.Digest(ctx, imports.Source{Root: dir, Path: "/", Content: true})
		release()
		if err != nil {
			return nil, err
		}
		entries, err := b.sources.Entries(tree.Digest)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// discard removes the snapshots of a result that is not remembered.
func (b *Builder) discard(ctx context.Context, s *rootfsStep, keep, fs rootfs) error {
	kept := map[digest.Digest]bool{}
	for _, c := range keep.onto(s.base.chain).all() {
		kept[c.id] = true
	}
	for c := fs.onto(s.base.chain); c != nil && !kept[c.id]; c = c.below {
		b.snapshots.Release(c.id)
		if err := b.snapshots.Remove(ctx, c.id); err != nil {
			return fmt.Errorf("removing a snapshot that is not reproducible: %w", err)
		}
	}
	return nil
}
