package imports

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	files   int   // regular files
	size    int64 // their bytes
	skipped []string
	added   []record
}

// A walker is one worker's own memory.
type walker struct {
	*walk
	buf   []byte
	text  []byte
	hash  hash.Hash
	names lister
	seen  []looked
	added []record

	device     uint64 // of the last file that was noted
	keepsCtime bool   // what keepsCtime says of it
}

// A looked is what is known of an entry without having read it.
type looked struct {
	status
	entry Entry // Type is 0 for a socket; Size is sizeUnknown when the content must be read
}

// An unreadFile is a file whose content is not known yet.
type unreadFile struct {
	entry   Entry
	stamp   stamp
	at, end int // its line in the folder's text
}

// An openDir is a folder whose descriptor is closed after its last job.
type openDir struct {
	*folder
	fd    int
	path  string // below the root
	ig    *ignoring
	users atomic.Int32

	mu sync.Mutex // of folder.inserts
}

func (d *openDir) done() {
	if d.users.Add(-1) == 0 {
		unix.Close(d.fd)
		slices.SortFunc(d.inserts, func(a, b insert) int { return cmp.Compare(a.at, b.at) })
	}
}

// walkTree reads the tree below the open folder root. It returns what it
// learned for the stat index even when it fails.
func walkTree(ctx context.Context, src Source, root int, index *statIndex, avoid []forbidden) (*folder, *walk, error) {
	w := &walk{ctx: ctx, src: src, root: root, index: index, avoid: avoid}
	w.wake = sync.NewCond(&w.mu)
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()

	f := &folder{}
	w.push(func(wr *walker) { wr.folder(".", f, src.ignoring()) })
	var group sync.WaitGroup
	for range min(4*runtime.GOMAXPROCS(0), 32) {
		group.Go(w.work)
	}
	group.Wait()
	if w.err != nil {
		return nil, w, w.err
	}
	slices.Sort(w.skipped)
	return f, w, nil
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
	wr.names.buf = wr.buf
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

// folder reads the folder at p into f, and queues what is in it. The rules are
// those of the folder above.
func (w *walker) folder(p string, f *folder, ig *ignoring) {
	if w.failed.Load() {
		return
	}
	fd, err := openBeneath(w.root, p)
	if err != nil {
		w.fail(w.problem(p, err))
		return
	}
	d := &openDir{folder: f, fd: fd, path: p, ig: ig}
	d.users.Store(1)
	defer d.done()
	if err := w.list(d); err != nil {
		w.fail(w.problem(p, err))
	}
}

// list writes the lines of d. Hashes of files that the index does not know, and
// what lies in folders, are left to the jobs that it queues.
func (w *walker) list(d *openDir) error {
	before, err := statFd(d.fd)
	if err != nil {
		return err
	}
	for _, f := range w.avoid {
		if f.ino == before.ino && f.dev == before.dev {
			return f.contained(w.src.Path)
		}
	}
	self := Entry{Type: Dir, Mode: w.mode(&before.stamp)}
	if self.Xattrs, err = (xattrFile{fd: d.fd}).read(w.acl()); err != nil {
		return err
	}
	if d.path == "." && w.src.Content {
		self.Mode, self.Xattrs = 0o755, nil
	}
	names, err := w.names.list(d.fd)
	if err != nil {
		return err
	}
	if d.ig != nil && names.have(IgnoreFile) {
		if d.ig, err = d.ig.below(d.fd, d.path); err != nil {
			return err
		}
	}
	w.seen = slices.Grow(w.seen[:0], names.len())[:names.len()]
	if err := w.lookAll(d, names, w.seen); err != nil {
		return err
	}
	if after, err := statFd(d.fd); err != nil || after.stamp != before.stamp {
		return errors.Join(err, &ChangedError{w.name(d.path)})
	}
	w.text = appendEntry(w.text[:0], &self, path.Base(d.path))
	w.queue(d, w.seen)
	return nil
}

// lookAll looks at all entries of d.
func (w *walker) lookAll(d *openDir, names names, seen []looked) error {
	var group sync.WaitGroup
	var first atomic.Pointer[error]
	for lo := 0; lo < len(seen); lo += statBatch {
		part := func() {
			for i := lo; i < min(lo+statBatch, len(seen)); i++ {
				seen[i].entry = Entry{Path: names.get(i)}
				if err := w.look(d, names.ptr(i), &seen[i]); err != nil {
					err = w.problem(join(d.path, names.get(i)), err)
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		}
		if len(seen) <= statBatch {
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

// sizeUnknown is the size of a File whose content is not known yet.
const sizeUnknown = -1

// look learns what it can of one entry without reading its content.
func (w *walk) look(d *openDir, name *byte, l *looked) (err error) {
	if err := statAt(d.fd, name, 0, &l.status); err != nil {
		return err
	}
	e := &l.entry
	e.Type = l.kind()
	switch e.Type {
	case 0, Dir:
		return nil
	case File:
		e.Size = sizeUnknown
		if r, ok := w.index.find(&l.stamp); ok {
			e.Size, e.Sum, e.Mode = l.size, r.sum(), w.mode(&l.stamp)
			if r.hasXattrs() {
				e.Xattrs, err = xattrFile{path: procPath(d.fd, e.Path)}.read(w.acl())
			}
		}
		return err
	case Symlink:
		e.Mode = 0o777
		e.Link, err = readLink(d.fd, e.Path)
		return err // no attribute that counts has an effect on a symlink (xattr(7))
	case Char, Block:
		e.Major, e.Minor = l.major, l.minor
	}
	e.Mode = w.mode(&l.stamp)
	e.Xattrs, err = xattrFile{path: procPath(d.fd, e.Path)}.read(w.acl())
	return err
}

// queue writes the lines of what was seen in d, and queues the work that is left.
func (w *walker) queue(d *openDir, seen []looked) {
	var jobs []func(*walker)
	var todo []unreadFile
	var sockets []string
	files, size := 0, int64(0)
	for i := range seen {
		l := &seen[i]
		e := &l.entry
		if d.ig != nil && d.ig.ignores(join(d.path, e.Path), e.Type == Dir) {
			continue
		}
		at := len(w.text)
		switch e.Type {
		case 0:
			sockets = append(sockets, join(d.path, e.Path))
			continue
		case Dir:
			p, f := join(d.path, e.Path), &folder{}
			d.inserts = append(d.inserts, insert{at: at, end: at, folder: f})
			jobs = append(jobs, func(w *walker) { w.folder(p, f, d.ig) })
			continue
		case File:
			files, size = files+1, size+l.size
			if e.Size == sizeUnknown {
				e.Size, e.Mode = l.size, w.mode(&l.stamp)
				w.text = appendEntry(w.text, e, e.Path)
				todo = append(todo, unreadFile{*e, l.stamp, at, len(w.text)})
				continue
			}
		}
		w.text = appendEntry(w.text, e, e.Path)
	}
	w.text = append(w.text, "..\n"...)
	d.text = bytes.Clone(w.text)
	for batch := range slices.Chunk(todo, hashBatch) {
		d.users.Add(1)
		jobs = append(jobs, func(w *walker) { w.unread(d, batch) })
	}
	w.push(jobs...)
	w.mu.Lock()
	w.files += files
	w.size += size
	w.skipped = append(w.skipped, sockets...)
	w.mu.Unlock()
}

// unread reads files of d and completes their lines.
func (w *walker) unread(d *openDir, files []unreadFile) {
	defer d.done()
	for i := range files {
		if w.failed.Load() {
			return
		}
		f := &files[i]
		p := join(d.path, f.entry.Path)
		fd, err := unix.Openat(d.fd, f.entry.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			err = w.file(fd, p, &f.entry, &f.stamp)
			unix.Close(fd)
		}
		if err != nil {
			w.fail(w.problem(p, err))
			return
		}
		if len(f.entry.Xattrs) > 0 {
			d.mu.Lock()
			d.inserts = append(d.inserts, insert{at: f.at, end: f.end, line: appendEntry(nil, &f.entry, f.entry.Path)})
			d.mu.Unlock()
			continue
		}
		line := d.text[f.at:f.end]
		hex.Encode(line[bytes.Index(line, []byte(sumKey))+len(sumKey):], f.entry.Sum[:])
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
