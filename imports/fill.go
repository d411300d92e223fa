package imports

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// A fill makes entries of a tree below a folder. Everything but the content of
// files comes from the entries; content comes from a source, and is hashed while
// it is copied: what comes out is what the entries say, or a ChangedError.
type fill struct {
	src    Source
	source int // the source's open folder, or file when it is one

	root int    // open folder in which symlinks of paths are resolved
	at   string // path in root of the tree's root
	// share is an open folder whose files are linked instead of copied, except at
	// the paths in differs; or -1.
	share   int
	differs map[string]bool

	uid, gid int               // where the entry has no owner
	mode     *uint32           // of files, instead of their own
	modeAll  bool              // of folders, too
	on       *inroot.NewFolder // what folders on the way are like that are made
	mtime    time.Time
	replace  bool // files, links and devices that are there already
	outside  *outside
}

// A group is entries of one folder that are no folders.
type group struct {
	dir     string
	entries []*Entry
}

// fillBatch is how many entries of one folder one job makes.
const fillBatch = 256

// run makes the entries, each folder of which comes before what lies in it.
// Folders that are there keep what they have. The metadata of folders is set in
// the end; also of those in settle, which are there already.
func (f *fill) run(ctx context.Context, entries []Entry, settle []*Entry) error {
	if len(entries) == 1 && entries[0].Path == "." && entries[0].Type == File {
		return f.one(&entries[0])
	}
	var dirs []*Entry
	groups := map[string]*group{}
	var order []*group
	for i := range entries {
		e := &entries[i]
		if e.Type == Dir {
			dirs = append(dirs, e)
			continue
		}
		dir := path.Dir(e.Path)
		g := groups[dir]
		if g == nil || len(g.entries) == fillBatch {
			g = &group{dir: dir}
			groups[dir] = g
			order = append(order, g)
		}
		g.entries = append(g.entries, e)
	}
	if err := f.makeDirs(ctx, dirs); err != nil {
		return err
	}
	if err := f.groups(ctx, order); err != nil {
		return err
	}
	return f.settle(append(dirs, settle...))
}

// one makes a tree that is a file.
func (f *fill) one(e *Entry) error {
	to, err := inroot.WalkFolder(f.root, path.Dir(f.at), nil)
	if err != nil {
		return f.problem(".", err)
	}
	defer unix.Close(to)
	c := copier{fill: f, buf: make([]byte, copyBuffer), hash: sha256.New(), from: -1, share: -1}
	if err := c.entry(to, path.Base(f.at), e); err != nil {
		return f.problem(".", err)
	}
	return nil
}

// in returns the path in the root of a path in the tree.
func (f *fill) in(p string) string { return path.Join(f.at, p) }

func (f *fill) makeDirs(ctx context.Context, dirs []*Entry) error {
	parent, at := "", -1 // the last folder, which mostly serves for the next, too
	defer func() { closeFd(at) }()
	for _, e := range dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Path == "." {
			continue // who calls run has made it
		}
		if dir := path.Dir(e.Path); at < 0 || dir != parent {
			closeFd(at)
			var err error
			if at, err = inroot.WalkFolder(f.root, f.in(dir), nil); err != nil {
				return f.problem(dir, err)
			}
			parent = dir
		}
		err := (&inroot.NewFolder{Mode: 0o700}).Make(at, path.Base(e.Path))
		if errors.Is(err, unix.EEXIST) {
			err = f.existingDir(e.Path)
		}
		if err != nil {
			return f.problem(e.Path, err)
		}
	}
	return nil
}

// existingDir accepts what is at p already if it is a folder, or a symlink to one or to where
// one can be made; outside of an image a folder takes a symlink's place.
func (f *fill) existingDir(p string) error {
	if f.outside != nil {
		if err := f.dropLink(f.in(p)); err != nil {
			return err
		}
	}
	missing := inroot.PlainFolder()
	if f.on != nil {
		missing.Mtime = f.on.Mtime
	}
	fd, err := inroot.WalkFolder(f.root, f.in(p), missing)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// settle sets mode, owner, attributes and time of folders, those below others first.
func (f *fill) settle(dirs []*Entry) error {
	slices.SortFunc(dirs, func(a, b *Entry) int { return comparePaths(b.Path, a.Path) })
	for _, e := range dirs {
		fd, err := inroot.WalkFolder(f.root, f.in(e.Path), nil)
		if err == nil {
			mode := e.Mode
			if f.modeAll && f.mode != nil {
				mode = *f.mode
			}
			err = f.dress(fd, e, mode)
			unix.Close(fd)
		}
		if err != nil {
			return f.problem(e.Path, err)
		}
	}
	return nil
}

// groups makes the entries of groups, several at once.
func (f *fill) groups(ctx context.Context, groups []*group) error {
	var next atomic.Int64
	jobs, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), 16) {
		jobs.Go(func() error {
			c := copier{fill: f, buf: make([]byte, copyBuffer), hash: sha256.New()}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(groups) {
					return nil
				}
				if err := c.group(ctx, groups[i]); err != nil {
					return err
				}
			}
		})
	}
	return jobs.Wait()
}

// problem names the file of an error: by its source, or where it should come to.
func (f *fill) problem(p string, err error) error {
	from, to, in := path.Join(f.src.Path, p), path.Join("/", f.in(p)), " in the image"
	if f.outside != nil {
		to, in = path.Join(f.outside.where, to), ""
	}
	var changed *ChangedError
	switch {
	case errors.As(err, &changed), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, unix.EISDIR):
		return fmt.Errorf("%s is a folder%s: %s cannot replace it", to, in, from)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s is no folder%s: %s cannot go there", to, in, from)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("copying %s: %w: this file needs a build as root", from, err)
	}
	return fmt.Errorf("copying %s: %w", from, err)
}

// A copier makes entries, of one folder at a time.
type copier struct {
	*fill
	buf   []byte
	hash  hash.Hash
	from  int // the folder in the source, once a file of it is needed
	share int // the folder in fill.share, once a file of it is needed
}

// group makes entries of one folder.
func (c *copier) group(ctx context.Context, g *group) error {
	to, err := inroot.WalkFolder(c.root, c.in(g.dir), nil)
	if err != nil {
		return c.problem(g.dir, err)
	}
	defer unix.Close(to)
	c.from, c.share = -1, -1
	defer func() {
		closeFd(c.from)
		closeFd(c.share)
	}()
	for _, e := range g.entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.entry(to, path.Base(e.Path), e); err != nil {
			return c.problem(e.Path, err)
		}
	}
	return nil
}

func closeFd(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// entry makes e under a name in an open folder.
func (c *copier) entry(to int, name string, e *Entry) error {
	if c.replace {
		if err := unix.Unlinkat(to, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err // EISDIR for a folder
		}
	}
	switch e.Type {
	case File:
		return c.file(to, name, e)
	case Symlink:
		if err := unix.Symlinkat(e.Link, to, name); err != nil {
			return err
		}
	case Fifo:
		if err := unix.Mknodat(to, name, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case Char, Block:
		kind := uint32(unix.S_IFCHR)
		if e.Type == Block {
			kind = unix.S_IFBLK
		}
		if err := unix.Mknodat(to, name, kind|0o600, int(unix.Mkdev(e.Major, e.Minor))); err != nil {
			return err
		}
	}
	return c.dressAt(to, name, e)
}

// dressAt gives what is no file and no folder its metadata.
func (c *copier) dressAt(to int, name string, e *Entry) error {
	if err := unix.Fchownat(to, name, c.owner(e).UID, c.owner(e).GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if e.Type != Symlink {
		if err := unix.Fchmodat(to, name, e.Mode, 0); err != nil {
			return err
		}
		for _, x := range e.Xattrs {
			if err := unix.Lsetxattr(procPath(to, name), x.Name, []byte(x.Value), 0); err != nil {
				return fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
		}
	}
	return unix.UtimesNanoAt(to, name, c.times(), unix.AT_SYMLINK_NOFOLLOW)
}

// owner returns whose an entry becomes.
func (f *fill) owner(e *Entry) inroot.NewFolder {
	if e.Owner != nil {
		return inroot.NewFolder{UID: int(e.Owner.UID), GID: int(e.Owner.GID)}
	}
	return inroot.NewFolder{UID: f.uid, GID: f.gid}
}

func (f *fill) times() []unix.Timespec {
	t := unix.NsecToTimespec(f.mtime.UnixNano())
	return []unix.Timespec{t, t}
}

// dress gives an open file or folder its metadata. The order matters: changing
// the owner drops setuid bits and capabilities, and an ACL changes the mode.
func (f *fill) dress(fd int, e *Entry, mode uint32) error {
	owner := f.owner(e)
	if err := unix.Fchown(fd, owner.UID, owner.GID); err != nil {
		return err
	}
	for _, x := range e.Xattrs {
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", x.Name, err)
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	t := f.times()
	return futimens(fd, t)
}

// file makes a regular file: by a link to an equal one, or by copying it.
func (c *copier) file(to int, name string, e *Entry) error {
	if c.fill.share >= 0 && !c.differs[e.Path] {
		if err := c.link(to, name, e); err == nil {
			return nil
		}
		// Too many links, or not there after all: copy.
	}
	in, err := c.open(e)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := c.create(in, to, name, c.in(e.Path))
	if err != nil || out < 0 {
		return err
	}
	defer unix.Close(out)
	if err := c.content(in, out, e); err != nil {
		return err
	}
	mode := e.Mode
	if c.mode != nil {
		mode = *c.mode
	}
	return c.dress(out, e, mode)
}

// create makes an empty file for the content of the file in, at p below the root. It returns
// -1 where a hard link was made instead.
func (f *fill) create(in, to int, name, p string) (out int, err error) {
	if f.outside != nil {
		f.outside.mu.Lock()
		defer f.outside.mu.Unlock()
		if linked, err := f.hardlink(in, to, name, p); linked || err != nil {
			return -1, err
		}
	}
	return unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
}

// link links to the equal file at the same path of the shared tree.
func (c *copier) link(to int, name string, e *Entry) (err error) {
	if c.share < 0 {
		if c.share, err = openBeneath(c.fill.share, path.Dir(e.Path)); err != nil {
			return err
		}
	}
	return unix.Linkat(c.share, name, to, name, 0)
}

// open opens the file in the source that e is about. It must be a file of that
// size; what it contains shows when it is copied.
func (c *copier) open(e *Entry) (fd int, err error) {
	if e.Path == "." {
		fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", c.source), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	} else {
		if c.from < 0 {
			c.from, err = openBeneath(c.source, path.Dir(e.Path))
		}
		if err == nil {
			fd, err = unix.Openat(c.from, path.Base(e.Path), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		}
	}
	if err == nil {
		var st status
		if st, err = statFd(fd); err == nil && st.isRegular() && st.size == e.Size {
			return fd, nil
		}
		unix.Close(fd)
	}
	if err == nil || gone(err) {
		err = c.changed(e)
	}
	return -1, err
}

func (c *copier) changed(e *Entry) error {
	return &ChangedError{path.Join(c.src.Path, e.Path)}
}

// content copies a file of e's size and checks that it is e's content. Holes
// are neither read nor written.
func (c *copier) content(in, out int, e *Entry) error {
	c.hash.Reset()
	for off := int64(0); off < e.Size; {
		data, end, err := extent(in, off, e.Size)
		if err != nil {
			return err
		}
		c.zeros(data - off)
		for off = data; off < end; {
			n, err := readAt(in, c.buf[:min(int64(len(c.buf)), end-off)], off)
			if err == io.EOF {
				return c.changed(e) // it became shorter
			}
			if err != nil {
				return err
			}
			c.hash.Write(c.buf[:n])
			if err := writeAt(out, c.buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	var sum [sha256.Size]byte
	if c.hash.Sum(sum[:0]); sum != e.Sum {
		return c.changed(e)
	}
	if e.Size <= copyBuffer {
		return nil
	}
	return unix.Ftruncate(out, e.Size) // a hole at the end
}

// extent returns the next data of an open file from off on, at most to size.
// Small files are taken as they are.
func extent(fd int, off, size int64) (data, end int64, err error) {
	if size <= copyBuffer {
		return 0, size, nil
	}
	data, err = unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil // a hole to the end
	}
	if errors.Is(err, unix.EINVAL) {
		return off, size, nil // a filesystem that does not tell
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = unix.Seek(fd, data, unix.SEEK_HOLE)
	return min(data, size), min(end, size), err
}

// zeros hashes n zero bytes.
func (c *copier) zeros(n int64) {
	if n <= 0 {
		return
	}
	clear(c.buf)
	for ; n > 0; n -= min(n, int64(len(c.buf))) {
		c.hash.Write(c.buf[:min(n, int64(len(c.buf)))])
	}
}

// futimens sets the times of an open file.
func futimens(fd int, t []unix.Timespec) error {
	return unix.UtimesNanoAt(fd, "", t, unix.AT_EMPTY_PATH)
}
