package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A Diff is what Normalize found.
type Diff struct {
	Empty   bool     // nothing differs from the parents
	Sockets []string // sockets, which no image can hold and which were left out: paths from the root, sorted
}

// Normalize makes the difference a function of what was done, not of when or how
// often. It is called between Unmount and Commit, and may be called again. What
// it leaves:
//
//   - Every mtime is a whole second, and not later than the epoch unless that is
//     zero. So a snapshot says what the blob says that is packed from it, and a
//     later step sees the same whether its base was built or pulled. That of a
//     whiteout is zero.
//   - No leftovers: no mountpoints that were made for Mount and nothing was put
//     in, no sockets, no whiteouts or opaque marks with nothing of the parents
//     to hide, no attributes of overlayfs's own but that mark.
//   - No folder that equals the parents': of the same owner, mode and extended
//     attributes, and with no difference inside. Its mtime does not count: that
//     changes with every file that comes and goes.
//   - No file, symlink, device or fifo that equals the parents': of the same
//     owner, mode, extended attributes, content and mtime. overlayfs copies a
//     file up when it is opened for writing or its attributes are set, whether
//     anything changes or not. Content is only compared if all else is equal,
//     which is rare, so it costs next to nothing. A touch is a change if the
//     epoch is not the mtime that the file had. A hardlinked file stays.
//
// It reads each folder once, and works on several at a time.
func (m *Mutable) Normalize(ctx context.Context, epoch time.Time) (Diff, error) {
	diff, err := m.normalize(ctx, &normalizer{epoch: epoch})
	if err != nil {
		return Diff{}, fmt.Errorf("normalize %s: %w", m.Upper(), err)
	}
	return diff, nil
}

func (m *Mutable) normalize(ctx context.Context, n *normalizer) (Diff, error) {
	if m.committed || m.point != "" || m.dir == "" {
		return Diff{}, errors.New("it is mounted, committed or dropped")
	}
	n.made, n.slots = m.made, make(chan struct{}, runtime.GOMAXPROCS(0)-1)
	n.ctx, n.fail = context.WithCancelCause(ctx)
	defer n.fail(nil)
	up, err := openFolder(unix.AT_FDCWD, m.Upper())
	if err != nil {
		return Diff{}, err
	}
	defer up.Close()
	view, err := m.store.view(m.parent)
	if err != nil {
		return Diff{}, err
	}
	defer view.Release()
	low, err := openFolder(unix.AT_FDCWD, view.Root)
	if err != nil {
		return Diff{}, err
	}
	defer low.Close()
	empty, err := n.root(up, low)
	if cause := context.Cause(n.ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return Diff{}, err
	}
	m.usage = &n.usage
	slices.Sort(n.sockets)
	return Diff{Empty: empty, Sockets: n.sockets}, nil
}

// A normalizer walks an upper folder and, beside it, the merged parents.
type normalizer struct {
	ctx   context.Context
	fail  context.CancelCauseFunc
	slots chan struct{} // one for each goroutine beside the first
	epoch time.Time
	exact bool // leave all content as it is: take out only what Mount and overlayfs have put in
	made  map[string]bool

	mu      sync.Mutex
	usage   usage
	sockets []string
}

// An entry is one name in an upper folder, and in the same folder of the parents.
type entry struct {
	up, low *os.File // the folders; low is nil if the parents have none there
	name    string
	rel     string // path from the root
	st      unix.Stat_t
	below   *unix.Stat_t // what the parents have under this name; nil for nothing
}

func (e *entry) path() string    { return at(e.up, e.name) }
func (e *entry) lowPath() string { return at(e.low, e.name) }

// at names a file in an open folder, for calls that know no folder descriptors.
// Unlike a full path it never gets too long (PATH_MAX), however deep the folder.
func at(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

func openFolder(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// root normalizes the whole, and says whether it is empty.
func (n *normalizer) root(up, low *os.File) (empty bool, err error) {
	e := &entry{up: up, low: low, name: "."}
	if err := e.stat(); err != nil {
		return false, err
	}
	left, err := n.folder(up, low, "")
	if err != nil {
		return false, err
	}
	same, err := e.sameAttributes()
	if err != nil {
		return false, err
	}
	return same && left == 0, n.keep(e)
}

// folder normalizes what is in the folder up, and returns how many names are
// left in it. low is the same folder of the parents, or nil.
func (n *normalizer) folder(up, low *os.File, rel string) (left int64, err error) {
	names, err := up.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	var kept atomic.Int64
	var others errgroup.Group
	for _, name := range names {
		e := &entry{up: up, low: low, name: name, rel: filepath.Join(rel, name)}
		one := func() error {
			keep, err := n.one(e)
			if keep {
				kept.Add(1)
			}
			return n.check(e, err)
		}
		if err = n.check(e, e.stat()); err != nil {
			break
		}
		if e.isFolder() && n.begin(&others, one) {
			continue
		}
		if err = one(); err != nil {
			break
		}
	}
	if oerr := others.Wait(); err == nil {
		err = oerr
	}
	return kept.Load(), err
}

// check stops the walk if there is an error. Only the first one counts, which
// is about the deepest entry.
func (n *normalizer) check(e *entry, err error) error {
	if err != nil {
		n.fail(fmt.Errorf("/%s: %w", e.rel, err))
	}
	return n.ctx.Err()
}

// begin runs f beside the caller, if there is a processor left for it.
func (n *normalizer) begin(group *errgroup.Group, f func() error) bool {
	select {
	case n.slots <- struct{}{}:
		group.Go(func() error {
			defer func() { <-n.slots }()
			return f()
		})
		return true
	default:
		return false
	}
}

// one normalizes one entry, and says whether it is left.
func (n *normalizer) one(e *entry) (keep bool, err error) {
	if e.isFolder() {
		keep, err = n.subfolder(e)
	} else {
		keep, err = n.file(e)
	}
	if err == nil && keep {
		err = n.keep(e)
	}
	return keep, err
}

func (e *entry) isFolder() bool { return isFolder(&e.st) }

func (e *entry) isWhiteout() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFCHR && e.st.Rdev == 0 }

func (e *entry) stat() error {
	if err := unix.Fstatat(int(e.up.Fd()), e.name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	e.below, err = statIn(e.low, e.name)
	return err
}

// statIn tells what is in a folder under a name: nil for nothing, also if there is no
// such folder.
func statIn(dir *os.File, name string) (*unix.Stat_t, error) {
	if dir == nil {
		return nil, nil
	}
	st := new(unix.Stat_t)
	err := unix.Fstatat(int(dir.Fd()), name, st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return st, err
}

func isFolder(st *unix.Stat_t) bool { return st != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR }

// file normalizes anything but a folder.
func (n *normalizer) file(e *entry) (keep bool, err error) {
	switch kind := e.st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFREG && e.st.Size == 0 && n.made[e.rel]:
		return e.remove(0)
	case n.exact:
		return true, nil
	case e.isWhiteout():
		if e.below == nil {
			return e.remove(0)
		}
		return true, nil
	case kind == unix.S_IFSOCK:
		n.mu.Lock()
		n.sockets = append(n.sockets, "/"+e.rel)
		n.mu.Unlock()
		return e.remove(0)
	}
	same, err := n.equal(e)
	if err != nil || !same {
		return true, err
	}
	return false, unix.Unlinkat(int(e.up.Fd()), e.name, 0)
}

// subfolder normalizes a folder and all that is in it.
func (n *normalizer) subfolder(e *entry) (keep bool, err error) {
	up, err := openFolder(int(e.up.Fd()), e.name)
	if err != nil {
		return false, err
	}
	defer up.Close()
	low, err := n.lowFolder(e)
	if err != nil {
		return false, err
	}
	defer low.Close()
	left, err := n.folder(up, low, e.rel)
	if err != nil || left > 0 {
		return true, err
	}
	if n.made[e.rel] {
		return e.remove(unix.AT_REMOVEDIR)
	}
	if n.exact || low == nil {
		return true, nil
	}
	same, err := e.sameAttributes()
	if err != nil || !same {
		return true, err
	}
	return false, unix.Unlinkat(int(e.up.Fd()), e.name, unix.AT_REMOVEDIR)
}

// lowFolder opens what is to be seen of the parents in a folder: nil if there is
// no such folder, or if it is hidden. overlayfs marks many a folder as opaque that
// has nothing to hide, only because it is new; that mark is removed.
func (n *normalizer) lowFolder(e *entry) (*os.File, error) {
	hides, err := isOpaque(e.path())
	if err != nil {
		return nil, err
	}
	var low *os.File
	if isFolder(e.below) {
		if low, err = openFolder(int(e.low.Fd()), e.name); err != nil {
			return nil, err
		}
	}
	if !hides {
		return low, nil
	}
	if low != nil {
		switch _, err := low.Readdirnames(1); {
		case err == nil:
			return nil, low.Close()
		case !errors.Is(err, io.EOF):
			low.Close()
			return nil, err
		}
	}
	if err := unix.Lremovexattr(e.path(), opaque); err != nil {
		low.Close()
		return nil, err
	}
	return low, nil
}

// remove removes what has come into the upper folder and is no content. If the
// parents have something of that name, it was removed before this came, and it
// stays removed: keep tells of the whiteout. It then is like any other new one.
func (e *entry) remove(flags int) (keep bool, err error) {
	if err := unix.Unlinkat(int(e.up.Fd()), e.name, flags); err != nil || e.below == nil {
		return false, err
	}
	if err := unix.Mknodat(int(e.up.Fd()), e.name, unix.S_IFCHR, 0); err != nil {
		return false, err
	}
	return true, e.stat()
}

// keep gives what is left its final attributes, and counts it.
func (n *normalizer) keep(e *entry) error {
	names, err := listXattrs(e.path())
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == opaque && e.name != "." || !isPrivate(name) {
			continue
		}
		// ENODATA: it has just been taken from another name of the file.
		if err := unix.Lremovexattr(e.path(), name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove attribute %s: %w", name, err)
		}
	}
	// A folder's mtime changes when something is taken out of it.
	mtime := n.clamp(e.st.Mtim)
	if e.isWhiteout() {
		mtime = unix.Timespec{} // no tar says it; a filesystem made of the folder does
	}
	if mtime != e.st.Mtim || e.isFolder() {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
		if err := unix.UtimesNanoAt(int(e.up.Fd()), e.name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set mtime: %w", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.usage.add(&e.st)
	return nil
}

// clamp is the whole second that an mtime becomes.
func (n *normalizer) clamp(t unix.Timespec) unix.Timespec {
	if n.exact {
		return t
	}
	if !n.epoch.IsZero() {
		t.Sec = min(t.Sec, n.epoch.Unix())
	}
	return unix.Timespec{Sec: t.Sec}
}

// sameAttributes says whether type, mode, owner and extended attributes are those
// of what the parents have.
func (e *entry) sameAttributes() (bool, error) {
	a, b := &e.st, e.below
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid {
		return false, nil
	}
	of, err := xattrs(e.path())
	if err != nil {
		return false, err
	}
	other, err := xattrs(e.lowPath())
	return maps.Equal(of, other), err
}

// equal says whether an entry that is no folder is what the parents have there.
func (n *normalizer) equal(e *entry) (bool, error) {
	a, b := &e.st, e.below
	if b == nil || a.Nlink > 1 || a.Size != b.Size || a.Mtim != b.Mtim && n.clamp(a.Mtim) != b.Mtim {
		return false, nil
	}
	same, err := e.sameAttributes()
	if err != nil || !same {
		return false, err
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return n.sameContent(e)
	case unix.S_IFLNK:
		to, err := os.Readlink(e.path())
		if err != nil {
			return false, err
		}
		other, err := os.Readlink(e.lowPath())
		return to == other, err
	default:
		return a.Rdev == b.Rdev, nil
	}
}

// sameContent compares two files of one size.
func (n *normalizer) sameContent(e *entry) (bool, error) {
	a, err := os.Open(e.path())
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(e.lowPath())
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		if err := n.ctx.Err(); err != nil {
			return false, err
		}
		k, err := io.ReadFull(a, x)
		l, lerr := io.ReadFull(b, y)
		if !bytes.Equal(x[:k], y[:l]) {
			return false, nil
		}
		if err == nil && lerr == nil {
			continue
		}
		for _, err := range []error{err, lerr} {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		return true, nil
	}
}
