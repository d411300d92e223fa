package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
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
	Place    int   // in the Listing's Snapshots
	Children int   // snapshots and kept layers that stand on it

	Disk       int64 // bytes allocated on disk, its own files and those of its difference
	DiskInodes int64
	Stamp      Stamp
}

// A Stamp tells a folder in which nothing has changed from any other that was or
// will be there. In the folder of a snapshot nothing ever changes.
type Stamp struct {
	Inode   uint64 // locked while the snapshot is in use
	Changed int64  // ctime, in nanoseconds since 1970
}

func stampOf(st *unix.Stat_t) Stamp { return Stamp{st.Ino, unix.TimespecToNsec(st.Ctim)} }

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
	Snapshots []*Listed // in the order of their ids
	Kept      []Kept
	Stamp     Stamp // of the folder of all snapshots, which changes with each that comes or goes
	Same      int   // how many are handed over from an earlier listing

	byID map[digest.Digest]*Listed
	came *arrivals // since the listing; nil until something is removed
}

// Find returns a snapshot of the listing, or nil.
func (l *Listing) Find(id digest.Digest) *Listed { return l.byID[id] }

// List reads what is known of all snapshots and kept layers. Sizes are those of
// snapshot.json: no snapshot's files are looked at, only a kept layer's. A snapshot
// that has the Stamp it had in an earlier listing is not read again, but handed
// over from that, which is of no use any more. It may be empty.
func (s *Store) List(ctx context.Context, earlier Listing) (*Listing, error) {
	dir, err := os.Open(s.snapshots)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	all, stamp, err := named(dir, earlier)
	if err != nil {
		return nil, err
	}
	var same atomic.Int64
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(all) && ctx.Err() == nil; i += workers {
				was := all[i]
				if all[i] = s.listed(dir, was); all[i] == was {
					same.Add(1)
				}
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	l := &Listing{Stamp: stamp, Same: int(same.Load()), byID: make(map[digest.Digest]*Listed, len(all))}
	for _, snap := range all {
		if snap != nil {
			snap.Place = len(l.Snapshots)
			l.Snapshots = append(l.Snapshots, snap)
			l.byID[snap.ID] = snap
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
	if snap := l.byID[parent]; snap != nil {
		snap.Children++
	}
}

// named returns what is in the folder of all snapshots, by name: as it was in an
// earlier listing, or with only its ID.
func named(dir *os.File, earlier Listing) ([]*Listed, Stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, Stamp{}, err
	}
	if stampOf(&st) == earlier.Stamp {
		return earlier.Snapshots, earlier.Stamp, nil
	}
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	all := make([]*Listed, len(names))
	rest := earlier.Snapshots
	for i, name := range names {
		id := digest.Digest("sha256:" + name)
		for len(rest) > 0 && rest[0].ID < id {
			rest = rest[1:]
		}
		if all[i] = (&Listed{Snapshot: Snapshot{ID: id}}); len(rest) > 0 && rest[0].ID == id {
			all[i] = rest[0]
		}
	}
	return all, stampOf(&st), err
}

// listed returns a snapshot as it was, if it has the same Stamp, or reads it; nil
// for what is no snapshot, or was removed just now.
func (s *Store) listed(dir *os.File, was *Listed) *Listed {
	name := was.ID.Encoded()
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	stamp := stampOf(&st)
	if was.Stamp == stamp && chainID(was.Parent, was.DiffID) == was.ID {
		return was
	}
	path := s.snapshots + "/" + name
	snap, err := s.Get(was.ID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	var own usage
	if err != nil {
		_ = own.addTree(path) // as far as it can be read
		return &Listed{Snapshot: Snapshot{ID: was.ID}, Err: err, Disk: own.bytes, DiskInodes: own.inodes, Stamp: stamp}
	}
	own.add(&st)
	own.addPath(path + "/snapshot.json")
	return &Listed{Snapshot: snap, Disk: own.bytes + snap.Size, DiskInodes: own.inodes + snap.Inodes, Stamp: stamp}
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
	path, err := s.path(id)
	if err != nil {
		return err
	}
	_, err = s.held.Hold(path, func() (*os.File, error) {
		lock, err := s.use(ctx, id)
		if err != nil {
			return nil, err
		}
		if _, err := s.Get(id); err != nil {
			lock.Close()
			return nil, err
		}
		return lock, nil
	})
	return err
}

// Close gives up what Hold holds.
func (s *Store) Close() error {
	return errors.Join(s.held.Close(), s.dropPoints())
}

// Release gives up one snapshot that Hold holds.
func (s *Store) Release(id digest.Digest) {
	if path, err := s.path(id); err == nil {
		s.held.Release(path)
	}
}
