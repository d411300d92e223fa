package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A Mutable is a filesystem difference that is being made. It belongs to one
// goroutine of one process; the package documentation tells its life.
type Mutable struct {
	store  *Store
	parent digest.Digest
	dir    string   // in tmp/; after Commit in snapshots/
	lock   *os.File // holds dir
	held   *os.File // holds the parent; nil if there is none

	point     string // where it is mounted; "" if it is not
	committed bool
	made      map[string]bool // mountpoints that were made, relative to the root
	epoch     string          // see Snapshot.Epoch
	usage     *usage          // what fs holds; nil if that was not normalized
}

// Prepare begins a difference on the parent, or on nothing if parent is "". It
// fails with ErrNotFound and ErrInvalid, for the parent or one below it.
func (s *Store) Prepare(ctx context.Context, parent digest.Digest) (*Mutable, error) {
	m := &Mutable{store: s, parent: parent, made: map[string]bool{}}
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a layer: %w", err), m.Drop())
	}
	return m, nil
}

func (m *Mutable) prepare(ctx context.Context) (err error) {
	if m.parent != "" {
		if m.held, err = m.store.use(ctx, m.parent); err != nil {
			return err
		}
	}
	folders, err := m.store.chain(m.parent)
	if err != nil {
		return err
	}
	if m.lock, err = m.store.dir.NewFolder(statedir.Overlays, locks.Shared); err != nil {
		return err
	}
	m.dir = m.lock.Name()
	if err := os.Mkdir(m.Upper(), 0o755); err != nil {
		return err
	}
	if len(folders) == 0 {
		err := os.Chmod(m.Upper(), 0o755) // whatever the umask
		return errors.Join(err, os.Chtimes(m.Upper(), time.Time{}, time.Unix(0, 0)))
	}
	// The root folder of a mount is that of the upper folder.
	return copyAttributes(folders[0], m.Upper())
}

// Upper is the folder that holds the difference, in overlayfs's form. After
// Commit it is that of the snapshot.
func (m *Mutable) Upper() string { return filepath.Join(m.dir, "fs") }

// Mount mounts the parents and the difference as one writable root filesystem,
// and returns its absolute path. The mountpoints are made to exist in it, and
// taken away again by Normalize.
//
// Nothing that is written there needs to reach the disk before Commit, so the
// mount is volatile: fsync costs nothing in it.
func (m *Mutable) Mount(ctx context.Context, mountpoints ...Mountpoint) (string, error) {
	root, err := m.mount(ctx, mountpoints)
	if err != nil {
		return "", fmt.Errorf("mount the root filesystem: %w", errors.Join(err, m.Unmount()))
	}
	return root, nil
}

func (m *Mutable) mount(ctx context.Context, mountpoints []Mountpoint) (string, error) {
	if m.committed || m.point != "" || m.dir == "" {
		return "", errors.New("it is mounted, committed or dropped already")
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	folders, err := m.store.chain(m.parent)
	if err != nil {
		return "", err
	}
	// A work folder that had a volatile mount is refused by the next one.
	work := filepath.Join(m.dir, "work")
	if err := os.RemoveAll(work); err != nil {
		return "", err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return "", err
	}
	if m.point, err = m.store.mount(stack{lowers: folders, upper: m.Upper(), work: work}); err != nil {
		return "", err
	}
	m.usage = nil
	root := m.store.reach(m.point)
	for _, p := range mountpoints {
		if err := m.ensure(root, p); err != nil {
			return "", err
		}
	}
	return root, nil
}

// Unmount ends Mount. It fails with ErrLocked if some process goes on using the
// mount. It is no error if it is not mounted.
func (m *Mutable) Unmount() error {
	if m.point == "" {
		return nil
	}
	if err := m.store.unmount(m.point); err != nil {
		return err
	}
	point := m.point
	m.point = ""
	return os.Remove(m.store.reach(point))
}

// Commit makes the difference the snapshot with the given DiffID on its parent,
// and returns it. It is on disk when Commit returns. If there is such a snapshot
// already, that one is returned and the difference forgotten; a damaged one is
// replaced. The snapshot stays in use until Drop.
//
// A difference that was not normalized keeps its content exactly. Only what is
// none is taken out: mountpoints, and what overlayfs has marked for itself.
func (m *Mutable) Commit(ctx context.Context, diffID digest.Digest, label Label) (Snapshot, error) {
	snap, err := m.commit(ctx, diffID, label)
	if err != nil {
		return Snapshot{}, fmt.Errorf("commit a layer: %w", err)
	}
	return snap, nil
}

func (m *Mutable) commit(ctx context.Context, diffID digest.Digest, label Label) (Snapshot, error) {
	if m.committed || m.dir == "" {
		return Snapshot{}, errors.New("it is committed or dropped already")
	}
	if err := diffID.Validate(); err != nil {
		return Snapshot{}, fmt.Errorf("DiffID %q: %w", diffID, err)
	}
	if err := m.Unmount(); err != nil {
		return Snapshot{}, err
	}
	if m.usage == nil {
		if err := m.Shape(ctx); err != nil {
			return Snapshot{}, err
		}
	}
	snap := Snapshot{
		ID: chainID(m.parent, diffID), DiffID: diffID, Parent: m.parent,
		Size: m.usage.bytes, Inodes: m.usage.inodes,
		Created: time.Now().UTC().Truncate(time.Second), Epoch: m.epoch, Place: m.store.place.ID, Label: label,
	}
	if err := m.seal(ctx, snap); err != nil {
		return Snapshot{}, err
	}
	return m.publish(ctx, snap)
}

// seal makes the folder what a snapshot is, and brings it to the disk.
func (m *Mutable) seal(ctx context.Context, snap Snapshot) error {
	if err := m.clear("mutable.json"); err != nil {
		return err
	}
	text, err := json.MarshalIndent(snapshotFile{Version: snapshotVersion, Snapshot: snap}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "snapshot.json"), append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.sync(); err != nil {
		return fmt.Errorf("write %s to disk: %w", m.dir, err)
	}
	return nil
}

// aHandful is how many files and folders are brought to the disk one by one.
const aHandful = 16

// sync brings the folder to the disk. One syncfs does what an fsync of each file
// and folder would do, in one sweep over the disk; for more than a handful of
// them it is many times faster. But it writes what others have pending on this
// filesystem as well, which a small layer should not have to wait for. It reports
// what failed to be written (since Linux 5.8).
func (m *Mutable) sync() error {
	if m.usage.inodes <= aHandful {
		err := filepath.WalkDir(m.dir, syncEntry)
		if !errors.Is(err, errNoFsync) {
			return err
		}
	}
	return unix.Syncfs(int(m.lock.Fd()))
}

// errNoFsync: what is neither a file nor a folder cannot be opened to be synced.
var errNoFsync = errors.New("no file or folder")

// syncEntry is a fs.WalkDirFunc.
func syncEntry(path string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if !entry.IsDir() && !entry.Type().IsRegular() {
		return errNoFsync
	}
	return statedir.Sync(path)
}

// clear removes what only a mount needs, and more.
func (m *Mutable) clear(more ...string) error {
	for _, name := range append(more, "work") {
		if err := os.RemoveAll(filepath.Join(m.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// publish renames the folder to its place in snapshots/, unless a sound one is there.
func (m *Mutable) publish(ctx context.Context, snap Snapshot) (Snapshot, error) {
	path, err := m.store.path(snap.ID)
	if err != nil {
		return Snapshot{}, err
	}
	for {
		err := unix.Rename(m.dir, path)
		if err == nil {
			m.dir, m.committed = path, true
			return snap, statedir.Sync(m.store.snapshots)
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return Snapshot{}, fmt.Errorf("rename to %s: %w", path, err)
		}
		there, err := m.adopt(ctx, snap.ID, path)
		switch {
		case err == nil:
			return there, nil
		case errors.Is(err, errUnproven):
			if err := m.store.Discard(snap.ID); err != nil && !errors.Is(err, ErrNotFound) {
				return Snapshot{}, err
			}
		case errors.Is(err, ErrInvalid):
			if _, err := m.store.PutAside(snap.ID); err != nil && !errors.Is(err, ErrNotFound) {
				return Snapshot{}, err
			}
		case !errors.Is(err, ErrNotFound): // removed just now: try again
			return Snapshot{}, err
		}
	}
}

// errUnproven says that a snapshot may have lost something as the store was copied.
var errUnproven = errors.New("not proven")

// adopt takes the snapshot that is there for our own.
func (m *Mutable) adopt(ctx context.Context, id digest.Digest, path string) (Snapshot, error) {
	lock, err := m.store.use(ctx, id)
	if err != nil {
		return Snapshot{}, err
	}
	there, err := m.store.Get(id)
	if err == nil && !m.store.Proven(there) {
		err = errUnproven
	}
	if err != nil {
		lock.Close()
		return Snapshot{}, err
	}
	err = os.RemoveAll(m.dir)
	m.lock.Close()
	m.dir, m.lock, m.committed = path, lock, true
	return there, err
}

// Drop ends the Mutable: unmounts it and removes it, unless it was committed,
// in which case the snapshot is no longer in use by it. It may be called more
// than once, and in any state.
func (m *Mutable) Drop() error {
	defer m.close()
	if m.dir == "" || m.committed {
		return nil
	}
	var err error
	if m.point != "" {
		err = m.store.leave(m.point)
	}
	if err = errors.Join(err, os.RemoveAll(m.dir)); err != nil {
		return fmt.Errorf("drop %s: %w", m.dir, err)
	}
	return nil
}

// close gives up what the Mutable holds.
func (m *Mutable) close() {
	m.lock.Close()
	m.held.Close()
	m.dir, m.point = "", ""
}
