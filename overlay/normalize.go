package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// Normalize makes the difference a function of two trees, the parents' and the
// result's, whatever happened in between. Call it between Unmount and Commit; it may
// be called again. What it leaves:
//
//   - No folder, file, symlink, device or fifo that equals the parents': of the same
//     owner, mode, extended attributes and content, and if it is no folder of the same
//     mtime. A file with several names is equal if they are names of one file in the
//     parents too. Content is compared last.
//   - A whiteout for each name of the parents that is gone, also where overlayfs marked
//     a folder as opaque because it was removed and made again. Only a folder that had
//     over manyNames names, none of which is left, is opaque. The whiteouts of a folder
//     are links to one file, with the mtime zero.
//   - Whole seconds as mtimes, not later than the epoch unless that is zero. A folder
//     that is there only for what is in it has the parents' mtime if they have the same
//     names in it, and otherwise the epoch.
//   - No leftovers: no mountpoints that were made for Mount and nothing was put in, no
//     sockets, no attributes of overlayfs's own.
//
// So a difference that was packed and unpacked again is the same, file by file. Folders
// are read once, several at a time.
func (m *Mutable) Normalize(ctx context.Context, epoch time.Time) (Diff, error) {
	m.epoch = "now"
	if !epoch.IsZero() {
		m.epoch = epoch.UTC().Format(time.RFC3339)
	}
	diff, err := m.normalize(ctx, &normalizer{epoch: epoch})
	if err != nil {
		return Diff{}, fmt.Errorf("normalize %s: %w", m.Upper(), err)
	}
	return diff, nil
}

// Shape gives what was unpacked the form that Commit would give it, and leaves files and times as they are.
func (m *Mutable) Shape(ctx context.Context) error {
	_, err := m.normalize(ctx, &normalizer{exact: true})
	return err
}

// manyNames is how many names a folder has at most whose removal is told by whiteouts.
// (A whiteout a name of 100,000 takes seconds to make and to list.)
const manyNames = 1000

func (m *Mutable) normalize(ctx context.Context, n *normalizer) (Diff, error) {
	if m.committed || m.point != "" || m.dir == "" {
		return Diff{}, errors.New("it is mounted, committed or dropped")
	}
	n.made, n.dir, n.slots = m.made, m.dir, make(chan struct{}, runtime.GOMAXPROCS(0)-1)
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
	n.links.scan = func() (map[inode]*link, error) { return scanLinks(n.ctx, up, low) }
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
	exact bool // leave all files and times as they are
	made  map[string]bool
	dir   string // beside the upper folder

	whiteouts atomic.Int64 // that were made

	links links

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
	hides   bool         // it is in an opaque folder: nothing of the parents is seen through it
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

func (e *entry) isFolder() bool { return isFolder(&e.st) }

func (e *entry) isWhiteout() bool { return isWhiteout(&e.st) }

func isFolder(st *unix.Stat_t) bool { return st != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR }

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func (e *entry) stat() error {
	if err := unix.Fstatat(int(e.up.Fd()), e.name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	e.below, err = statIn(e.low, e.name)
	return err
}

// statIn returns what is in a folder under a name: nil for nothing, also if there is no
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

// remains are what is left in a folder.
type remains struct {
	mu        sync.Mutex
	names     int
	new       bool // one of them is not the parents'
	whiteouts []*entry
}

// renamed reports whether the folder has other names than the parents have in it.
func (r *remains) renamed() bool { return r.new || len(r.whiteouts) > 0 }

func (r *remains) add(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names++
	if e.isWhiteout() {
		r.whiteouts = append(r.whiteouts, e)
	}
	r.new = r.new || e.below == nil
}

// root normalizes the whole, and reports whether it is empty.
func (n *normalizer) root(up, low *os.File) (empty bool, err error) {
	e := &entry{up: up, low: low, name: "."}
	if err := e.stat(); err != nil {
		return false, err
	}
	left, err := n.folder(e, up, low)
	if err != nil {
		return false, err
	}
	same, err := e.sameAttributes()
	if err != nil {
		return false, err
	}
	return same && left.names == 0, n.keepFolder(e, up, left, same)
}

// folder normalizes what is in the folder up, which is e. low is the same folder of the
// parents, or nil.
func (n *normalizer) folder(e *entry, up, low *os.File) (*remains, error) {
	left := &remains{}
	entries, err := n.entries(e, up, low)
	if err != nil {
		return left, n.check(e, err)
	}
	var others errgroup.Group
	for _, e := range entries {
		one := func() error {
			keep, err := n.one(e)
			if keep {
				left.add(e)
			}
			return n.check(e, err)
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
	return left, err
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

// one normalizes one entry, and reports whether it is left.
func (n *normalizer) one(e *entry) (keep bool, err error) {
	if e.isFolder() {
		return n.subfolder(e)
	}
	if keep, err = n.file(e); err != nil || !keep || e.isWhiteout() {
		return keep, err
	}
	return true, n.keep(e, n.clamp(e.st.Mtim))
}

// file normalizes anything but a folder.
func (n *normalizer) file(e *entry) (keep bool, err error) {
	switch kind := e.st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFREG && e.st.Size == 0 && n.made[e.rel]:
		return n.remove(e, 0)
	case e.isWhiteout():
		if e.below == nil {
			return n.remove(e, 0)
		}
		return true, nil
	case n.exact:
		return true, nil
	case kind == unix.S_IFSOCK:
		n.mu.Lock()
		n.sockets = append(n.sockets, "/"+e.rel)
		n.mu.Unlock()
		return n.remove(e, 0)
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
	var low *os.File
	if isFolder(e.below) {
		if low, err = openFolder(int(e.low.Fd()), e.name); err != nil {
			return false, err
		}
		defer low.Close()
	}
	left, err := n.folder(e, up, low)
	if err != nil {
		return true, err
	}
	if n.made[e.rel] && left.names == len(left.whiteouts) {
		for _, e := range left.whiteouts { // of what was removed with the folder that was here before
			if err := unix.Unlinkat(int(up.Fd()), e.name, 0); err != nil {
				return true, err
			}
		}
		return n.remove(e, unix.AT_REMOVEDIR)
	}
	same := false
	if !n.exact && low != nil {
		if same, err = e.sameAttributes(); err != nil {
			return true, err
		}
	}
	if same && left.names == 0 {
		return false, unix.Unlinkat(int(e.up.Fd()), e.name, unix.AT_REMOVEDIR)
	}
	return true, n.keepFolder(e, up, left, same)
}

// keepFolder gives a folder and the whiteouts in it their final attributes.
func (n *normalizer) keepFolder(e *entry, up *os.File, left *remains, same bool) error {
	if err := n.linkWhiteouts(up, left.whiteouts); err != nil {
		return err
	}
	return n.keep(e, n.folderTime(e, left, same))
}

// remove removes what has come into the upper folder and is no content. If the
// parents have something of that name, it was removed before this came, and it
// stays removed: keep reports the whiteout. It then is like any other new one.
func (n *normalizer) remove(e *entry, flags int) (keep bool, err error) {
	if err := unix.Unlinkat(int(e.up.Fd()), e.name, flags); err != nil || e.below == nil {
		return false, err
	}
	if err := n.whiteout(e.up, e.name, ""); err != nil {
		return false, err
	}
	return true, e.stat()
}

// folderTime is the mtime of a folder whose owner, mode and attributes are, if same, the
// parents'.
func (n *normalizer) folderTime(e *entry, left *remains, same bool) unix.Timespec {
	switch {
	case n.exact || !same || left.renamed() && n.epoch.IsZero():
		return n.clamp(e.st.Mtim)
	case left.renamed():
		return unix.Timespec{Sec: n.epoch.Unix()}
	}
	return n.clamp(e.below.Mtim)
}

// keep gives what is left its final attributes, and counts it.
func (n *normalizer) keep(e *entry, mtime unix.Timespec) error {
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
	if mtime != e.st.Mtim || e.isFolder() {
		if err := e.setTime(mtime); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.usage.add(&e.st)
	return nil
}

func (e *entry) setTime(mtime unix.Timespec) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	if err := unix.UtimesNanoAt(int(e.up.Fd()), e.name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set mtime: %w", err)
	}
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
