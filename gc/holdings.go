package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/layerbuild/layerbuild/caches"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/stores"
)

// A holding is what an item is to the store that holds it.
type holding interface {
	// inUse reports whether a process uses it. None does unless its inode is in locked.
	inUse(r *stores.Set, locked inodes) bool
	// remove removes it, but for its blobs, unless a process uses it.
	remove(ctx context.Context, v *inventory) error
}

type snapshot struct{ *overlay.Listed }

func (s snapshot) inUse(r *stores.Set, locked inodes) bool {
	return locked.has(s.Stamp.Inode) && r.Snapshots.InUse(s.ID)
}

func (s snapshot) remove(ctx context.Context, v *inventory) error {
	return v.Snapshots.RemoveListed(ctx, v.listing, s.ID)
}

// kept is the name of what a failed step left.
type kept string

func (k kept) inUse(r *stores.Set, _ inodes) bool { return r.Snapshots.KeptInUse(string(k)) }

func (k kept) remove(_ context.Context, v *inventory) error {
	err := v.Snapshots.RemoveKept(string(k))
	if err == nil {
		v.listing.DropKept(string(k))
	}
	return err
}

// stored is a tree or a download.
type stored struct{ *imports.Stored }

func (s stored) inUse(r *stores.Set, locked inodes) bool {
	return slices.ContainsFunc(s.Locks, locked.has) && r.Sources.InUse(*s.Stored)
}

func (s stored) remove(_ context.Context, v *inventory) error {
	return v.Sources.Remove(*s.Stored)
}

func (r *record) inUse(*stores.Set, inodes) bool { return false }

func (r *record) remove(_ context.Context, v *inventory) error {
	return v.Cache.RemoveRecord(r.kind, r.key)
}

type cacheMount struct{ *caches.Stored }

func (c cacheMount) inUse(r *stores.Set, locked inodes) bool {
	return locked.has(c.Inode) && r.Caches.InUse(c.Name)
}

func (c cacheMount) remove(_ context.Context, v *inventory) error { return v.Caches.Remove(c.Name) }

// aside is the path of what was put aside.
type aside string

func (a aside) inUse(*stores.Set, inodes) bool { return false }

func (a aside) remove(context.Context, *inventory) error { return os.RemoveAll(string(a)) }

// What the names of the note and of the lock of a partial end with.
const (
	noteSuffix = ".json"
	lockSuffix = ".lock"
)

// A partial is what has come of a layer or of a file behind a URL. Who fetches it has
// its lock.
type partial struct {
	path string
	lock uint64 // inode; 0 without a lock
}

func (p *partial) inUse(_ *stores.Set, locked inodes) bool {
	if p.lock == 0 || !locked.has(p.lock) {
		return false
	}
	lock, err := locks.TryOpen(p.path+lockSuffix, os.O_RDWR, locks.Exclusive)
	if err == nil {
		lock.Close()
	}
	return errors.Is(err, locks.ErrHeld)
}

func (p *partial) remove(context.Context, *inventory) error {
	lock, err := locks.TryOpen(p.path+lockSuffix, os.O_CREATE|os.O_RDWR, locks.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, path := range []string{p.path + noteSuffix, p.path, p.path + lockSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// inodes are those that somebody has locked, as locks.Held tells; nil may be any.
type inodes map[uint64]int

func (i inodes) has(inode uint64) bool {
	_, there := i[inode]
	return there || i == nil
}

// isInUse reports whether a process uses an item itself: one of those whose inodes are locked.
func (v *inventory) isInUse(i *Item, locked inodes) bool {
	return i.holding != nil && i.holding.inUse(v.Set, locked) ||
		slices.ContainsFunc(i.blobs, func(b *blob) bool { return locked.has(b.Inode) && v.Blobs.InUse(b.Digest) })
}
