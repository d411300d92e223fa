package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// A Listed is one snapshot of a List.
type Listed struct {
	Snapshot
	Err      error // ErrInvalid, if it is damaged: ID, Disk and DiskInodes are all that is known then
	Children int   // snapshots and kept layers that stand on it

	Disk       int64 // bytes allocated on disk, its own files and those of its difference
	DiskInodes int64
	Inode      uint64 // of its folder, which is locked while it is in use
	Stamp      Stamp  // zero if it is damaged
}

// A Stamp tells a snapshot.json, which is written once, from any other that was or
// will be there.
type Stamp struct {
	Inode   uint64
	Changed int64 // ctime, in nanoseconds since 1970
}

// A Kept is a difference that Mutable.Keep kept.
type Kept struct {
	Name        string
	Parent      digest.Digest
	Description string
	Time        time.Time // when it was kept
	Size        int64     // bytes allocated on disk, hardlinks counted once
	Inodes      int64
	Err         error // ErrInvalid, if it is damaged
}

// A Listing is all that is in a store, at one time and without any lock.
type Listing struct {
	Snapshots map[digest.Digest]*Listed
	Kept      []Kept
}

// List reads what is known of all snapshots and kept layers. Sizes are those of
// snapshot.json: no snapshot's files are looked at, only a kept layer's. What a
// caller remembers of a snapshot that had this stamp is not read again: known
// returns it, and is called by several goroutines. It may be nil.
func (s *Store) List(ctx context.Context, known func(id digest.Digest, at Stamp) (Listed, bool)) (*Listing, error) {
	names, err := folderNames(s.snapshots)
	if err != nil {
		return nil, err
	}
	read := make([]*Listed, len(names))
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(names) && ctx.Err() == nil; i += workers {
				read[i] = s.listed(names[i], known)
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	l := &Listing{Snapshots: make(map[digest.Digest]*Listed, len(names))}
	for _, snap := range read {
		if snap != nil {
			l.Snapshots[snap.ID] = snap
		}
	}
	if l.Kept, err = s.kept(ctx); err != nil {
		return nil, err
	}
	for _, snap := range l.Snapshots {
		l.addChild(snap.Parent)
	}
	for _, kept := range l.Kept {
		l.addChild(kept.Parent)
	}
	return l, nil
}

func (l *Listing) addChild(parent digest.Digest) {
	if snap := l.Snapshots[parent]; snap != nil {
		snap.Children++
	}
}

// listed returns nil for what is no snapshot, or was removed just now.
func (s *Store) listed(name string, known func(digest.Digest, Stamp) (Listed, bool)) *Listed {
	id := digest.Digest("sha256:" + name)
	path := s.snapshots + "/" + name
	var own usage
	var file unix.Stat_t
	if unix.Lstat(path+"/snapshot.json", &file) == nil {
		own.add(&file)
	}
	at := Stamp{file.Ino, unix.TimespecToNsec(file.Ctim)}
	if known != nil {
		if l, ok := known(id, at); ok && chainID(l.Parent, l.DiffID) == id {
			l.ID, l.Stamp = id, at
			return &l
		}
	}
	snap, err := s.Get(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		var all usage
		_ = all.addTree(path) // as far as it can be read
		return &Listed{Snapshot: Snapshot{ID: id}, Err: err, Disk: all.bytes, DiskInodes: all.inodes}
	}
	folder := own.addPath(path)
	return &Listed{Snapshot: snap, Disk: own.bytes + snap.Size, DiskInodes: own.inodes + snap.Inodes, Inode: folder, Stamp: at}
}

// kept lists what Keep kept.
func (s *Store) kept(ctx context.Context) ([]Kept, error) {
	names, err := folderNames(s.failed)
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(s.failed, name)
		file, err := readKept(path)
		kept := Kept{Name: name, Parent: file.Parent, Description: file.Description, Time: file.Kept, Err: err}
		var u usage
		if err := u.addTree(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		kept.Size, kept.Inodes = u.bytes, u.inodes
		all = append(all, kept)
	}
	return all, nil
}

func folderNames(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// InUse says whether any process uses a snapshot right now.
func (s *Store) InUse(id digest.Digest) bool {
	path, err := s.path(id)
	return err == nil && inUse(path)
}

// KeptInUse says whether any process works on what was kept under a name.
func (s *Store) KeptInUse(name string) bool {
	path, err := s.keptPath(name)
	return err == nil && inUse(path)
}

func inUse(path string) bool {
	lock, err := lockFolder(path, locks.Exclusive)
	if err == nil {
		lock.Close()
	}
	return errors.Is(err, ErrLocked)
}

// Hold keeps a snapshot, and thereby all below it, from being removed until the
// store is closed. It fails with ErrNotFound, and ErrInvalid if it is damaged.
func (s *Store) Hold(ctx context.Context, id digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[id] != nil {
		return nil
	}
	lock, err := s.use(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.Get(id); err != nil {
		lock.Close()
		return err
	}
	s.held[id] = lock
	return nil
}

// Close gives up what Hold holds.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for id, lock := range s.held {
		failed = append(failed, lock.Close())
		delete(s.held, id)
	}
	return errors.Join(failed...)
}

// Release gives up one snapshot that Hold holds.
func (s *Store) Release(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lock := s.held[id]; lock != nil {
		lock.Close()
		delete(s.held, id)
	}
}

// RemoveListed is Remove for one that has many to remove. What stands on the
// snapshot it knows from the listing, which it brings up to date: it reads only
// what has come up since.
func (s *Store) RemoveListed(ctx context.Context, l *Listing, id digest.Digest) error {
	return s.remove(id, func() (string, error) {
		if err := s.refresh(l); err != nil {
			return "", err
		}
		if snap := l.Snapshots[id]; snap != nil && snap.Children > 0 {
			return "another snapshot", ctx.Err()
		}
		return "", ctx.Err()
	}, func() { l.drop(id) })
}

// refresh adds to a listing what was committed or kept since.
func (s *Store) refresh(l *Listing) error {
	names, err := folderNames(s.snapshots)
	if err != nil {
		return err
	}
	for _, name := range names {
		if l.Snapshots[digest.Digest("sha256:"+name)] != nil {
			continue
		}
		if snap := s.listed(name, nil); snap != nil {
			l.Snapshots[snap.ID] = snap
			l.addChild(snap.Parent)
		}
	}
	if names, err = folderNames(s.failed); err != nil {
		return err
	}
	for _, name := range names {
		kept, err := readKept(filepath.Join(s.failed, name))
		if err == nil && !slices.ContainsFunc(l.Kept, func(k Kept) bool { return k.Name == name && k.Parent == kept.Parent }) {
			l.Kept = append(l.Kept, Kept{Name: name, Parent: kept.Parent})
			l.addChild(kept.Parent)
		}
	}
	return nil
}

// drop takes a snapshot that is gone out of the listing.
func (l *Listing) drop(id digest.Digest) {
	if snap := l.Snapshots[id]; snap != nil {
		if parent := l.Snapshots[snap.Parent]; parent != nil {
			parent.Children--
		}
		delete(l.Snapshots, id)
	}
}

// DropKept takes a kept layer that is gone out of the listing.
func (l *Listing) DropKept(name string) {
	l.Kept = slices.DeleteFunc(l.Kept, func(k Kept) bool {
		if k.Name != name {
			return false
		}
		if parent := l.Snapshots[k.Parent]; parent != nil {
			parent.Children--
		}
		return true
	})
}

// RemoveKept removes what was kept under a name. It fails with ErrLocked while
// somebody works on it, and with ErrNotFound.
func (s *Store) RemoveKept(name string) error {
	path, err := s.keptPath(name)
	if err != nil {
		return err
	}
	lock, err := lockFolder(path, locks.Exclusive)
	if err == nil {
		defer lock.Close()
		err = bury(path, s.tmp)
	}
	if err != nil {
		return fmt.Errorf("remove kept layer %q: %w", name, err)
	}
	return nil
}
