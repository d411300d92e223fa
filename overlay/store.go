package overlay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// What a caller can tell apart with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrLocked   = locks.ErrHeld
	ErrInvalid  = errors.New("damaged")
)

// snapshotVersion is the version of snapshot.json that is written and read.
const snapshotVersion = 1

// A Store is the snapshots below one state folder. It is safe for any number of
// goroutines and processes on one machine, on a filesystem that has flock and
// can be an upper layer of overlayfs; it is NOT safe on a network filesystem.
type Store struct {
	Space Space // where it mounts; nil is where the process is

	dir               statedir.Dir
	snapshots, failed string         // folders in dir
	place             statedir.Place // where it is; the zero Place in memory
	points            points
	held              statedir.Held // see Hold
}

// A Space is a mount namespace that the process, or its other threads, are not in.
type Space interface {
	Do(f func() error) error  // calls f in there
	Reach(path string) string // is how the process reaches an absolute path in there
}

// Dir is the folder that the store is in.
func (s *Store) Dir() string { return string(s.dir) }

// reach returns how the process reaches a path where the store mounts.
func (s *Store) reach(path string) string {
	if s.Space == nil {
		return path
	}
	return s.Space.Reach(path)
}

// do calls f where the store mounts.
func (s *Store) do(f func() error) error {
	if s.Space == nil {
		return f()
	}
	return s.Space.Do(f)
}

// A Snapshot is what is known of an immutable filesystem difference: the content
// of its snapshot.json.
type Snapshot struct {
	ID      digest.Digest `json:"chainID"`
	DiffID  digest.Digest `json:"diffID"`
	Parent  digest.Digest `json:"parent,omitempty"` // ChainID of what it stands on; "" for nothing
	Size    int64         `json:"size"`             // bytes allocated on disk, hardlinks counted once
	Inodes  int64         `json:"inodes"`
	Created time.Time     `json:"created"`

	// Epoch is the one that Normalize was given, as RFC 3339 has it, or "now" for none: packed
	// with that, the snapshot has its DiffID. It is "" for what was unpacked, or made by a
	// layerbuild that did not note it.
	Epoch string `json:"epoch,omitempty"`

	Place string `json:"place,omitempty"` // where it was made, see Proven

	Label
}

// A Label tells people what a snapshot is of. Nothing depends on it.
type Label struct {
	Kind        string `json:"kind,omitempty"`
	Description string `json:"description,omitempty"`
}

// Open opens the store of a state folder, in that or where SetRoots said, and makes
// it if need be.
func Open(state string) (*Store, error) {
	dir, err := Roots(state)
	if err != nil {
		return nil, err
	}
	if err := statedir.Dir(dir).CheckRoots(); err != nil {
		return nil, fmt.Errorf("root filesystems: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// Mounts are found again in /proc/self/mountinfo, which knows no symlinks.
	if dir, err = filepath.Abs(dir); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, err
	}
	s, err := openIn(dir)
	if err == nil {
		s.place, err = s.dir.Place()
	}
	return s, err
}

// Moved reports whether the store was copied or restored to where it is, and nobody was told yet.
func (s *Store) Moved() bool { return s.place.Moved }

// ToldMoved notes that the user was told.
func (s *Store) ToldMoved() error { return s.dir.Told(s.place) }

// openIn opens the store that is in the folder dir.
func openIn(dir string) (*Store, error) {
	s := &Store{dir: statedir.Dir(dir), snapshots: filepath.Join(dir, "snapshots"), failed: filepath.Join(dir, "failed")}
	for _, dir := range []string{s.snapshots, s.dir.Path("tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Has says whether the snapshot is there and sound, as far as that can be told
// without reading its files. It does not look at its parents.
func (s *Store) Has(id digest.Digest) bool {
	_, err := s.Get(id)
	return err == nil
}

// Get returns what is known of a snapshot. It fails with ErrNotFound, or with
// ErrInvalid if it is damaged.
func (s *Store) Get(id digest.Digest) (Snapshot, error) {
	path, err := s.path(id)
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := readSnapshot(path, id)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return snap, nil
}

// path returns the folder of a snapshot, whether it exists or not.
func (s *Store) path(id digest.Digest) (string, error) {
	if err := id.Validate(); err != nil || id.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("snapshot %q: %w: not a sha256 digest", id, ErrNotFound)
	}
	return filepath.Join(s.snapshots, id.Encoded()), nil
}

// fs returns the folder that holds the difference of a snapshot that exists.
func (s *Store) fs(id digest.Digest) string {
	return filepath.Join(s.snapshots, id.Encoded(), "fs")
}

func readSnapshot(path string, id digest.Digest) (Snapshot, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, ErrNotFound
	}
	text, err := statedir.ReadFile(filepath.Join(path, "snapshot.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return Snapshot{}, ErrNotFound // removed just now
		}
		return Snapshot{}, fmt.Errorf("%w: snapshot.json is missing", ErrInvalid)
	}
	if statedir.Irregular(err) {
		return Snapshot{}, fmt.Errorf("%w: snapshot.json is not a file", ErrInvalid)
	}
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := parseSnapshot(text, id)
	if err != nil {
		return Snapshot{}, err
	}
	if info, err := os.Lstat(filepath.Join(path, "fs")); err != nil || !info.IsDir() {
		return Snapshot{}, fmt.Errorf("%w: its folder fs is missing", ErrInvalid)
	}
	return snap, nil
}

// parseSnapshot reads a snapshot.json that is to be of the given id. Since the
// id is a digest of parent and DiffID, these are proven, and no chain of parents
// can be a circle.
func parseSnapshot(text []byte, id digest.Digest) (Snapshot, error) {
	var file snapshotFile
	if err := json.Unmarshal(text, &file); err != nil {
		return Snapshot{}, fmt.Errorf("%w: snapshot.json: %w", ErrInvalid, err)
	}
	snap := file.Snapshot
	switch {
	case file.Version != snapshotVersion:
		return Snapshot{}, fmt.Errorf("%w: snapshot.json has version %d, not %d", ErrInvalid, file.Version, snapshotVersion)
	case snap.DiffID.Validate() != nil, snap.ID != id, snap.ID != chainID(snap.Parent, snap.DiffID):
		return Snapshot{}, fmt.Errorf("%w: snapshot.json is of another snapshot", ErrInvalid)
	}
	return snap, nil
}

type snapshotFile struct {
	Version int `json:"version"`
	Snapshot
}

// chainID is the id of the snapshot with the given DiffID on parent (image-spec,
// config.md, "Layer ChainID"). It is asked for each snapshot of a listing.
func chainID(parent, diffID digest.Digest) digest.Digest {
	if parent == "" {
		return diffID
	}
	sum := sha256.Sum256([]byte(parent + " " + diffID))
	return digest.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// chain returns the fs folders of id and of all below it, highest first, which
// is overlayfs's order. The caller holds id, and thereby all of them.
func (s *Store) chain(id digest.Digest) ([]string, error) {
	var folders []string
	for id != "" {
		snap, err := s.Get(id)
		if err != nil {
			return nil, err
		}
		folders = append(folders, s.fs(id))
		id = snap.Parent
	}
	return folders, nil
}

// use holds a snapshot against removal until the returned file is closed.
func (s *Store) use(ctx context.Context, id digest.Digest) (*os.File, error) {
	path, err := s.path(id)
	if err != nil {
		return nil, err
	}
	f, err := use(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return f, nil
}

// Remove removes a snapshot. It fails with ErrLocked while any process uses it
// or something else stands on it, and with ErrNotFound. Once it returns, also
// with an error from removing the files, either nothing has happened or the
// snapshot is gone: the files go to tmp/ first.
func (s *Store) Remove(ctx context.Context, id digest.Digest) error {
	return s.remove(id, func() (string, error) { return s.child(ctx, id) }, func() {})
}

// remove removes a snapshot that child finds nothing to stand on, and says when
// it is gone from its place.
func (s *Store) remove(id digest.Digest, child func() (string, error), gone func()) error {
	path, err := s.path(id)
	if err != nil {
		return err
	}
	// Whoever commits a child holds its parent. So no child can come up while
	// the parent is held exclusive.
	lock, err := lockFolder(path, locks.Exclusive)
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	defer lock.Close()
	above, err := child()
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	if above != "" {
		return fmt.Errorf("remove snapshot %s: %w: %s stands on it", id, ErrLocked, above)
	}
	grave, err := s.dir.TakeAway(path, statedir.Overlays)
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, found(err))
	}
	gone()
	return os.RemoveAll(grave)
}

// child tells of something that stands on the snapshot id, or returns "".
func (s *Store) child(ctx context.Context, id digest.Digest) (string, error) {
	entries, err := os.ReadDir(s.snapshots)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		// One that cannot be read can never be mounted: it needs no parent.
		child, err := s.Get(digest.NewDigestFromEncoded(digest.SHA256, e.Name()))
		if err == nil && child.Parent == id {
			return "snapshot " + string(child.ID), nil
		}
	}
	if entries, err = os.ReadDir(s.failed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		kept, err := readKept(filepath.Join(s.failed, e.Name()))
		if err == nil && kept.Parent == id {
			return fmt.Sprintf("the kept layer %q", e.Name()), nil
		}
	}
	return "", nil
}

// PutAside moves a snapshot that turned out to be damaged to corrupt/, for
// inspection, and returns where it is. It is not found from then on. Whoever has
// it mounted goes on reading it.
func (s *Store) PutAside(id digest.Digest) (string, error) {
	path, err := s.path(id)
	if err != nil {
		return "", err
	}
	to, err := s.dir.PutAside(path, id.Encoded())
	if err != nil {
		return "", fmt.Errorf("put snapshot %s aside: %w", id, found(err))
	}
	s.Release(id)
	return to, nil
}

// IsAside reports whether a snapshot was put aside at any time.
func (s *Store) IsAside(id digest.Digest) bool {
	aside, err := filepath.Glob(s.dir.Path("corrupt", id.Encoded()+"*"))
	return err == nil && len(aside) > 0
}
