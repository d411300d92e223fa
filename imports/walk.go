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

// A walk reads one tree, in two rounds. The first looks at all folders: it learns
// what stat tells. If that is what it was the last time, so is the tree. Otherwise
// the second makes the manifest, and reads what the index does not know.
//
// Workers take jobs from one stack: a folder to be looked at or to be written down,
// or files of one folder to be hashed. The last job on the stack is taken first, so
// few folders are open at a time.
type walk struct {
	ctx     context.Context
	src     Source
	root    int // the root folder
	index   *statIndex
	filters *filters    // nil means all
	avoid   []forbidden // what is left out, wherever it is met
	started time.Time
	device  uint64 // of the root folder

	failed atomic.Bool // err is set
	young  atomic.Bool // something may change without stat telling

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
	added []record

	noted      uint64 // the device of the last file that was noted
	keepsCtime bool   // what keepsCtime says of it
}

// A looked is a folder, and what stat tells of what is in it.
type looked struct {
	folder
	path  string // below the root
	stamp stamp
	self  status
	names names // sorted, without what is ignored
	seen  []status
	below []*looked // the folders in it, in the order of names
	sum   [sha256.Size]byte
	spare bool // no filter picks it: it is there for what is in it
}

// An unreadFile is a file whose content is not known yet.
type unreadFile struct {
	entry   Entry
	stamp   stamp
	at, end int // its line in the folder's text
}

// An openDir is a folder whose descriptor is closed after its last job.
type openDir struct {
	*looked
	fd    int
	users atomic.Int32

	mu sync.Mutex // of folder.inserts
}

func (d *openDir) done() {
	if d.users.Add(-1) == 0 {
		unix.Close(d.fd)
		slices.SortFunc(d.inserts, func(a, b insert) int { return cmp.Compare(a.at, b.at) })
	}
}

func newWalk(ctx context.Context, src Source, root int, index *statIndex, avoid []forbidden) *walk {
	w := &walk{ctx: ctx, src: src, root: root, index: index, avoid: avoid, started: time.Now()}
	w.wake = sync.NewCond(&w.mu)
	return w
}

// look is the first round.
func (w *walk) look(root *stamp) (*looked, error) {
	w.device = root.dev
	if !keepsCtime(w.root) {
		w.young.Store(true)
	}
	top := &looked{path: "."}
	return top, w.run(func(wr *walker) { wr.look(top, w.src.ignoring()) })
}

// sum is the digest of all that stat tells of the tree, or false if that may stay
// as it is when the tree changes.
func (w *walk) sum(top *looked) (sum [sha256.Size]byte, ok bool) {
	if w.index == nil || w.young.Load() {
		return sum, false
	}
	h := sha256.New()
	var add func(l *looked)
	add = func(l *looked) {
		h.Write(l.sum[:])
		for _, below := range l.below {
			add(below)
		}
	}
	add(top)
	h.Sum(sum[:0])
	return sum, true
}

// read is the second round. What it learned goes to the stat index even when it
// fails.
func (w *walk) read(top *looked) error {
	err := w.run(func(wr *walker) { wr.write(top) })
	w.index.add(w.added)
	return err
}

// run works until the first job and all that come of it are done.
func (w *walk) run(first func(*walker)) error {
	stop := context.AfterFunc(w.ctx, func() { w.fail(context.Cause(w.ctx)) })
	defer stop()
	w.push(first)
	var group sync.WaitGroup
	for range min(4*runtime.GOMAXPROCS(0), 32) {
		group.Go(w.work)
	}
	group.Wait()
	slices.Sort(w.skipped)
	return w.err
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

// look looks at a folder, and queues those in it. The rules are those of the folder
// above.
func (w *walker) look(l *looked, ig *ignoring) {
	if w.failed.Load() {
		return
	}
	fd, err := openBeneath(w.root, l.path)
	if err == nil {
		ig, err = w.list(fd, l, ig)
		unix.Close(fd)
	}
	if err != nil {
		w.fail(w.problem(l.path, err))
		return
	}
	w.count(l)
	jobs := make([]func(*walker), len(l.below))
	for i, below := range l.below {
		jobs[i] = func(w *walker) { w.look(below, ig) }
	}
	w.push(jobs...)
}

// list looks at all that is in an open folder and not ignored, and returns the
// rules that hold in it.
func (w *walker) list(fd int, l *looked, ig *ignoring) (*ignoring, error) {
	before, err := statFd(fd)
	if err != nil {
		return nil, err
	}
	l.stamp, l.self = before.stamp, before
	if l.names, err = w.names.list(fd); err != nil {
		return nil, err
	}
	if ig != nil && l.names.have(IgnoreFile) {
		if ig, err = ig.below(fd, l.path); err != nil {
			return nil, err
		}
	}
	l.seen = make([]status, l.names.len())
	if err := w.statAll(fd, l); err != nil {
		return nil, err
	}
	if after, err := statFd(fd); err != nil || after.stamp != before.stamp {
		return nil, errors.Join(err, &ChangedError{w.name(l.path)})
	}
	return ig, w.drop(l, ig)
}

// drop leaves out what is ignored, what no filter picks, and what the build itself
// writes.
func (w *walk) drop(l *looked, ig *ignoring) error {
	if ig == nil && w.filters == nil && len(w.avoid) == 0 {
		return nil
	}
	kept := 0
	for i := range l.seen {
		p := join(l.path, l.names.get(i))
		if w.avoids(&l.seen[i].stamp) || ig.ignores(p, l.seen[i].isDir()) {
			continue
		}
		picked, err := w.filters.picks(p)
		if err != nil {
			return err
		}
		if picked || l.seen[i].isDir() && w.filters.mayPickBelow() {
			l.seen[kept], l.names.at[kept] = l.seen[i], l.names.at[i]
			kept++
		}
	}
	l.seen, l.names.at = l.seen[:kept], l.names.at[:kept]
	return nil
}

// avoids reports whether a file is one of those that the build writes.
func (w *walk) avoids(st *stamp) bool {
	return slices.ContainsFunc(w.avoid, func(f forbidden) bool { return f.ino == st.ino && f.dev == st.dev })
}

// statAll looks at all entries of a folder.
func (w *walker) statAll(fd int, l *looked) error {
	var group sync.WaitGroup
	var first atomic.Pointer[error]
	for lo := 0; lo < len(l.seen); lo += statBatch {
		part := func() {
			for i := lo; i < min(lo+statBatch, len(l.seen)); i++ {
				if err := statAt(fd, l.names.ptr(i), 0, &l.seen[i]); err != nil {
					err = w.problem(join(l.path, l.names.get(i)), err)
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		}
		if len(l.seen) <= statBatch {
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

// count sums up what was seen in a folder, and finds the folders in it.
func (w *walker) count(l *looked) {
	files, size := 0, int64(0)
	var sockets []string
	young := w.isYoung(&l.stamp)
	w.text = l.stamp.append(w.text[:0])
	for i := range l.seen {
		st := &l.seen[i]
		young = young || w.isYoung(&st.stamp)
		w.text = append(w.text, l.names.get(i)...)
		w.text = st.append(append(w.text, 0))
		switch st.kind() {
		case File:
			files, size = files+1, size+st.size
		case Dir:
			p := join(l.path, l.names.get(i))
			picked, _ := w.filters.picks(p) // drop has asked before
			l.below = append(l.below, &looked{path: p, spare: !picked})
		case 0:
			sockets = append(sockets, join(l.path, l.names.get(i)))
		}
	}
	l.sum = sha256.Sum256(w.text)
	if young {
		w.young.Store(true)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files += files
	w.size += size
	w.skipped = append(w.skipped, sockets...)
}

// isYoung tells whether a file may change without its stamp showing it.
func (w *walk) isYoung(st *stamp) bool { return st.dev != w.device || racy(st, w.started) }

// write writes down a folder, and queues those in it and what must be read.
func (w *walker) write(l *looked) {
	if w.failed.Load() {
		return
	}
	fd, err := openBeneath(w.root, l.path)
	if err != nil {
		w.fail(w.problem(l.path, err))
		return
	}
	d := &openDir{looked: l, fd: fd}
	d.users.Store(1)
	defer d.done()
	if err := w.lines(d); err != nil {
		w.fail(w.problem(l.path, err))
	}
}

// lines writes the lines of d. Hashes of files that the index does not know, and
// what lies in folders, are left to the jobs that it queues.
func (w *walker) lines(d *openDir) error {
	if err := w.still(d); err != nil {
		return err
	}
	self := Entry{Type: Dir, Mode: w.mode(&d.stamp), Owner: w.owner(&d.self)}
	var err error
	if self.Xattrs, err = (xattrFile{fd: d.fd}).read(w.acl()); err != nil {
		return err
	}
	if d.path == "." && w.src.Content {
		self.Mode, self.Xattrs, self.Owner = 0o755, nil, nil
	}
	w.text = appendEntry(w.text[:0], &self, path.Base(d.path))
	var todo []unreadFile
	var jobs []func(*walker)
	for i, folders := 0, d.below; i < len(d.seen); i++ {
		e := Entry{Path: d.names.get(i)}
		known, err := w.entry(d, &d.seen[i], &e)
		at := len(w.text)
		switch {
		case err != nil:
			return named(w.name(join(d.path, e.Path)), err)
		case e.Type == 0: // a socket
		case e.Type == Dir:
			below := folders[0]
			folders = folders[1:]
			d.inserts = append(d.inserts, insert{at: at, end: at, folder: &below.folder})
			jobs = append(jobs, func(w *walker) { w.write(below) })
		default:
			w.text = appendEntry(w.text, &e, e.Path)
			if !known {
				todo = append(todo, unreadFile{e, d.seen[i].stamp, at, len(w.text)})
			}
		}
	}
	if err := w.still(d); err != nil {
		return err
	}
	w.text = append(w.text, "..\n"...)
	d.text, d.seen, d.names = bytes.Clone(w.text), nil, names{}
	for batch := range slices.Chunk(todo, hashBatch) {
		d.users.Add(1)
		jobs = append(jobs, func(w *walker) { w.unread(d, batch) })
	}
	w.push(jobs...)
	return nil
}

// still fails when a folder is no longer what it was when it was looked at: then
// neither may be what is in it.
func (w *walk) still(d *openDir) error {
	if now, err := statFd(d.fd); err != nil || now.stamp != d.stamp {
		return errors.Join(err, &ChangedError{w.name(d.path)})
	}
	return nil
}

// entry learns what it can of one entry without reading its content; it is false
// for a file whose content must be read.
func (w *walk) entry(d *openDir, st *status, e *Entry) (known bool, err error) {
	e.Type, e.Owner = st.kind(), w.owner(st)
	switch e.Type {
	case 0, Dir:
		return true, nil
	case File:
		e.Size, e.Mode = st.size, w.mode(&st.stamp)
		r, ok := w.index.find(&st.stamp)
		if !ok || w.src.Reread {
			return false, nil
		}
		if e.Sum = r.sum(); !r.hasXattrs() {
			return true, nil
		}
	case Symlink:
		e.Mode = 0o777
		e.Link, err = readLink(d.fd, e.Path)
		return true, err // no attribute that counts has an effect on a symlink (xattr(7))
	case Char, Block:
		e.Major, e.Minor = st.major, st.minor
	}
	e.Mode = w.mode(&st.stamp)
	e.Xattrs, err = xattrFile{path: procPath(d.fd, e.Path)}.read(w.acl())
	return true, err
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
	size, err := w.hashFile(fd, &e.Sum)
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

// hashFile hashes an open file from its beginning.
func (w *walker) hashFile(fd int, sum *[sha256.Size]byte) (size int64, err error) {
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

// owner returns the owner of a file if owners count.
func (w *walk) owner(st *status) *Owner {
	if !w.src.Owners {
		return nil
	}
	return &Owner{st.uid, st.gid}
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
