package build

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// mostAhead is how many layers of a rootfs are unpacked at a time or wait for those
// below them: each of these keeps the names of its files in memory.
const mostAhead = 16

// ensure makes the snapshots of a rootfs that are not on disk, from their blobs: side
// by side, and each is put on those below it when they are there.
func (b *Builder) ensure(ctx context.Context, l *layers.Layer, c *chain) error {
	if c == nil {
		return nil
	}
	if err := b.mounts(); err != nil { // which decides where snapshots are
		return err
	}
	var missing []*chain
	for _, link := range c.all() {
		if !b.has(ctx, link) {
			missing = append(missing, link)
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(mostAhead)
	below := make(chan struct{})
	close(below)
	for _, link := range missing {
		before, made := below, make(chan struct{})
		below = made
		all.Go(func() error {
			if err := b.unpack(ctx, l, link, before); err != nil {
				return fmt.Errorf("unpacking layer %s: %w", link.diff, err)
			}
			close(made)
			return nil
		})
	}
	return all.Wait()
}

// unpack makes the snapshot of the highest layer of c. below is closed when those
// below it are there.
func (b *Builder) unpack(ctx context.Context, l *layers.Layer, c *chain, below <-chan struct{}) error {
	// Who waits for this lock waits for layers below at most, so no two wait for each other.
	lock, err := b.cache.Lock(ctx, buildcache.Key(c.id.Encoded()), "has been unpacking layer "+c.diff.String())
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if b.has(ctx, c) {
		return nil
	}
	upper, err := b.unpacked(ctx, l, c, below)
	if errors.Is(err, oci.ErrCorrupt) {
		return damaged(err)
	}
	if err != nil {
		return snapshotDamage(err)
	}
	defer upper.Drop()
	if _, err = upper.Commit(ctx, c.diff, b.label(l, c)); err != nil {
		return err
	}
	return b.snapshots.Hold(ctx, c.id)
}

// unpacked unpacks the highest layer of c onto those below it, or beside them while they
// are not there yet, unless it cannot be understood without them.
func (b *Builder) unpacked(ctx context.Context, l *layers.Layer, c *chain, below <-chan struct{}) (*overlay.Mutable, error) {
	select {
	case <-below:
		return b.unpackOnto(ctx, l, c)
	default:
	}
	upper, err := b.unpackBeside(ctx, l, c, below)
	if errors.Is(err, oci.ErrApart) || errors.Is(err, overlay.ErrApart) {
		b.notice(l, progress.Debug, "unpacking layer %s once more: %s", c.diff, err)
		return b.unpackOnto(ctx, l, c)
	}
	return upper, err
}

// unpackOnto unpacks a layer onto a view of those below it, so that whiteouts are
// deletions, and folders that the layer does not mention keep their attributes.
func (b *Builder) unpackOnto(ctx context.Context, l *layers.Layer, c *chain) (*overlay.Mutable, error) {
	upper, err := b.snapshots.Prepare(ctx, c.below.ID())
	if err != nil {
		return nil, err
	}
	root, err := upper.Mount(ctx)
	if err == nil {
		err = b.unpackTo(ctx, l, c, root, nil)
	}
	if err == nil {
		err = upper.Unmount()
	}
	if err != nil {
		return nil, errors.Join(err, upper.Drop())
	}
	return upper, nil
}

// unpackBeside unpacks a layer to a folder of its own, and puts it on those below it.
// It returns when they are there, whatever comes of it, so that of several errors the
// lowest layer's is told.
func (b *Builder) unpackBeside(ctx context.Context, l *layers.Layer, c *chain, below <-chan struct{}) (upper *overlay.Mutable, err error) {
	staged, err := b.snapshots.Stage(ctx)
	if err != nil {
		return nil, err
	}
	if err = b.unpackTo(ctx, l, c, staged.Root(), staged); err != nil {
		err = errors.Join(err, staged.Drop())
	}
	select {
	case <-below:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		upper, err = staged.Join(ctx, c.below.ID())
	}
	if err != nil {
		return nil, errors.Join(err, staged.Drop())
	}
	return upper, nil
}

// unpackTo unpacks a layer to a folder. changes is nil if that shows the layers below.
func (b *Builder) unpackTo(ctx context.Context, l *layers.Layer, c *chain, root string, changes oci.Changes) error {
	if !b.packed(c) {
		return damaged(errors.New("neither its snapshot nor its blob is in the state folder"))
	}
	release, err := b.limits.cores.acquire(ctx, b.worth()[l])
	if err != nil {
		return err
	}
	defer release()
	layer := c.layer()
	what := "unpacking " + layer.Digest.Encoded()[:12]
	defer b.doing(l, what)()
	return privileged(b.blobs.Stage(ctx, layer, root, changes, b.meter(l, what)), "")
}
