package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// A damageError is about damage that is put aside by now: the step that met it is done
// again, and finds what else it can be made from.
type damageError struct{ error }

// Error leaves out what nobody needs to do.
func (e damageError) Error() string { return strings.TrimSuffix(e.error.Error(), ": build again") }

// Is makes it a buildcache.ErrCorrupt.
func (e damageError) Is(target error) bool { return target == buildcache.ErrCorrupt }
func (e damageError) Unwrap() error        { return e.error }

// tellDamage reports damage that is about to be made good.
func (b *Builder) tellDamage(err error) {
	b.report(progress.Event{Kind: progress.Warning, Text: damageError{err}.Error() + ": making it again"})
}

// An absentError says that what a layer holds is known by its digests alone, and is to be
// had nowhere. It is an ErrCorrupt: the layer is made again.
type absentError struct{ text string }

func (e absentError) Error() string        { return e.text }
func (e absentError) Is(target error) bool { return target == buildcache.ErrCorrupt }

// tellAgain reports that a layer is made again, and why.
func (b *Builder) tellAgain(l *layers.Layer, why error) {
	var absent absentError
	if errors.As(why, &absent) {
		b.notice(l, progress.Notice, "%s: it is made again", why)
		return
	}
	b.tellDamage(why)
}

// attempts is how often something is made that meets damage. Each attempt finds less of it.
const attempts = 3

// snapshotDamage tells damage from other errors about a snapshot that was there.
func snapshotDamage(err error) error {
	if errors.Is(err, overlay.ErrInvalid) || errors.Is(err, overlay.ErrNotFound) {
		return damageError{err}
	}
	return err
}

// has reports whether there is a snapshot of a chain's highest layer, and keeps it
// from being removed until the build ends. A damaged one is put aside.
func (b *Builder) has(ctx context.Context, c *chain) bool {
	err := b.Snapshots.Hold(ctx, c.id)
	if errors.Is(err, overlay.ErrInvalid) {
		b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("%s: it is put aside in the state folder's corrupt folder", err)})
		_, _ = b.Snapshots.PutAside(c.id)
	}
	return err == nil
}

// remake does a layer's rootfs step again, since a snapshot of its result is lost, and
// what it could be made from. Those who build on it wait in a nested step, and hold
// nothing.
func (b *Builder) remake(ctx context.Context, s *rootfsStep, c *chain) error {
	s.remaking.Lock()
	defer s.remaking.Unlock()
	s.lost = !c.lost.Load()
	o := b.layers[s.l]
	step := b.rootfsStep(s, o, func() {})
	step.Lazy = false
	fs, came, err := remember(ctx, b, s.l, step)
	if err != nil {
		return err
	}
	if came.How == buildcache.Done {
		o.told.Outcome, o.told.Seconds = explain.Built, came.Took.Seconds()
	}
	for made := fs.onto(s.base.chain); made != nil; made = made.below {
		if made.id == c.id {
			return nil
		}
	}
	return &lostError{s.l.Name}
}

// A lostError says that a layer, which is not reproducible, was lost and came out
// otherwise when it was made again. What it gives now is remembered; what this build knows
// of the layers on it is out of date.
type lostError struct{ layer string }

func (e *lostError) Error() string {
	return fmt.Sprintf("%s: not reproducible: what it gave before is lost, and made again it is something else", e.layer)
}

// restore makes what the images of the build need and what turned out to be damaged;
// known is false where this process may not.
func (b *Builder) restore(ctx context.Context) (known bool, err error) {
	for _, l := range b.graph.Layers {
		o := b.layers[l]
		for _, c := range o.chain.all() {
			if err := b.restorePacked(ctx, c); err != nil {
				return false, err
			}
		}
		if known, err := o.pack(ctx); err != nil || !known {
			return false, err
		}
	}
	return true, nil
}

// restorePacked forgets what a chain's highest layer was packed to and is gone; that of
// a base is taken in again.
func (b *Builder) restorePacked(ctx context.Context, c *chain) error {
	c.packing.Lock()
	defer c.packing.Unlock()
	for layerType, blob := range c.packs {
		if !b.Blobs.Has(blob) {
			delete(c.packs, layerType)
		}
	}
	if c.ofBase && !b.Blobs.Has(*c.blob.Load()) {
		return c.again(ctx)
	}
	return nil
}

// withManifest does what needs the manifest of a tree that was measured. If the
// manifest was removed since, or is damaged, the source is measured once more.
func (s *source) withManifest(ctx context.Context, at imports.Source, tree imports.Tree, do func() error) error {
	err := do()
	if !errors.Is(err, imports.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	again, measureErr := s.b.Sources.Digest(ctx, at)
	if measureErr != nil {
		return errors.Join(err, measureErr)
	}
	if again.Digest != tree.Digest {
		return &imports.ChangedError{Path: s.from.Raw}
	}
	return do()
}
