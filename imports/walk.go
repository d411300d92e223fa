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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hashBatch is how many files of one folder are hashed by one job: so many
	// that a job is worth its cost, so few that all workers have some.
	hashBatch = 64

	// statBatch is how many files of one folder one goroutine looks at.
	statBatch = 4096

	copyBuffer = 128 << 10
)

// A walk reads one tree. Its workers take jobs from one stack: a folder to be
// listed, or files of one folder to be hashed. A folder's fd stays open as long
// as jobs need it; the last job on the stack is taken first, so few stay open.
type walk struct {
	ctx   context.Context
	src   Source
	root  int // the root folder
	index *statIndex
	avoid []forbidden // folders that may not be met

	failed atomic.Bool // err is set

	mu      sync.Mutex
	wake    *sync.Cond
	jobs    []func(*walker)
	running int // workers that may still push jobs
	err     error
	skipped []string
	added   []record
}

// A walker is one worker's own memory.
type walker struct {
	*walk
	buf   []byte
	hash  hash.Hash
	added []record

	device     uint64 // of the last file that was noted
	keepsCtime bool   // what keepsCtime says of it
}

// An openDir is a folder whose descriptor is closed after its last job.
type openDir struct {
	fd    int
	path  string // below the root
	ig    *ignoring
	users atomic.Int32
}

func (d *openDir) done() {
	if d.users.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// walkTree reads the tree below the open folder root. It returns what it
// learned for the stat index even when it fails.
func walkTree(ctx context.Context, src Source, root int, index *statIndex, avoid []forbidden) (*node, *walk, error) {
	w := &walk{ctx: ctx, src: src, root: root, index: index, avoid: avoid}
	w.wake = sync.NewCond(&w.mu)
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()

	n := &node{Entry: Entry{Path: ".", Type: Dir}}
	w.push(func(wr *walker) { wr.folder(".", n, src.ignoring()) })
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 16) {
		group.Go(w.work)
	}
	group.Wait()
	if w.err != nil {
		return nil, w, w.err
	}
	if src.Content {
		n.Mode, n.Xattrs = 0o755, nil
	}
	slices.Sort(w.skipped)
	return n, w, nil
}

func (w *walk) push(jobs ...func(*walker)) {
	if len(jobs) == 0 {
		return
	}
	w.mu.Lock()
	w.jobs = append(w.jobs, jobs...)
	w.mu.Unlock()
	w.wake.Broadcast()
}

// fail ends the walk. The first error is kept.
func (w *walk) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
		w.failed.Store(true)
	}
	w.mu.Unlock()
	w.wake.Broadcast()
}

// work takes jobs until there are none and none can come. After a failure the
// remaining jobs still run, to close what they hold, but do nothing else.
func (w *walk) work() {
	wr := &walker{walk: w, buf: make([]byte, copyBuffer), hash: sha256.New()}
	w.mu.Lock()
	for {
		for len(w.jobs) == 0 && w.running > 0 {
			w.wake.Wait()
		}
		if len(w.jobs) == 0 {
			break
		}
		job := w.jobs[len(w.jobs)-1]
		w.jobs = w.jobs[:len(w.jobs)-1]
		w.running++
		w.mu.Unlock()
		job(wr)
		w.mu.Lock()
		w.running--
	}
	w.added = append(w.added, wr.added...)
	w.mu.Unlock()
	w.wake.Broadcast()
}

// name is how messages call the file at a path below the root.
func (w *walk) name(p string) string { return path.Join(w.src.Path, p) }

// problem turns an error about the file at p into one that people understand.
func (w *walk) problem(p string, err error) error {
	switch {
	case gone(err):
		return &ChangedError{w.name(p)}
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%s: %w: allow more open files (ulimit -n)", w.name(p), err)
	}
	return named(w.name(p), err)
}

// folder reads the folder at p into n, and queues what is in it. The rules are
// those of the folder above.
func (w *walker) folder(p string, n *node, ig *ignoring) {
	if w.failed.Load() {
		return
	}
	fd, err := openBeneath(w.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		w.fail(w.problem(p, err))
		return
	}
	d := &openDir{fd: fd, path: p}
	d.users.Store(1)
	defer d.done()
	d.ig = ig
	if err := w.list(d, n); err != nil {
		w.fail(w.problem(p, err))
	}
}

// list reads the entries of d into n. Hashes of files that the index does not
// know, and what lies in folders, are left to the jobs that it queues.
func (w *walker) list(d *openDir, n *node) error {
	before, err := statFd(d.fd)
	if err != nil {
		return err
	}
	for _, f := range w.avoid {
		if f.ino == before.ino && f.dev == before.dev {
			return f.contained(w.src.Path)
		}
	}
	n.Mode = w.mode(&before.stamp)
	if n.Xattrs, err = (xattrFile{fd: d.fd}).read(w.acl()); err != nil {
		return err
	}
	started := time.Now()
	names, err := readNames(d.fd, w.buf)
	if err != nil {
		return err
	}
	kids := make([]node, names.len())
	stats := make([]status, len(kids))
	if d.ig != nil && names.have(IgnoreFile) {
		if d.ig, err = d.ig.below(d.fd, d.path); err != nil {
			return err
		}
	}
	if err := w.lookAll(d, names, kids, stats); err != nil {
		return err
	}
	if after, err := statFd(d.fd); err != nil || after.stamp != before.stamp {
		return errors.Join(err, &ChangedError{w.name(d.path)})
	}
	w.queue(d, n, kids, stats, started)
	return nil
}

// lookAll fills kids with what is known without reading files. What must still
// be hashed keeps a negative size; a socket keeps type 0.
func (w *walker) lookAll(d *openDir, names names, kids []node, stats []status) error {
	var group sync.WaitGroup
	var first atomic.Pointer[error]
	for lo := 0; lo < len(kids); lo += statBatch {
		part := func() {
			for i := lo; i < min(lo+statBatch, len(kids)); i++ {
				kids[i].Path = names.get(i)
				if err := w.look(d, names.ptr(i), &kids[i].Entry, &stats[i]); err != nil {
					err = w.problem(join(d.path, kids[i].Path), err)
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		}
		if len(kids) <= statBatch {
			part()
		} else {
			group.Go(part)
		}
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// unread is the size of a File whose content is not known yet.
const unread = -1

// look learns what it can of one entry without reading its content.
func (w *walker) look(d *openDir, name *byte, e *Entry, st *status) (err error) {
	if err := statAt(d.fd, name, 0, st); err != nil {
		return err
	}
	e.Type = st.kind()
	switch e.Type {
	case 0, Dir:
		return nil
	case File:
		e.Size = unread
		if r, ok := w.index.find(&st.stamp); ok {
			e.Size, e.Sum, e.Mode = st.size, r.sum(), w.mode(&st.stamp)
			if r.hasXattrs() {
				e.Xattrs, err = xattrFile{path: procPath(d.fd, e.Path)}.read(w.acl())
			}
		}
		return err
	case Symlink:
		e.Mode = 0o777
		e.Link, err = readLink(d.fd, e.Path)
		return err // Linux keeps no attribute that counts on a symlink
	}
	e.Mode, e.Major, e.Minor = w.mode(&st.stamp), st.major, st.minor
	if e.Type == Fifo {
		e.Major, e.Minor = 0, 0
	}
	e.Xattrs, err = xattrFile{path: procPath(d.fd, e.Path)}.read(w.acl())
	return err
}

// queue makes the entries of d known and queues the work that they need.
func (w *walker) queue(d *openDir, n *node, kids []node, stats []status, started time.Time) {
	var sockets []string
	kept := 0
	for i := range kids {
		if d.ig != nil && d.ig.ignores(join(d.path, kids[i].Path), kids[i].Type == Dir) {
			continue
		}
		if kids[i].Type == 0 {
			sockets = append(sockets, join(d.path, kids[i].Path))
			continue
		}
		kids[kept], stats[kept] = kids[i], stats[i]
		kept++
	}
	n.kids = kids[:kept]

	var jobs []func(*walker)
	var todo []int
	for i := range n.kids {
		k := &n.kids[i]
		switch {
		case k.Type == Dir:
			jobs = append(jobs, func(w *walker) { w.folder(join(d.path, k.Path), k, d.ig) })
		case k.Type == File && k.Size == unread:
			todo = append(todo, i)
		}
	}
	for batch := range slices.Chunk(todo, hashBatch) {
		d.users.Add(1)
		jobs = append(jobs, func(w *walker) { w.files(d, n.kids, stats, batch) })
	}
	w.push(jobs...)
	if len(sockets) > 0 {
		w.mu.Lock()
		w.skipped = append(w.skipped, sockets...)
		w.mu.Unlock()
	}
}

// files hashes the files kids[i] of d, for each i of batch.
func (w *walker) files(d *openDir, kids []node, stats []status, batch []int) {
	defer d.done()
	for _, i := range batch {
		if w.failed.Load() {
			return
		}
		k := &kids[i]
		p := join(d.path, k.Path)
		fd, err := unix.Openat(d.fd, k.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			err = w.file(fd, p, &k.Entry, &stats[i].stamp)
			unix.Close(fd)
		}
		if err != nil {
			w.fail(w.problem(p, err))
			return
		}
	}
}

// file reads an open file into e. Its stamp must be want before and after.
func (w *walker) file(fd int, p string, e *Entry, want *stamp) error {
	now := time.Now()
	st, err := statFd(fd)
	if err != nil {
		return err
	}
	if st.stamp != *want {
		return &ChangedError{w.name(p)}
	}
	size, err := w.sum(fd, &e.Sum)
	if err != nil {
		return err
	}
	if e.Xattrs, err = (xattrFile{fd: fd}).read(true); err != nil {
		return err
	}
	st, err = statFd(fd)
	if err != nil {
		return err
	}
	if st.stamp != *want || size != st.size {
		return &ChangedError{w.name(p)}
	}
	w.note(fd, &st.stamp, e, now)
	if !w.acl() {
		e.Xattrs = slices.DeleteFunc(e.Xattrs, func(x Xattr) bool { return !countedXattr(x.Name, false) })
	}
	e.Mode, e.Size = w.mode(&st.stamp), size
	return nil
}

// sum hashes an open file from its beginning.
func (w *walker) sum(fd int, sum *[sha256.Size]byte) (size int64, err error) {
	w.hash.Reset()
	for {
		n, err := readAt(fd, w.buf, size)
		if err == io.EOF {
			w.hash.Sum(sum[:0])
			return size, nil
		}
		if err != nil {
			return size, err
		}
		if w.ctx.Err() != nil {
			return size, context.Cause(w.ctx)
		}
		w.hash.Write(w.buf[:n])
		size += int64(n)
	}
}

// acl reports whether ACLs count.
func (w *walk) acl() bool { return w.src.Normalize != NormalizeGit }

// mode returns the mode that counts of a file that is no symlink.
func (w *walk) mode(st *stamp) uint32 {
	switch {
	case w.src.Normalize != NormalizeGit:
		return st.mode & 0o7777
	case st.isDir(), st.isRegular() && st.mode&0o100 != 0:
		return 0o755
	}
	return 0o644
}

// readLink returns the target of the symlink name in an open folder.
func readLink(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			if errors.Is(err, unix.EINVAL) {
				err = unix.ESTALE // no symlink any more
			}
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}
