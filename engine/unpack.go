package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
// by side, and each is put on those below it when they are there. The lowest begins.
func (b *Builder) ensure(ctx context.Context, l *layers.Layer, c *chain) error {
	if c == nil {
		return nil
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(mostAhead)
	below := make(chan struct{})
	close(below)
	for _, link := range c.all() {
		sound, err := b.hasProven(ctx, l, link)
		if err != nil {
			return errors.Join(err, all.Wait())
		}
		if sound {
			continue
		}
		begun, made := make(chan struct{}), make(chan struct{})
		u := &unpacking{b, l, link, below, sync.OnceFunc(func() { close(begun) })}
		below = made
		all.Go(func() error {
			defer u.begun()
			if err := u.snapshot(ctx); err != nil {
				return fmt.Errorf("unpacking layer %s: %w", link.diff, err)
			}
			close(made)
			return nil
		})
		<-begun
	}
	return all.Wait()
}

// An unpacking is the work on the highest layer of a chain.
type unpacking struct {
	*Builder
	l     *layers.Layer // for which it is done
	c     *chain
	below <-chan struct{} // closed when the snapshots below are there
	begun func()          // is called when others may begin
}

// snapshot makes the layer's snapshot, unless another makes it. What is damaged or lost of
// what it is made from is made again.
func (u *unpacking) snapshot(ctx context.Context) error {
	for try := 1; ; try++ {
		err := u.unpackOnce(ctx)
		if !errors.Is(err, buildcache.ErrCorrupt) || u.c.again == nil || try == attempts || ctx.Err() != nil {
			return err
		}
		u.tellAgain(u.c.maker(u.l), err)
		if err := u.c.again(ctx); err != nil {
			return err
		}
	}
}

// unpackOnce makes the layer's snapshot of its blob.
func (u *unpacking) unpackOnce(ctx context.Context) error {
	// Who has this lock waits for those of layers below at most: no two wait for each other.
	lock, err := u.Cache.Lock(ctx, buildcache.Key(u.c.id.Encoded()), "has been unpacking layer "+u.c.diff.String())
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if u.has(ctx, u.c) {
		return nil
	}
	upper, err := u.unpack(ctx)
	if errors.Is(err, oci.ErrCorrupt) {
		return damageError{err}
	}
	if err != nil {
		return snapshotDamage(err)
	}
	defer upper.Drop()
	if _, err = upper.Commit(ctx, u.c.diff, u.label(u.l, u.c)); err != nil {
		return err
	}
	return u.Snapshots.Hold(ctx, u.c.id)
}

// unpack unpacks the layer onto those below it, or beside them while they are not there
// yet, unless it is something else without them.
func (u *unpacking) unpack(ctx context.Context) (*overlay.Mutable, error) {
	select {
	case <-u.below:
		return u.onto(ctx)
	default:
	}
	upper, err := u.beside(ctx)
	if errors.Is(err, oci.ErrApart) || errors.Is(err, overlay.ErrApart) {
		u.notice(u.l, progress.Debug, "unpacking layer %s once more: %s", u.c.diff, err)
		return u.onto(ctx)
	}
	return upper, err
}

// onto unpacks the layer onto a view of those below it, so that whiteouts are deletions,
// and folders that the layer does not mention keep their attributes.
func (u *unpacking) onto(ctx context.Context) (*overlay.Mutable, error) {
	upper, err := u.Snapshots.Prepare(ctx, u.c.below.ID())
	if err != nil {
		return nil, err
	}
	root, err := upper.Mount(ctx)
	if err == nil {
		err = u.to(ctx, root, nil)
	}
	if err == nil {
		err = upper.Unmount()
	}
	if err != nil {
		return nil, errors.Join(err, upper.Drop())
	}
	return upper, nil
}

// beside unpacks the layer to a folder of its own, and puts it on those below it. It
// returns when they are there, whatever comes of it, so that of several errors the
// lowest layer's is told.
func (u *unpacking) beside(ctx context.Context) (upper *overlay.Mutable, err error) {
	staged, err := u.Snapshots.Stage(ctx)
	if err != nil {
		return nil, err
	}
	if err = u.to(ctx, staged.Root(), staged); err != nil {
		err = errors.Join(err, staged.Drop())
	}
	select {
	case <-u.below:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		upper, err = staged.Join(ctx, u.c.below.ID())
	}
	if err != nil {
		return nil, errors.Join(err, staged.Drop())
	}
	return upper, nil
}

// to unpacks the layer to a folder. changes is nil if that shows the layers below.
func (u *unpacking) to(ctx context.Context, root string, changes oci.Changes) error {
	if !u.packed(ctx, u.c) {
		u.c.lost.Store(true)
		return absentError{"neither its snapshot nor its blob is in the state folder"}
	}
	if err := u.bring(ctx, u.l, u.c); err != nil {
		return err
	}
	release, err := u.limits.cores.acquire(ctx, u.worth()[u.l])
	if err != nil {
		return err
	}
	defer release()
	u.begun()
	layer := u.c.layer()
	what := "unpacking " + layer.Digest.Encoded()[:12]
	defer u.doing(u.l, what)()
	return privileged(u.Blobs.Stage(ctx, layer, root, changes, u.meter(u.l, what)), "")
}
